"""Small repeated chores of the watchdog: SQLite's log, old heartbeats, live leases."""

from datetime import timedelta

from django.db import connection
from django_q.models import Task

from router.models import Heartbeat, ItemState, JobItem, LaneSlot
from router.services import clock, liveness, proofs

FORGET_AFTER = timedelta(minutes=2)
KEEP_FAILURES = timedelta(days=7)


def checkpoint() -> None:
    """Bring SQLite's write-ahead log into the database; the one process that may do so."""
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


def forget_old_heartbeats() -> None:
    """Drop the rows of processes that have been silent for two minutes."""
    Heartbeat.objects.filter(at__lt=clock.now() - FORGET_AFTER).delete()


def forget_failed_tasks() -> None:
    """Drop what django-q2 keeps of tasks that failed over a week ago; the log has them."""
    Task.objects.filter(stopped__lt=clock.now() - KEEP_FAILURES).delete()


def forget_ended_workers() -> int:
    """Drop the lock files of workers that ended long ago and hold no lease."""
    leased = JobItem.objects.filter(state=ItemState.LEASED).order_by()
    slots = LaneSlot.objects.exclude(owner="")
    names = {*leased.values_list("owner", flat=True).distinct()}
    return liveness.sweep(names | proofs.owners() | {*slots.values_list("owner", flat=True)})


def leases_advance() -> bool:
    """Tell whether some worker renews a lease: it is alive, though busy."""
    now = clock.now()
    held = LaneSlot.objects.exclude(owner="").filter(lease_until__gt=now)
    return held.exists() and JobItem.objects.filter(lease_until__gt=now).exists()
