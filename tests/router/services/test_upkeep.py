"""The chores of the watchdog, and the signs of life it goes by."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django_q.models import Task

from router.models import Heartbeat, ItemState, LaneSlot
from router.services import clock, heartbeats, upkeep
from tests import factories

SECOND = timedelta(seconds=1)


@pytest.mark.django_db(transaction=True)
def test_brings_the_log_of_sqlite_into_the_database() -> None:
    factories.study()
    if connection.vendor == "sqlite":
        log = Path(str(connection.settings_dict["NAME"]) + "-wal")
        database = Path(str(connection.settings_dict["NAME"]))
        before = database.stat().st_mtime_ns
        assert log.stat().st_size > 0

        upkeep.checkpoint()

        assert database.stat().st_mtime_ns > before
    else:
        upkeep.checkpoint()  # nothing to do there, and no error


@pytest.mark.django_db
def test_forgets_processes_that_are_silent_for_two_minutes() -> None:
    heartbeats.beat("receiver", waiting=3)
    factories.heartbeat("web", at=clock.now() - timedelta(minutes=3))

    upkeep.forget_old_heartbeats()

    assert [row.role for row in Heartbeat.objects.all()] == ["receiver"]
    assert Heartbeat.objects.get().facts == {"waiting": 3}


@pytest.mark.django_db
def test_a_process_lives_as_long_as_its_sign_is_fresh() -> None:
    heartbeats.beat("receiver")

    assert heartbeats.is_alive("receiver")
    assert not heartbeats.is_alive("web")
    with clock.shifted(31 * SECOND):
        assert not heartbeats.is_alive("receiver")
        assert heartbeats.is_alive("receiver", within=timedelta(seconds=90))

    heartbeats.end("receiver")
    assert not heartbeats.is_alive("receiver")


@pytest.mark.django_db
@pytest.mark.parametrize(("slot", "item"), [(True, True), (True, False), (False, True)])
def test_a_lease_that_advances_needs_a_slot_and_an_item(slot: bool, item: bool) -> None:
    until = clock.now() + 30 * SECOND
    leased = factories.item(state=ItemState.LEASED, lease_until=until if item else None)
    owner = "w" if slot else ""
    LaneSlot.objects.create(
        destination=leased.destination, number=0, owner=owner, lease_until=until
    )

    assert upkeep.leases_advance() == (slot and item)
    with clock.shifted(31 * SECOND):
        assert not upkeep.leases_advance()


@pytest.mark.django_db
def test_failed_tasks_are_kept_for_a_week() -> None:
    now = clock.now()
    for number, age in enumerate((1, 8)):
        moment = now - timedelta(days=age)
        Task.objects.create(
            id=str(number),
            name=str(number),
            func="f",
            success=False,
            started=moment,
            stopped=moment,
        )
    upkeep.forget_failed_tasks()
    assert [task.id for task in Task.objects.all()] == ["0"]
