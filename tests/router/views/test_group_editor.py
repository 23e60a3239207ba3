"""Groups on pages: shown with their members, made, changed and removed after a plan."""

import re
from typing import Any

import pytest
from django.test import Client

from router.models import (
    AuditEvent,
    ConfigRevision,
    Destination,
    DestinationGroup,
    Lane,
    LaneState,
)
from router.services import groups, users
from tests import factories

pytestmark = pytest.mark.django_db
# Any in this module: the response of the test client, which has no public type.

NEW = "/groups/~new/"
GOOD = {
    "name": "pool",
    "kind": "balance",
    "members": "a, b",
    "by": "least_open",
    "returns": "true",
    "patience": "2m",
    "enabled": "true",
}


@pytest.fixture
def console(client: Client) -> Client:
    users.ensure_roles()
    client.force_login(factories.user(role="administrator"))
    return client


@pytest.fixture
def places() -> list[Destination]:
    settings = {"path": "/srv/out", "layout": "{SOPInstanceUID}.dcm", "mode": "0640"}
    return [factories.destination(name, kind="folder", settings=settings) for name in "ab"]


def _hidden(page: Any) -> dict[str, str]:
    pattern = r'<input type="hidden" name="([^"]+)" value="([^"]*)">'
    found = dict(re.findall(pattern, page.content.decode()))
    found.pop("csrfmiddlewaretoken", None)
    return found


def _apply(console: Client, address: str, given: dict[str, str]) -> Any:
    page = console.post(address, given)
    return console.post(address, {**_hidden(page), "step": "apply", "reason": "a second archive"})


def test_a_group_is_made_after_its_plan_was_seen(
    console: Client, places: list[Destination]
) -> None:
    form = console.get(NEW).content.decode()
    assert "There are: a, b." in form

    page = console.post(NEW, GOOD)
    assert "+ group pool" in page.content.decode()
    assert not DestinationGroup.objects.exists()
    done = _apply(console, NEW, GOOD)

    assert (done.status_code, done["Location"]) == (302, "/destinations/")
    row = DestinationGroup.objects.get()
    assert (row.kind, row.members, row.by, row.patience_seconds) == (
        "balance",
        ["a", "b"],
        "least_open",
        120,
    )
    revision = ConfigRevision.objects.latest("number")
    assert revision.reason == "a second archive"
    event = AuditEvent.objects.get(event="config.applied")
    assert [one["kind"] for one in event.details["changes"]] == ["group"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"members": ""}, "The list is empty; at least one destination is expected."),
        ({"members": "a, x"}, "The destination &#x27;x&#x27; is unknown"),
        ({"members": "a, a"}, "&#x27;a&#x27; is given twice."),
        ({"patience": "soon"}, "is no duration"),
        ({"name": "a b"}, "A name of 1 to 64 of"),
        ({"name": "a"}, "There is a group or a destination of this name already"),
        ({"kind": "pool"}, "Select a valid choice"),
    ],
)
def test_an_error_stands_at_its_field_and_nothing_is_lost(
    console: Client, places: list[Destination], given: dict[str, str], expected: str
) -> None:
    page = console.post(NEW, GOOD | given).content.decode()
    assert expected in page
    assert 'role="alert"' in page
    assert f'value="{(GOOD | given)["members"]}"' in page or not (GOOD | given)["members"]
    assert not DestinationGroup.objects.exists()


def test_a_group_is_changed_and_says_what_it_was(
    console: Client, places: list[Destination]
) -> None:
    factories.group("pool", members=places)
    form = console.get("/groups/pool/edit/").content.decode()
    assert 'value="a, b"' in form

    given = GOOD | {"kind": "failover", "members": "b, a", "returns": "false"}
    page = console.post("/groups/pool/edit/", given)
    assert "return: true → false" in page.content.decode()
    _apply(console, "/groups/pool/edit/", given)

    row = DestinationGroup.objects.get()
    assert (row.kind, row.members, row.returns, row.by) == ("failover", ["b", "a"], False, "")


def test_a_group_that_a_rule_names_is_not_removed(
    console: Client, places: list[Destination]
) -> None:
    factories.group("pool", members=places)
    factories.rule("all", send=["pool"])
    page = console.get("/groups/pool/remove/").content.decode()
    assert "cannot be removed yet" in page
    assert "the destination &#x27;pool&#x27; is unknown" in page


def test_removing_asks_and_leaves_the_members(console: Client, places: list[Destination]) -> None:
    factories.group("pool", members=places)
    page = console.get("/groups/pool/remove/")
    assert "Remove the group pool?" in page.content.decode()

    done = console.post("/groups/pool/remove/", {**_hidden(page), "reason": "one archive is left"})

    assert done["Location"] == "/destinations/"
    assert DestinationGroup.objects.get().removed
    assert Destination.objects.present().count() == 2
    assert console.get("/groups/pool/edit/").status_code == 404


def test_a_member_is_not_removed_before_the_group_is_changed(
    console: Client, places: list[Destination]
) -> None:
    factories.group("pool", members=places)
    page = console.get("/destinations/a/remove/").content.decode()
    assert "groups[0].members[0]" in page
    assert "cannot be removed yet" in page


def test_the_page_shows_members_with_their_state_and_share(
    console: Client, places: list[Destination]
) -> None:
    pool = factories.group("pool", members=places, kind="balance", by="round_robin")
    for count in range(4):
        study = factories.study()
        groups.assigned([(study.pk, pool.name)])
        if count == 2:
            Lane.objects.filter(destination=places[1]).update(state=LaneState.STOPPED)
    page = console.get("/destinations/").content.decode()
    assert "pool" in page
    assert "Not chosen: is stopped" in page
    assert "75 %" in page
    assert "25 %" in page
    assert "in turn" in page
    Lane.objects.update(state=LaneState.STOPPED)
    assert "no member is well" in console.get("/destinations/").content.decode()
