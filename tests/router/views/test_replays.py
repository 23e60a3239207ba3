"""The pages of replays: from the form to the plan, the yes, the progress and the report."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any  # responses of the test client

import pytest
from django.test import Client
from pytest_django import Settings

from router.models import (
    AuditEvent,
    Destination,
    ItemState,
    JobItem,
    PairState,
    Replay,
    ReplayState,
    Study,
)
from tests import factories
from tests.replaying import advance, confirmed, plan, planned

S = ItemState
ClientFor = Callable[..., Client]
pytestmark = pytest.mark.django_db


@pytest.fixture
def study() -> Study:
    """A study with three objects at pacs: two delivered, one parked."""
    found = factories.study(patient_id="P4711", accession_number="A1")
    job = factories.job(found, destination=factories.destination("pacs"), rule="to-pacs")
    series = factories.series(found)
    for state in (S.DELIVERED, S.DELIVERED, S.PARKED):
        factories.item(job, instance=factories.instance(series), state=state)
    return found


def _text(response: Any) -> str:
    return " ".join(response.content.decode().split())


def _ask(client: Client, **given: str) -> Any:
    fields = {"only": "all", "route": "then", "content": "original", "rate": "50"}
    return client.post("/replays/new/", fields | given)


def test_from_the_form_to_the_plan_to_the_yes(client_for: ClientFor, study: Study) -> None:
    client = client_for("operator")
    answer = _ask(client, patient_id="P4711", rate="20")
    replay = Replay.objects.get()
    assert answer["Location"] == f"/replays/{replay.pk}/"
    assert (replay.selection, replay.rate) == ({"patient_id": "P4711"}, 20.0)
    assert "being planned" in _text(client.get(f"/replays/{replay.pk}/"))
    plan(replay)
    page = _text(client.get(f"/replays/{replay.pk}/"))
    assert "Send 3 objects of 1 study, 1.5 MiB, to pacs?" in page
    assert "Send 3 objects to pacs</button>" in page
    assert not JobItem.objects.filter(cause="replay").exists()
    client.post(f"/replays/{replay.pk}/confirm/", {"objects": "3"})
    replay.refresh_from_db()
    assert replay.state == ReplayState.RUNNING
    assert f"/replays/{replay.pk}/" in _text(client.get("/replays/"))


def test_a_yes_to_another_number_is_refused_with_the_reason(
    client_for: ClientFor, study: Study
) -> None:
    client, replay = client_for("operator"), planned(source="ct-1")
    page = client.post(f"/replays/{replay.pk}/confirm/", {"objects": "4"}, follow=True)
    assert "The plan has 3 objects, not 4." in _text(page)
    page = client.post(f"/replays/{replay.pk}/confirm/", follow=True)
    assert Replay.objects.get().state == ReplayState.PLANNED


def test_many_studies_are_confirmed_by_their_number(
    client_for: ClientFor, study: Study, settings: Settings
) -> None:
    settings.REPLAY_TYPED_ABOVE = 0
    client, replay = client_for("operator"), planned(source="ct-1")
    where = f"/replays/{replay.pk}/"
    assert "type their number to confirm" in _text(client.get(where))
    client.post(f"{where}confirm/", {"objects": "3", "studies": "2"})
    assert Replay.objects.get().state == ReplayState.PLANNED
    client.post(f"{where}confirm/", {"objects": "3", "studies": " 1 "})
    assert Replay.objects.get().state == ReplayState.RUNNING


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "Say which studies are meant"),
        ({"source": "ct-1", "rate": ""}, "A number is expected, 0 for as fast as it goes."),
        ({"source": "ct-1", "rate": "-1"}, "greater than or equal to 0"),
        ({"study_date_from": "yesterday"}, "Enter a valid date"),
        ({"state": "parked", "only": "half"}, "Select a valid choice"),
        ({"destination": "nowhere"}, "Select a valid choice"),
        ({"state": "delivered", "only": "failed"}, "What failed is parked or cancelled"),
    ],
)
def test_the_form_says_what_is_expected_and_loses_nothing(
    client_for: ClientFor, study: Study, given: dict[str, str], sentence: str
) -> None:
    factories.source("ct-1")
    answer = _ask(client_for("operator"), accession_number="" if not given else "A1", **given)
    page = _text(answer)
    assert answer.status_code == 422
    assert sentence in page
    assert not given or 'value="A1"' in page
    assert not Replay.objects.exists()


def test_links_fill_the_form_in(client_for: ClientFor, study: Study) -> None:
    client, job = client_for("operator"), study.jobs.get()

    def form(query: str) -> dict[str, object]:
        return dict(client.get(f"/replays/new/?{query}").context["form"].initial)

    assert form(f"study={study.pk}") == {"study_instance_uid": study.study_instance_uid}
    assert form("destination=pacs&only=missing") == {"destination": "pacs", "only": "missing"}
    assert form(f"job={job.pk}&next=/jobs/") == {"jobs": str(job.pk), "only": "all"}
    assert form("all=1&state=parked&next=/jobs/") == {
        "jobs": str(job.pk), "only": "failed", "state": "parked",
    }  # fmt: skip
    replay = planned(accession_number="A1", rate=7.0)
    assert form(f"again={replay.pk}") == {
        "accession_number": "A1", "only": "all", "route": "then", "content": "original",
        "rate": "7",
    }  # fmt: skip
    for page in ("/jobs/", f"/jobs/{job.pk}/", f"/studies/{study.pk}/", "/destinations/pacs/"):
        assert "/replays/new/" in _text(client.get(page)), page


def test_ticked_jobs_are_replayed_for_their_destinations(
    client_for: ClientFor, study: Study
) -> None:
    job = study.jobs.get()
    other = factories.job(study, destination=factories.destination("disk"))
    for one in job.items.all():
        factories.item(other, instance=one.instance, state=S.DELIVERED)
    _ask(client_for("operator"), jobs=f"{job.pk}")
    replay = plan(Replay.objects.get())
    assert set(replay.pairs.values_list("destination__name", flat=True)) == {"pacs"}


def test_too_many_jobs_are_meant_by_their_filters(
    client_for: ClientFor, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.item(factories.job(destination=Destination.objects.get()), state=S.PARKED)
    monkeypatch.setattr("router.replay_form.MOST_JOBS", 1)
    page = client_for("operator").get("/replays/new/?all=1&destination=pacs")
    assert page.context["form"].initial == {"destination": "pacs"}
    assert "More than 1 jobs match" in _text(page)


def test_pause_resume_and_cancel_say_how_many(client_for: ClientFor, study: Study) -> None:
    client, replay = client_for("operator"), advance(confirmed(planned(source="ct-1")))
    where = f"/replays/{replay.pk}/"
    assert "3 objects that waited held" in _text(client.post(f"{where}pause/", follow=True))
    assert "is not running" not in _text(client.get(where))
    assert "It does not run: paused." in _text(client.post(f"{where}pause/", follow=True))
    assert "3 objects due again" in _text(client.post(f"{where}resume/", follow=True))
    assert f"Give up 3 objects of replay {replay.pk}?" in _text(client.get(f"{where}cancel/"))
    client.post(f"{where}cancel/")
    advance(replay)
    page = _text(client.get(where))
    assert "3 cancelled" in page
    assert "Cancelled by operator" in page
    assert "There is nothing to cancel" in _text(client.get(f"{where}cancel/"))


def test_progress_is_a_fragment_that_is_fetched_while_it_moves(
    client_for: ClientFor, study: Study
) -> None:
    client, replay = client_for("operator"), advance(confirmed(planned(source="ct-1")))
    JobItem.objects.filter(cause="replay").update(state=S.DELIVERED)
    where = f"/replays/{replay.pk}/"
    fragment = client.get(where, headers={"HX-Request": "true"}).content.decode()
    assert fragment.strip().startswith('<div id="replay" data-live')
    assert "3 delivered" in fragment
    advance(replay)
    assert "data-live" not in client.get(where, headers={"HX-Request": "true"}).content.decode()


def test_says_why_what_was_not_sent(client_for: ClientFor, study: Study) -> None:
    replay = planned(source="ct-1")
    replay.pairs.update(state=PairState.UNKNOWN, detail="pacs did not answer (C-FIND).")
    page = _text(client_for("operator").get(f"/replays/{replay.pk}/"))
    assert "pacs did not answer (C-FIND)." in page
    assert "could not be asked for" in page


def test_the_report_is_taken_as_csv_and_json_and_audited(
    client_for: ClientFor, study: Study
) -> None:
    client, replay = client_for("operator"), planned(source="ct-1")
    where = f"/replays/{replay.pk}/report/"
    answer = client.get(f"{where}?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert answer["Content-Disposition"] == f'attachment; filename="replay-{replay.pk}.csv"'
    assert {row["Patient ID"] for row in rows} == {"P4711"}
    assert len(json.loads(client.get(f"{where}?format=json").getvalue())["pairs"]) == 3
    assert client.get(f"{where}?format=exe").status_code == 404
    assert AuditEvent.objects.filter(event="export", actor__startswith="operator").count() == 2


def test_nobody_without_the_right_sees_patients(client_for: ClientFor, study: Study) -> None:
    role = factories.role("resender", permissions=["replay.run", "studies.masked"], built_in=False)
    client = client_for(role.name)
    replay = planned(patient_id="P4711")
    for where in ("", "report/?format=csv", "report/?format=json"):
        answer = client.get(f"/replays/{replay.pk}/{where}")
        assert answer.status_code == 200
        body = answer.getvalue() if answer.streaming else answer.content
        assert b"P4711" not in body, where
    assert 'name="patient_id"' not in client.get("/replays/new/").content.decode()
    assert client.get(f"/replays/new/?again={replay.pk}").context["form"].initial == {
        "only": "all", "route": "then", "content": "original", "rate": "0",
    }  # fmt: skip


def test_under_a_limit_others_replays_are_absent(client_for: ClientFor, study: Study) -> None:
    replay = planned(source="ct-1")
    client = client_for("operator", sources=["ct-1"])
    assert client.get(f"/replays/{replay.pk}/").status_code == 404
    assert client.post(f"/replays/{replay.pk}/confirm/").status_code == 404
    _ask(client, accession_number="A1")
    own = Replay.objects.latest("pk")
    assert client.get(f"/replays/{own.pk}/").status_code == 200


def test_the_study_and_its_jobs_name_the_replay(client_for: ClientFor, study: Study) -> None:
    client, replay = client_for("operator"), advance(confirmed(planned(source="ct-1")))
    link = f'<a href="/replays/{replay.pk}/">'
    assert f"{link}replay {replay.pk}</a>" in _text(client.get(f"/studies/{study.pk}/"))
    jobs = client.get(f"/jobs/?replay={replay.pk}")
    assert [job.replay_id for job, _states in jobs.context["rows"]] == [replay.pk]
    assert f"{link}Replay {replay.pk}</a>" in _text(jobs)
    reader = client_for("radiologist")
    assert f"by replay {replay.pk}" in _text(reader.get(f"/studies/{study.pk}/")).replace(
        "<span>", ""
    )
