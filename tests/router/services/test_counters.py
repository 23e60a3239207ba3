"""Counts by hour are exact, whoever else counts at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction

from router.models import CounterKind, HourCount
from router.services.counters import Tally

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WRITERS = 6


def _tally(*modalities: str, at: datetime = NOON) -> Tally:
    tally = Tally()
    for modality in modalities:
        tally.add(at, CounterKind.RECEIVED, size=10, modality=modality, source="ct-1")
    return tally


def _counts() -> dict[str, tuple[int, int]]:
    rows = HourCount.objects.values_list("modality", "objects_count", "bytes")
    return {modality: (objects, size) for modality, objects, size in rows}


@pytest.mark.django_db
def test_adds_to_the_row_of_the_hour() -> None:
    _tally("CT", "CT", "MR").write()
    _tally("CT", at=NOON + timedelta(minutes=59, seconds=59)).write()

    assert _counts() == {"CT": (3, 30), "MR": (1, 10)}
    assert {row.hour for row in HourCount.objects.all()} == {NOON}


@pytest.mark.django_db
def test_each_hour_has_a_row_of_its_own() -> None:
    _tally("CT").write()
    _tally("CT", at=NOON + timedelta(hours=1)).write()

    assert HourCount.objects.count() == 2


@pytest.mark.django_db
def test_a_modality_of_any_kind_is_counted() -> None:
    _tally("C\x00T", "X" * 40).write()

    assert set(_counts()) == {"CT", "X" * 16}


@pytest.mark.django_db
def test_nothing_is_nothing() -> None:
    Tally().write()

    assert not HourCount.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_writers_at_the_same_time_lose_nothing() -> None:
    """In whatever order each counted: none waits for another for ever."""

    def write(number: int) -> None:
        modalities = ["CT", "MR", "US"][:: 1 if number % 2 else -1]
        with transaction.atomic():
            _tally(*modalities).write()
        connection.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))

    assert _counts() == dict.fromkeys(("CT", "MR", "US"), (WRITERS, WRITERS * 10))
