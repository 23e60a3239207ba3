"""Jobs for programs: lists that narrow, and verbs that count what they changed."""

from typing import Any  # JSON

import pytest
from django.test import Client

from router.models import AuditEvent, Cause, Destination, ItemState, JobItem
from tests import factories
from tests.router.api.conftest import ProgramFor

S = ItemState
ALL = "/api/v1/jobs"
pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> Destination:
    """Two jobs for pacs, one by hand for disk."""
    row = factories.destination("pacs")
    for states in ((S.PARKED, S.DELIVERED), (S.WAITING,)):
        job = factories.job(destination=row, rule="to-pacs")
        for state in states:
            factories.item(job, state=state)
    by_hand = factories.job(destination=factories.destination("disk"), cause=Cause.MANUAL, rule="")
    factories.item(by_hand, state=S.HELD)
    return row


def listed(program: Client, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = program.get(f"{ALL}?{query}").json()["items"]
    return found


def change(program: Client, verb: str, data: object) -> Any:
    return program.post(f"{ALL}/{verb}", data, content_type="application/json")


def test_lists_jobs_with_their_states(program: Client, pacs: Destination) -> None:
    found = listed(program, "")
    assert [(one["destination"], one["cause"], one["states"]) for one in found] == [
        ("disk", "manual", {"held": 1}),
        ("pacs", "rule", {"waiting": 1}),
        ("pacs", "rule", {"delivered": 1, "parked": 1}),
    ]
    one = program.get(f"{ALL}/{found[2]['id']}").json()
    assert one == found[2]
    assert program.get(f"{ALL}/4711").status_code == 404


@pytest.mark.parametrize(
    ("query", "count"),
    [("destination=pacs", 2), ("destination=pacs&state=parked", 1), ("rule=to-pacs", 2),
     ("cause=manual", 1), ("state=delivered", 1), ("replay=1", 0), ("destination=nowhere", 0),
     ("study_instance_uid=1.2.3", 0), ("created_before=2020-01-01T00:00:00Z", 0)],
)  # fmt: skip
def test_filters_narrow(program: Client, pacs: Destination, query: str, count: int) -> None:
    assert len(listed(program, query)) == count


@pytest.mark.parametrize("query", ["state=lost", "cause=x", "replay=x", "patient_id=1", "limit=x"])
def test_a_filter_that_is_none_is_refused(program: Client, query: str) -> None:
    assert program.get(f"{ALL}?{query}").status_code == 422


@pytest.mark.parametrize(
    ("verb", "changed", "left"),
    [("retry", 2, {"pending": 2, "delivered": 1, "held": 1}),
     ("hold", 1, {"parked": 1, "delivered": 1, "held": 2}),
     ("release", 1, {"parked": 1, "waiting": 1, "delivered": 1, "pending": 1}),
     ("cancel", 3, {"delivered": 1, "cancelled": 3})],
)  # fmt: skip
def test_a_verb_says_how_many_it_changed(
    program: Client, pacs: Destination, verb: str, changed: int, left: dict[str, int]
) -> None:
    jobs = [one["id"] for one in listed(program, "")]
    answer = change(program, verb, {"jobs": jobs})
    assert (answer.status_code, answer.json()) == (200, {"changed": changed})
    states = list(JobItem.objects.values_list("state", flat=True))
    assert {state: states.count(state) for state in set(states)} == left
    event = AuditEvent.objects.get(event__startswith="items.")
    assert (event.actor_kind, event.details) == ("token", {"count": changed})


def test_by_filter_and_within_jobs(program: Client, pacs: Destination) -> None:
    assert change(program, "cancel", {"filter": {"state": "parked"}}).json() == {"changed": 1}
    job = listed(program, "state=waiting")[0]["id"]
    both = {"jobs": [job], "filter": {"destination": "disk"}}
    assert change(program, "cancel", both).json() == {"changed": 0}


@pytest.mark.parametrize("data", [{}, {"jobs": []}, {"filter": {}}, {"all": True}])
def test_everything_is_never_meant_by_accident(
    program: Client, pacs: Destination, data: object
) -> None:
    assert change(program, "cancel", data).status_code == 422
    assert not JobItem.objects.filter(state=S.CANCELLED).exists()


def test_there_are_four_verbs(program: Client, pacs: Destination) -> None:
    assert change(program, "delete", {"filter": {"destination": "pacs"}}).status_code == 422


def test_what_lies_outside_the_limit_is_absent(program_for: ProgramFor, pacs: Destination) -> None:
    limited = program_for("service", sources=["mr-1"])
    assert listed(limited, "") == []
    job = JobItem.objects.earliest("pk").job_id
    assert limited.get(f"{ALL}/{job}").status_code == 404
    assert change(limited, "cancel", {"jobs": [job]}).json() == {"changed": 0}
