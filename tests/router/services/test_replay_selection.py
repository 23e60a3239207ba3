"""What a selection means: each criterion, the limit of the one who asks, and its words."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from router.models import Cause, InstanceState, ItemState, Study
from router.services import clock
from router.services.replay_selection import Selection
from tests import factories

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)


@pytest.fixture
def study() -> Study:
    """One study among others that differ in everything."""
    factories.study(study_date="20200101", source="elsewhere", accession_number="OTHER")
    found = factories.study(
        patient_id="P1",
        accession_number="A1",
        study_date="20260301",
        source="ct-9",
        first_received_at=NOW,
        last_received_at=NOW + timedelta(hours=1),
    )
    job = factories.job(found, destination=factories.destination("pacs"), rule="to-pacs")
    factories.item(job, state=ItemState.PARKED)
    other = factories.job(factories.study(), rule="other")
    factories.item(other, state=ItemState.DELIVERED)
    return found


@pytest.mark.parametrize(
    "given",
    [
        {"patient_id": "P1"},
        {"accession_number": "A1"},
        {"study_date_from": date(2026, 3, 1), "study_date_to": date(2026, 3, 1)},
        {"received_from": NOW - timedelta(hours=1), "received_to": NOW + timedelta(seconds=1)},
        {"received_from": NOW + timedelta(hours=1), "received_to": NOW + timedelta(hours=2)},
        {"source": "ct-9"},
        {"destination": "pacs"},
        {"rule": "to-pacs"},
        {"state": "parked"},
        {"state": "parked", "destination": "pacs", "source": "ct-9"},
    ],
)
def test_each_criterion_finds_the_study_that_is_meant(study: Study, given: dict[str, Any]) -> None:
    found = Selection(**given).studies(None, as_chosen=True)
    assert list(found) == [study]


@pytest.mark.parametrize(
    "given",
    [
        {"patient_id": "P"},
        {"accession_number": "a1"},
        {"study_date_from": date(2026, 3, 2)},
        {"study_date_to": date(2019, 12, 31)},
        {"received_from": NOW + timedelta(hours=1, seconds=1), "received_to": NOW + timedelta(1)},
        {"received_to": NOW},
        {"destination": "pacs", "state": "delivered"},
        {"destination": "pacs", "rule": "other"},
    ],
)
def test_what_differs_is_not_meant(study: Study, given: dict[str, Any]) -> None:
    assert study not in Selection(**given).studies(None, as_chosen=True)


def test_by_uid_and_by_jobs(study: Study) -> None:
    job = study.jobs.get()
    uid = study.study_instance_uid
    assert list(Selection(study_instance_uid=uid).studies(None, as_chosen=True)) == [study]
    assert list(Selection(jobs=(job.pk,)).studies(None, as_chosen=True)) == [study]


def test_what_somebody_fetched_is_no_choice_of_a_destination(study: Study) -> None:
    fetched = factories.job(destination=factories.destination("ws"), cause=Cause.MOVE, rule="")
    factories.item(fetched, state=ItemState.DELIVERED)
    assert not Selection(destination="ws").studies(None, as_chosen=True).exists()


def test_the_rules_of_today_may_choose_what_had_no_job(study: Study) -> None:
    bare = factories.study(source="ct-9")
    wanted = Selection(source="ct-9", destination="pacs")
    assert list(wanted.studies(None, as_chosen=True)) == [study]
    assert set(wanted.studies(None, as_chosen=False)) == {study, bare}


def test_objects_are_those_that_may_be_sent_and_came_in_the_range(study: Study) -> None:
    series = factories.series(study)
    early, late, apart, version = (
        factories.instance(series, received_at=NOW + timedelta(minutes=at), state=state)
        for at, state in (
            (0, InstanceState.CURRENT),
            (50, InstanceState.CURRENT),
            (50, InstanceState.QUARANTINED),
            (50, InstanceState.VERSION),
        )
    )
    found = set(Selection(received_from=NOW + timedelta(minutes=10)).instances(None))
    assert {late, version} <= found
    assert not {early, apart} & found
    assert early in Selection(received_to=NOW + timedelta(minutes=10)).instances(None)


def test_the_limit_of_the_one_who_asks_holds(study: Study) -> None:
    own = factories.user(limit={"sources": ["ct-9"]})
    foreign = factories.user(limit={"sources": ["mr-1"]})
    wanted = Selection(accession_number="A1")
    assert list(wanted.studies(own, as_chosen=True)) == [study]
    assert not wanted.studies(foreign, as_chosen=True).exists()
    factories.instance(factories.series(study))
    assert Selection().instances(own).exists()
    assert not Selection().instances(foreign).exists()


def test_goes_into_a_row_and_comes_back() -> None:
    whole = Selection(
        *("P1", "A1", "1.2.3", date(2026, 1, 2), date(2026, 1, 3), NOW, clock.now()),
        *("ct", "rule", "pacs", "parked", (4, 7)),
    )
    assert Selection.from_dict(whole.as_dict()) == whole
    assert Selection.from_dict({}) == Selection()
    assert Selection().is_empty
    assert not whole.is_empty


def test_its_words_hide_the_patient_where_they_must() -> None:
    chosen = Selection(patient_id="P1", jobs=(1, 2), received_from=NOW)
    assert chosen.words(clear=True) == [
        ("patient ID", "P1"),
        ("received from", "2026-03-02 10:00 UTC"),
        ("jobs", "2 chosen"),
    ]
    assert ("patient ID", "•••••") in chosen.words(clear=False)
