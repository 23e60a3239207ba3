"""Small repeated chores of the watchdog: SQLite's log, old heartbeats, live leases."""

from datetime import timedelta

from django.db import connection

from router.models import Heartbeat, JobItem, LaneSlot
from router.services import clock

FORGET_AFTER = timedelta(minutes=2)


def checkpoint() -> None:
    """Bring SQLite's write-ahead log into the database; the one process that may do so."""
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


def forget_old_heartbeats() -> None:
    """Drop the rows of processes that have been silent for two minutes."""
    Heartbeat.objects.filter(at__lt=clock.now() - FORGET_AFTER).delete()


def leases_advance() -> bool:
    """Tell whether some worker renews a lease: it is alive, though busy."""
    now = clock.now()
    held = LaneSlot.objects.exclude(owner="").filter(lease_until__gt=now)
    return held.exists() and JobItem.objects.filter(lease_until__gt=now).exists()
