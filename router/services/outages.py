"""Writes that must not be lost because the database is away for a while.

Repeats them until the database takes them; gives up only where the caller says so. Holds nothing
of its own, so what waits is bounded by what the caller holds.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

T = TypeVar("T")

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
TROUBLE = (OperationalError, InterfaceError)


def insist(write: Callable[[], T], *, give_up: Callable[[], bool]) -> T:
    """Return what `write` returns, once the database has taken it.

    Args:
        write: one transaction that may be tried again, also when its commit was not answered.
        give_up: asked after each failure; true lets the failure out.

    Raises:
        OperationalError, InterfaceError: the database is away and we gave up, or a transaction of
            the caller's is open, which is over then.
    """
    while True:
        try:
            return write()
        except TROUBLE:
            if connection.in_atomic_block or give_up():
                raise
            forget()
            time.sleep(PAUSE_SECONDS)


def forget() -> None:
    """After a failure: close the connection, so that the next query opens a new one."""
    log.warning("delivery.database_away")
    connection.close()
