"""Destinations on pages: form, errors, plan, apply, secrets that only go in, removing."""

import re
from typing import Any

import pytest
from django.test import Client

from router.destinations import KINDS
from router.models import ConfigRevision, Destination, ItemState, JobItem, Secret
from router.services import config, secrets, users
from router.services.actors import SYSTEM
from router.views import destination_fields
from tests import factories
from tests.deliveries import cleaned

pytestmark = pytest.mark.django_db
# Any in this module: the response of the test client, which has no public type.

NEW = "/destinations/~new/?kind="
PEER: dict[str, object] = {"host": "10.0.0.9", "port": 104, "ae_title": "PACS"}
WORD = "a password of the archive"

GOOD: dict[str, dict[str, str]] = {
    "dicom": {"host": "10.0.0.9", "port": "104", "ae_title": "PACS", "retry": "30s, 5m"},
    "folder": {"path": "/srv/out", "mode": "0600"},
    "s3": {"bucket": "images", "new_access_key": "AKIA", "new_secret_key": WORD,
           "tags": "site=north"},
    "stow": {"url": "https://pacs.example/dicom-web", "username": "u", "new_password": WORD},
    "webhook": {"url": "https://ris.example/hook", "new_secret": "whsec_" + "QUFB" * 8},
}  # fmt: skip


@pytest.fixture
def console(client: Client) -> Client:
    users.ensure_roles()
    client.force_login(factories.user(role="administrator"))
    return client


@pytest.fixture
def pacs() -> Destination:
    return factories.destination("pacs", settings=cleaned(PEER))


def _hidden(page: Any) -> dict[str, str]:
    """Return what the plan's page would send."""
    pattern = r'<input type="hidden" name="([^"]+)" value="([^"]*)">'
    found = dict(re.findall(pattern, page.content.decode()))
    found.pop("csrfmiddlewaretoken", None)
    return {
        key: value.replace("&quot;", '"').replace("&#x27;", "'") for key, value in found.items()
    }


def _put(console: Client, kind: str, **given: str) -> Any:
    """Fill in the form of a new destination and press apply on its plan."""
    page = console.post(NEW + kind, {"name": "far", "enabled": "true", **given})
    return console.post(NEW + kind, {**_hidden(page), "step": "apply", "reason": "new archive"})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_made_by_its_form(console: Client, kind: str) -> None:
    form = console.get(NEW + kind)
    assert form.status_code == 200
    assert all(f'name="{one}"' in form.content.decode() for one in KINDS[kind].form.base_fields)

    done = _put(console, kind, **GOOD[kind])

    assert (done.status_code, done["Location"]) == (302, "/destinations/far/")
    revision = ConfigRevision.objects.get(number=2)
    assert (revision.reason, Destination.objects.get().kind) == ("new archive", kind)
    assert config.apply(config.current(), actor=SYSTEM).revision is None


def test_the_kinds_are_offered(console: Client) -> None:
    page = console.get("/destinations/~new/").content.decode()
    assert all(f"?kind={kind}" in page for kind in KINDS)


def test_nothing_changes_before_the_plan_is_pressed(console: Client) -> None:
    page = console.post(NEW + "dicom", {"name": "far", "enabled": "true", **GOOD["dicom"]})
    assert "+ destination far" in page.content.decode()
    assert not Destination.objects.exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"port": "70000"}, "less than or equal to 65535"),
        ({"host": ""}, "a value is expected here"),
        ({"retry": "soon"}, "no duration"),
        ({"name": "a b"}, "A name of 1 to 64 of"),
        ({"tls_ca": "/etc/ca.pem"}, "It is used with tls: true only"),
    ],
)
def test_an_error_stands_at_its_field_and_nothing_is_lost(
    console: Client, given: dict[str, str], expected: str
) -> None:
    typed = {"name": "far", "enabled": "true", **GOOD["dicom"], **given}
    page = console.post(NEW + "dicom", typed).content.decode()
    assert expected in page
    assert 'role="alert"' in page
    assert all(
        f'value="{value}"' in page for key, value in typed.items() if value and key != "enabled"
    )
    assert not Destination.objects.exists()


def test_what_the_file_would_be_refused_for_is_refused(console: Client, pacs: Destination) -> None:
    page = console.post(NEW + "dicom", {"name": "far", "enabled": "true", **GOOD["dicom"]})
    text = page.content.decode()
    error = text[text.index('id="id_ae_title_error"') :].split("</p>")[0]
    assert "The AE title &#x27;PACS&#x27; is already that of &#x27;pacs&#x27;." in error
    assert Destination.objects.count() == 1


def test_a_name_that_is_taken_is_refused(console: Client, pacs: Destination) -> None:
    page = console.post(NEW + "folder", {"name": "pacs", "path": "/srv/out"})
    assert "There is a destination of this name already" in page.content.decode()


def test_a_change_of_address_says_what_it_holds(console: Client, pacs: Destination) -> None:
    job = factories.job(destination=pacs)
    item = factories.item(job, state=ItemState.PENDING)
    form = console.get("/destinations/pacs/edit/").content.decode()
    assert 'value="10.0.0.9"' in form
    assert 'value="30s, 1m, 5m, 15m, 30m"' in form

    page = console.post(
        "/destinations/pacs/edit/", {"enabled": "true", **GOOD["dicom"], "port": "11112"}
    )
    assert "port: 104 → 11112" in page.content.decode()
    assert "1 object waiting for pacs will be held" in page.content.decode()
    console.post("/destinations/pacs/edit/", {**_hidden(page), "step": "apply"})

    pacs.refresh_from_db()
    assert pacs.version is not None
    assert (pacs.version.settings["port"], pacs.endpoint) == (11112, 2)
    assert JobItem.objects.get(pk=item.pk).state == ItemState.HELD


def test_a_plan_that_was_overtaken_is_shown_anew(console: Client, pacs: Destination) -> None:
    page = console.post("/destinations/pacs/edit/", {"enabled": "false", **GOOD["dicom"]})
    _put(console, "folder", **GOOD["folder"])

    again = console.post("/destinations/pacs/edit/", {**_hidden(page), "step": "apply"})

    assert "Somebody applied another revision in between" in again.content.decode()
    assert Destination.objects.get(name="pacs").enabled
    console.post("/destinations/pacs/edit/", {**_hidden(again), "step": "apply"})
    assert not Destination.objects.get(name="pacs").enabled


def test_a_typed_secret_is_stored_and_never_shown(console: Client) -> None:
    plan = console.post(NEW + "stow", {"name": "far", "enabled": "true", **GOOD["stow"]})
    assert "far-password-1" in plan.content.decode()
    assert WORD not in plan.content.decode()
    console.post(NEW + "stow", {**_hidden(plan), "step": "apply"})
    assert secrets.reveal("far-password-1") == WORD

    form = console.get("/destinations/far/edit/").content.decode()
    assert WORD not in form
    assert "<option selected>far-password-1</option>" in form

    changed = {"enabled": "true", **GOOD["stow"], "new_password": "another", "url": "nonsense"}
    page = console.post("/destinations/far/edit/", changed).content.decode()
    assert "another" not in page
    assert Secret.objects.count() == 1


def test_an_operator_stores_no_secret(client: Client) -> None:
    users.ensure_roles()
    client.force_login(factories.user(role="operator"))
    assert 'type="password"' not in client.get(NEW + "stow").content.decode()

    page = client.post(NEW + "stow", {"name": "far", "enabled": "true", **GOOD["stow"]})

    assert "needs the permission to write secrets" in page.content.decode()
    assert WORD not in page.content.decode()
    assert not Secret.objects.exists()


def test_one_that_a_rule_names_is_not_removed(console: Client, pacs: Destination) -> None:
    factories.rule("all", send=["pacs"])
    page = console.get("/destinations/pacs/remove/").content.decode()
    assert "cannot be removed yet" in page
    assert console.post("/destinations/pacs/remove/", {"base": "0"}).status_code == 200
    assert not Destination.objects.get().removed


def test_removing_asks_and_holds(console: Client, pacs: Destination) -> None:
    item = factories.item(factories.job(destination=pacs), state=ItemState.PENDING)
    page = console.get("/destinations/pacs/remove/")
    assert "1 object waiting for it will be held" in page.content.decode()

    done = console.post("/destinations/pacs/remove/", {**_hidden(page), "reason": "gone"})

    assert done["Location"] == "/destinations/"
    assert Destination.objects.get().removed
    assert JobItem.objects.get(pk=item.pk).state == ItemState.HELD
    assert console.get("/destinations/pacs/edit/").status_code == 404


def test_a_name_of_a_new_secret_is_free() -> None:
    found = destination_fields.free_name("far", "token", taken=["far-token-1", "far-token-2"])
    assert found == "far-token-3"
