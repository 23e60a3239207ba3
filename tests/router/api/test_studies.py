"""Studies for programs: lists, search by a body, the routing report, and masks."""

from datetime import UTC, datetime
from typing import Any  # JSON

import pytest
from django.test import Client

from router.models import AuditEvent, Study
from tests import factories
from tests.browser.seed import outcome
from tests.router.api.conftest import ProgramFor

ALL = "/api/v1/studies"
pytestmark = pytest.mark.django_db


@pytest.fixture
def study() -> Study:
    """A study among others, decided by what the patient is called."""
    factories.study(study_date="20200101", source="elsewhere")
    found = factories.study(
        patient_id="P4711",
        patient_name="Okafor^Ngozi",
        accession_number="A1",
        study_date="20260301",
        modalities="CT\\SR",
        last_received_at=datetime(2026, 3, 2, tzinfo=UTC),
        first_received_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    factories.series(found, modality="CT")
    refusal = outcome("vip", "not matched", "PatientName", "Okafor^Ngozi", "Doe^Jane")
    factories.decision(found, explanation=[refusal], outcome="held", chosen_count=0)
    return found


def found_by(program: Client, **body: object) -> list[dict[str, Any]]:
    answer = program.post(f"{ALL}/search", body, content_type="application/json")
    assert answer.status_code == 200, answer.content
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_a_study_as_a_program_sees_it(program: Client, study: Study) -> None:
    told = program.get(f"{ALL}/{study.study_instance_uid}").json()
    assert told["patient_name"] == "Okafor^Ngozi"
    assert (told["patient_id"], told["accession_number"]) == ("P4711", "A1")
    assert (told["modalities"], told["objects"]) == (["CT", "SR"], 1)
    event = AuditEvent.objects.get(event="study.viewed")
    assert event.study_instance_uid == study.study_instance_uid


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 2), ("source=ct-1", 1), ("modality=CT", 1), ("modality=MR", 0),
     ("study_date_from=2026-01-01", 1), ("study_date_to=2020-01-01", 1),
     ("received_to=2026-03-01T00:00:01Z", 1), ("received_to=2026-03-01T00:00:00Z", 0)],
)  # fmt: skip
def test_lists_what_matches(program: Client, study: Study, query: str, count: int) -> None:
    assert len(program.get(f"{ALL}?{query}").json()["items"]) == count


@pytest.mark.parametrize("query", ["patient_id=P4711", "accession_number=A1", "source=a&limit=0"])
def test_no_address_holds_a_patient(program: Client, study: Study, query: str) -> None:
    assert program.get(f"{ALL}?{query}").status_code == 422


def test_searches_by_a_body(program: Client, study: Study) -> None:
    for body in ({"patient_id": "P4711"}, {"accession_number": "A1"}, {"source": "ct-1"}):
        assert [one["accession_number"] for one in found_by(program, **body)] == ["A1"]
    assert found_by(program, patient_id="P47") == []
    event = AuditEvent.objects.filter(event="studies.listed").earliest("pk")
    assert event.details == {"criteria": ["patient_id"], "count": 1}


def test_pages_do_not_overlap(program: Client, study: Study) -> None:
    first = program.get(f"{ALL}?limit=1").json()
    second = program.get(f"{ALL}?limit=1&after={first['next']}").json()
    uids = [page["items"][0]["study_instance_uid"] for page in (first, second)]
    assert (len(set(uids)), second["next"]) == (2, None)


def test_says_why_it_went_nowhere(program: Client, study: Study) -> None:
    told = program.get(f"{ALL}/{study.study_instance_uid}/routing").json()
    assert told["study_instance_uid"] == study.study_instance_uid
    (decided,) = told["decided"]
    assert decided["outcome"] == "held"
    assert "Okafor^Ngozi" in decided["rules"][0]["sentence"]


def test_who_may_not_see_patients_gets_masks(program_for: ProgramFor, study: Study) -> None:
    auditor = program_for("auditor", "api:read")
    told = auditor.get(f"{ALL}/{study.study_instance_uid}").json()
    assert {told[name] for name in ("patient_name", "patient_id", "patient_birth_date")} == {None}
    report = auditor.get(f"{ALL}/{study.study_instance_uid}/routing").content.decode()
    assert "Okafor" not in report
    assert "Doe^Jane" not in report
    assert found_by(auditor, patient_id="P4711") == []
    assert "P4711" not in auditor.get(ALL).content.decode()


def test_what_lies_outside_the_limit_is_absent(program_for: ProgramFor, study: Study) -> None:
    limited = program_for("service", sources=["elsewhere"])
    uid = study.study_instance_uid
    assert limited.get(f"{ALL}/{uid}").status_code == 404
    assert limited.get(f"{ALL}/{uid}/routing").status_code == 404
    assert found_by(limited, accession_number="A1") == []


@pytest.mark.parametrize("uid", ["1.2.3", "x" * 500, "%00", "..%2f", "1%272"])
def test_what_is_no_study_is_absent(program: Client, study: Study, uid: str) -> None:
    assert program.get(f"{ALL}/{uid}").status_code == 404
