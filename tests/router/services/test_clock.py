"""One clock: the database's on PostgreSQL, carried on by a clock that nobody sets."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from router.services import clock

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_read_at", None)


def test_is_aware_and_in_utc() -> None:
    assert clock.now().utcoffset() == timedelta(0)


def test_agrees_with_the_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_TIMESTAMP")
        (told,) = cursor.fetchone()
    moment = (
        told if isinstance(told, datetime) else datetime.fromisoformat(told).replace(tzinfo=UTC)
    )

    assert abs(clock.now() - moment) < MINUTE


def test_never_goes_back() -> None:
    moments = [clock.now() for _ in range(1000)]

    assert moments == sorted(moments)


def test_a_step_of_the_host_does_not_show_on_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite has no clock of its own; there the fencing number keeps leases right."""
    before = clock.now()

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override] # a stand-in
            return before + timedelta(hours=1)

    monkeypatch.setattr(clock, "datetime", Stepped)
    stepped = clock.now() - before

    assert (stepped < MINUTE) == (connection.vendor == "postgresql")


def test_is_shifted_for_a_while_only() -> None:
    with clock.shifted(timedelta(hours=8)), clock.shifted(timedelta(hours=1)):
        assert clock.now() - datetime.now(UTC) > timedelta(hours=8, minutes=59)

    assert abs(clock.now() - datetime.now(UTC)) < MINUTE


def test_the_database_is_asked_seldom(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    with django_assert_max_num_queries(1):
        for _ in range(100):
            clock.now()
