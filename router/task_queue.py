"""The queue of django-q2 in our database, whose reader is woken instead of looking again and again.

On PostgreSQL a NOTIFY in the transaction that queues a task wakes every reader that LISTENs; on
SQLite, which is one host's, a byte in a named pipe of the data directory wakes one. Whatever is
missed is found by a look every half second. It refuses to know what tasks mean.
"""

import logging
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.utils import InterfaceError, OperationalError
from django_q.brokers.orm import ORM

from router import wakes

log = logging.getLogger(__name__)

CHANNEL = "router_bell"
PIPE = "bell"
LOOK_SECONDS = 0.5
AWAY_SECONDS = 1.0

Taken = list[tuple[int, str]]


class TaskQueue(ORM):  # type: ignore[misc] # django-q2 has no types
    """One process's end of the queue."""

    _pipe: wakes.Pipe | None = None
    _listening: Any = None  # Any: psycopg's connection, untyped here

    @staticmethod
    def get_connection(list_key: str = "") -> Any:  # Any: django-q2's query set
        """The rows of the queue, oldest first: a database gives them in any order otherwise."""
        return ORM.get_connection(list_key).order_by("pk")

    def enqueue(self, task: str) -> int:
        """Queue a signed task; whoever waits is woken once it is committed."""
        key = int(super().enqueue(task))
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"NOTIFY {CHANNEL}")
        else:
            transaction.on_commit(_wake)
        return key

    def dequeue(self) -> Taken | None:
        """Return what is queued, each with its key; wait for it, but half a second at most."""
        try:
            taken: Taken | None = super().dequeue()
            if not taken:
                self._wait()
        except (OperationalError, InterfaceError) as error:
            log.warning("queue.database_away", extra={"error": type(error).__name__})
            connection.close()
            time.sleep(AWAY_SECONDS)
            return None
        return taken

    def _wait(self) -> None:
        if connection.vendor == "postgresql":
            self._listen()
        else:
            self._read_pipe()

    def _listen(self) -> None:
        """Wait for a notice; on a new connection begin to listen and look again before."""
        connection.ensure_connection()
        driver: Any = connection.connection  # Any: as above
        if driver is not self._listening:
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            self._listening = driver
            return
        with connection.wrap_database_errors:
            list(driver.notifies(timeout=LOOK_SECONDS, stop_after=1))

    def _read_pipe(self) -> None:
        if self._pipe is None:
            self._pipe = wakes.Pipe(_path())
        self._pipe.wait(LOOK_SECONDS)


def _path() -> Path:
    return Path(settings.DATA_DIR) / PIPE


def _wake() -> None:
    wakes.wake(_path())
