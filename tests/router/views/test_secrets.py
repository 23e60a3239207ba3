"""The page of stored secrets: values go in, errors stand beside their field, nothing comes out."""

from collections.abc import Callable

import pytest
from django.test import Client

from router.models import Secret
from router.services import secrets
from router.services.actors import Actor
from tests import factories

ClientFor = Callable[..., Client]
pytestmark = pytest.mark.django_db


def test_stores_replaces_and_removes(client_for: ClientFor) -> None:
    client = client_for("administrator")
    stored = client.post("/secrets/", {"name": "pacs", "value": "hunter2 "}, follow=True)
    assert "The secret pacs is stored." in stored.content.decode()
    assert secrets.reveal("pacs") == "hunter2 "
    replaced = client.post("/secrets/", {"name": "pacs", "value": "hunter3"}, follow=True)
    assert "is replaced" in replaced.content.decode()
    removed = client.post("/secrets/pacs/remove/", follow=True)
    assert "No secret is stored" in removed.content.decode()
    assert not Secret.objects.exists()


@pytest.mark.parametrize(
    ("data", "expectation"),
    [
        ({"name": "a b", "value": "x"}, "A name of 1 to 64 of A-Z a-z 0-9 _ - is expected."),
        ({"name": "", "value": "x"}, "This field is required."),
        ({"name": "pacs", "value": ""}, "This field is required."),
        ({"name": "pacs", "value": "hunter2\nhunter3"}, "One line of printable characters"),
    ],
)
def test_says_beside_the_field_what_is_expected(
    client_for: ClientFor, data: dict[str, str], expectation: str
) -> None:
    page = client_for("administrator").post("/secrets/", data).content.decode()
    assert expectation in page
    assert 'aria-invalid="true"' in page
    assert '_error"' in page
    assert "hunter" not in page
    assert not Secret.objects.exists()


def test_shows_who_names_one_and_keeps_it(client_for: ClientFor) -> None:
    secrets.put("pacs", "hunter2", actor=Actor("test"))
    factories.destination("cloud", settings={"password_stored": "pacs"})
    client = client_for("administrator")
    page = client.get("/secrets/").content.decode()
    assert '<a href="/destinations/cloud/">cloud</a>' in page
    assert "/secrets/pacs/remove/" not in page
    refused = client.post("/secrets/pacs/remove/", follow=True).content.decode()
    assert "still named by cloud" in refused
    assert secrets.reveal("pacs") == "hunter2"
    assert "pacs" in client.get("/destinations/cloud/").content.decode()
