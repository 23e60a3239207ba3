"""Replays for programs: plan, confirm, watch, pause, resume, cancel, report."""

import csv
import io
from typing import Any  # JSON

import pytest
from django.test import Client
from pytest_django import Settings

from router.models import AuditEvent, ItemState, JobItem, Replay, ReplayState
from tests import factories
from tests.replaying import advance, confirmed, plan, planned
from tests.router.api.conftest import ProgramFor

S = ItemState
ALL = "/api/v1/replays"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def study() -> None:
    """A study with three objects at pacs: two delivered, one parked."""
    found = factories.study(patient_id="P4711", accession_number="A1")
    job = factories.job(found, destination=factories.destination("pacs"), rule="to-pacs")
    series = factories.series(found)
    for state in (S.DELIVERED, S.DELIVERED, S.PARKED):
        factories.item(job, instance=factories.instance(series), state=state)


def post(program: Client, where: str, data: object = None) -> Any:
    return program.post(where, data or {}, content_type="application/json")


def test_from_the_wish_to_the_report(program: Client) -> None:
    wanted = {"selection": {"patient_id": "P4711"}, "only": "all", "rate": 0}
    answer = post(program, ALL, wanted)
    told = answer.json()
    assert (answer.status_code, told["state"], told["objects"]) == (202, "planning", 0)
    where = f"{ALL}/{told['id']}"
    plan(Replay.objects.get())
    told = program.get(where).json()
    assert (told["state"], told["studies"], told["objects"]) == ("planned", 1, 3)
    assert told["destinations"] == [
        {"destination": "pacs", "planned": 3, "bytes": 3 * 524_288, "outcomes": {"To be sent": 3}}
    ]
    assert (told["needs_studies"], told["selection"]) == (False, {"patient_id": "P4711"})
    assert post(program, f"{where}/confirm", {"objects": 3}).json()["state"] == "running"
    advance(Replay.objects.get())
    JobItem.objects.filter(cause="replay").update(state=S.DELIVERED)
    advance(Replay.objects.get())
    told = program.get(where).json()
    assert (told["state"], told["sent"], told["left"], told["failed"]) == ("done", 3, 0, 0)
    report = program.get(f"{where}/report")
    assert report["Content-Type"] == "application/json"
    assert b'"Delivered": 3' in report.getvalue()
    rows = csv.DictReader(
        io.StringIO(program.get(f"{where}/report?format=csv").getvalue().decode())
    )
    assert [row["Patient ID"] for row in rows] == ["P4711"] * 3
    assert program.get(f"{where}/report?format=xml").status_code == 422
    asked = AuditEvent.objects.get(event="replay.requested")
    assert (asked.actor_kind, asked.remote_address) == ("token", "127.0.0.1")


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"selection": {}, "only": "all"}, "at least one of the criteria"),
        ({"selection": {"destination": "x"}, "only": "all"}, "No destination is called x"),
        ({"selection": {"state": "delivered"}, "only": "failed"}, "parked or cancelled"),
        ({"selection": {"source": "a"}, "only": "all", "rate": -1}, "not what the document says"),
        ({"selection": {"source": "a"}, "only": "some"}, "not what the document says"),
        ({"selection": {"patientid": "a"}, "only": "all"}, "not what the document says"),
        ({"selection": {"source": "a"}}, "not what the document says"),
        ({"selection": {"received_from": "yesterday"}, "only": "all"}, "not what the document"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(
    program: Client, wanted: dict[str, object], sentence: str
) -> None:
    answer = post(program, ALL, wanted)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (422, True)
    assert not Replay.objects.exists()


def test_a_moment_without_a_zone_is_one_of_utc(program: Client) -> None:
    wanted = {"selection": {"received_from": "2026-03-01T02:00:00"}, "only": "all"}
    assert post(program, ALL, wanted).status_code == 202
    assert Replay.objects.get().selection == {"received_from": "2026-03-01T02:00:00+00:00"}
    plan(Replay.objects.get())


def test_a_yes_to_something_else_is_a_conflict(program: Client, settings: Settings) -> None:
    where = f"{ALL}/{planned(source='ct-1').pk}/confirm"
    answer = post(program, where, {"objects": 4})
    assert (answer.status_code, answer.json()["detail"]) == (409, "The plan has 3 objects, not 4.")
    settings.REPLAY_TYPED_ABOVE = 0
    assert post(program, where, {"objects": 3}).status_code == 409
    assert post(program, where, {"objects": 3, "studies": 1}).status_code == 200
    assert post(program, where, {"objects": 3, "studies": 1}).status_code == 409


def test_pause_resume_and_cancel(program: Client) -> None:
    replay = advance(confirmed(planned(source="ct-1")))
    where = f"{ALL}/{replay.pk}"
    told = post(program, f"{where}/pause").json()
    assert (told["state"], told["failed"]) == ("paused", 3)
    assert post(program, f"{where}/pause").status_code == 409
    assert post(program, f"{where}/resume").json()["state"] == "running"
    assert post(program, f"{where}/cancel").json()["state"] == "cancelling"
    advance(replay)
    told = program.get(where).json()
    assert (told["state"], told["destinations"][0]["outcomes"]) == ("cancelled", {"Cancelled": 3})


def test_lists_by_pages_and_state(program: Client) -> None:
    made = [planned(source="ct-1").pk for _ in range(5)]
    Replay.objects.filter(pk=made[2]).update(state=ReplayState.DONE)
    first = program.get(f"{ALL}?limit=2").json()
    assert [one["id"] for one in first["items"]] == [made[4], made[3]]
    planned(source="ct-1")  # what comes meanwhile moves nothing
    second = program.get(f"{ALL}?limit=2&after={first['next']}").json()
    third = program.get(f"{ALL}?limit=2&after={second['next']}").json()
    assert [one["id"] for one in second["items"]] == [made[2], made[1]]
    assert ([one["id"] for one in third["items"]], third["next"]) == ([made[0]], None)
    assert [one["id"] for one in program.get(f"{ALL}?state=done").json()["items"]] == [made[2]]
    for wrong in ("limit=0", "limit=501", "after=0", "after=x", "state=lost"):
        assert program.get(f"{ALL}?{wrong}").status_code == 422, wrong


def test_others_replays_are_absent_under_a_limit(program_for: ProgramFor) -> None:
    replay = planned(source="ct-1")
    limited = program_for("service", sources=["ct-1"])
    assert limited.get(f"{ALL}/{replay.pk}").status_code == 404
    assert post(limited, f"{ALL}/{replay.pk}/confirm", {"objects": 3}).status_code == 404
    assert limited.get(ALL).json()["items"] == []


def test_patients_are_hidden_from_an_owner_who_may_not_see_them(program_for: ProgramFor) -> None:
    factories.role("resender", permissions=["replay.run", "studies.masked"], built_in=False)
    replay = planned(patient_id="P4711")
    masked = program_for("resender")
    for where in ("", "/report", "/report?format=csv"):
        answer = masked.get(f"{ALL}/{replay.pk}{where}")
        assert b"P4711" not in (answer.getvalue() if answer.streaming else answer.content)
    answer = post(masked, ALL, {"selection": {"patient_id": "P4711"}, "only": "all"})
    assert answer.status_code == 422
