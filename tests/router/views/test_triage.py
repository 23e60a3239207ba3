"""Triage as pages: groups, the question before an action, what is missing in a form."""

from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from django.test import Client

from router.models import AuditEvent, Destination, ItemState, JobItem
from tests import factories

ClientFor = Callable[..., Client]

pytestmark = pytest.mark.django_db


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "href"]


@pytest.fixture
def pacs(roles: None) -> Destination:
    row = factories.destination("pacs")
    job = factories.job(destination=row)
    series = factories.series(job.study)
    for _ in range(3):
        instance = factories.instance(series)
        factories.item(job, instance=instance, state=ItemState.PARKED, status=0xA900, reason="No.")
    factories.destination("archive")
    return row


def _address(client: Client, verb: str) -> str:
    parser = _Links()
    parser.feed(client.get("/triage/").content.decode())
    return next(link for link in parser.found if f"action={verb}&" in link)


def _given(client: Client, verb: str, **more: str) -> dict[str, str]:
    form = client.get(_address(client, verb)).context["form"]
    fields = ("action", "destination", "state", "status", "seen", "sop_class", "transfer_syntax")
    return {name: str(form[name].value() or "") for name in fields} | more


def _states() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, state in JobItem.objects.values_list("destination__name", "state"):
        found.setdefault(name, set()).add(state)
    return found


def test_shows_each_group_with_its_counts(client_for: ClientFor, pacs: Destination) -> None:
    page = client_for("auditor").get("/triage/")
    text = page.content.decode()
    assert "3 objects in 1 group" in text
    assert "A900" in text
    assert "CT Image Storage" in text
    assert "/triage/confirm/" not in text  # an auditor looks only


def test_retries_a_group(client_for: ClientFor, pacs: Destination) -> None:
    client = client_for("operator")
    done = client.post("/triage/apply/", _given(client, "retry"), follow=True)
    assert "Due again: 3 objects." in done.content.decode()
    assert _states() == {"pacs": {"pending"}}


@pytest.mark.parametrize("verb", ["exclude", "readdress"])
def test_a_reason_is_needed(client_for: ClientFor, pacs: Destination, verb: str) -> None:
    client = client_for("operator")
    asked = client.get(_address(client, verb))
    assert "is expected" not in asked.content.decode()
    got = client.post("/triage/apply/", _given(client, verb, why=" "))
    assert got.status_code == 422
    assert "A reason is expected" in got.content.decode()
    assert _states() == {"pacs": {"parked"}}


def test_excludes_with_a_reason(client_for: ClientFor, pacs: Destination) -> None:
    client = client_for("operator")
    done = client.post("/triage/apply/", _given(client, "exclude", why="Not ours."), follow=True)
    assert "Excluded: 3 objects." in done.content.decode()
    assert _states() == {"pacs": {"cancelled"}}
    assert AuditEvent.objects.get(event="items.excluded").details["reason"] == "Not ours."


def test_sends_a_group_elsewhere(client_for: ClientFor, pacs: Destination) -> None:
    client = client_for("operator")
    given = _given(client, "readdress", why="It is full.", to="archive")
    done = client.post("/triage/apply/", given, follow=True)
    assert "To archive instead: 3 objects." in done.content.decode()
    assert _states() == {"pacs": {"cancelled"}, "archive": {"pending"}}


@pytest.mark.parametrize("to", ["", "pacs", "nowhere"])
def test_elsewhere_is_another_destination_that_takes_work(
    client_for: ClientFor, pacs: Destination, to: str
) -> None:
    client = client_for("operator")
    got = client.post("/triage/apply/", _given(client, "readdress", why="x", to=to))
    assert got.status_code == 422
    assert got.context["form"].errors["to"]
    assert _states() == {"pacs": {"parked"}}


def test_an_action_that_the_state_does_not_allow_is_none(
    client_for: ClientFor, pacs: Destination
) -> None:
    client = client_for("operator")
    given = _given(client, "retry") | {"action": "release"}
    assert client.post("/triage/apply/", given).status_code == 404
    assert client.get("/triage/confirm/?action=retry").status_code == 404


def test_a_group_that_was_dealt_with_says_so(client_for: ClientFor, pacs: Destination) -> None:
    client = client_for("operator")
    given, where = _given(client, "retry"), _address(client, "retry")
    client.post("/triage/apply/", given)
    again = client.post("/triage/apply/", given, follow=True)
    assert "Nothing was changed" in again.content.decode()
    assert "There is nothing left in this group" in client.get(where).content.decode()


def test_a_limit_holds_for_groups_and_actions(client_for: ClientFor, pacs: Destination) -> None:
    client = client_for("operator")
    given = _given(client, "retry")
    limited = client_for("operator", modalities=["MR"])
    assert "Nothing failed" in limited.get("/triage/").content.decode()
    limited.post("/triage/apply/", given)
    assert _states() == {"pacs": {"parked"}}
