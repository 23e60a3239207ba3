"""The one clock: the database's on PostgreSQL, the host's on SQLite.

Leases, timers and receipts are compared with this clock only, so several hosts agree.
Tests shift it with ``shifted``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic

from django.db import connection

_RESYNC_SECONDS = 30.0
_shift = timedelta(0)
_offset = timedelta(0)
_read_at: float | None = None


def now() -> datetime:
    """Return the current time, aware, UTC.

    The difference to the database's clock is read anew every 30 s; between two readings the
    host's monotonic clock carries it on, so a step of the host's clock cannot show.
    """
    global _offset, _read_at
    if connection.vendor != "postgresql":
        return datetime.now(UTC) + _shift
    ticks = monotonic()
    if _read_at is None or ticks - _read_at > _RESYNC_SECONDS:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            row = cursor.fetchone()
        _read_at = ticks = monotonic()
        _offset = row[0] - datetime.fromtimestamp(ticks, UTC)
    return datetime.fromtimestamp(ticks, UTC) + _offset + _shift


@contextmanager
def shifted(by: timedelta) -> Iterator[None]:
    """Move the clock for the time of a test."""
    global _shift
    before, _shift = _shift, _shift + by
    try:
        yield
    finally:
        _shift = before
