"""A database that is away for a while, for the connection of the test's own thread."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, connections


@contextmanager
def outage(after: threading.Event, *, seconds: float) -> Iterator[None]:
    """Once `after` is set, fail the writes of this thread's connection for `seconds`, or end it."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA busy_timeout = 0")
            job = threading.Thread(target=_lock, args=(after, seconds))
        else:
            cursor.execute("SELECT pg_backend_pid()")
            job = threading.Thread(target=_end, args=(after, cursor.fetchone()[0]))
    job.start()
    try:
        yield
    finally:
        after.set()
        job.join()


def _lock(after: threading.Event, seconds: float) -> None:
    name = str(connection.settings_dict["NAME"])
    with sqlite3.connect(name, isolation_level=None) as other:
        after.wait(30)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        other.execute("ROLLBACK")
    other.close()


def _end(after: threading.Event, process: int) -> None:
    after.wait(30)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [process])
    connections.close_all()
