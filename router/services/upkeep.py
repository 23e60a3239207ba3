"""Small repeated chores of the watchdog: SQLite's log, old heartbeats, live leases."""

from datetime import timedelta

from django.db import connection
from django_q.models import Task

from router.models import Heartbeat, ItemState, JobItem, LaneSlot
from router.services import clock, heartbeats, liveness, proofs

FORGET_AFTER = timedelta(minutes=2)
KEEP_FAILURES = timedelta(days=7)
SWEEP_BEATS = timedelta(seconds=5)
SWEEP_SILENT = timedelta(seconds=20)
"""Silence of so long means that the database was away; a lease outlives a shorter one."""


def checkpoint() -> None:
    """Bring SQLite's write-ahead log into the database; the one process that may do so."""
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


def was_silent() -> bool:
    """Tell whether no sign of a database that is there was written for long."""
    return not heartbeats.is_alive("sweep", within=SWEEP_SILENT)


def show_database() -> None:
    """Write a sign that the database is there, every 5 s."""
    if not heartbeats.is_alive("sweep", within=SWEEP_BEATS):
        heartbeats.beat("sweep")


def keep_from_silence() -> None:
    """Write that sign while a sweep waits behind busy workers; to end a silence is the sweep's."""
    if not was_silent():
        show_database()


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
