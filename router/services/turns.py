"""Turns: work that only one process does at a time, without waiting for one another.

A turn ends with its process, however that ends: on PostgreSQL it is an advisory lock of the
connection, on SQLite, which is one host's, a lock on a file of the data directory. It refuses to
be what correctness rests on: conditional updates are; a turn only saves doing work twice.
"""

import fcntl
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from django.conf import settings
from django.db import connection


@contextmanager
def turn(name: str) -> Iterator[bool]:
    """Take a turn for the time of the block; False when another process has it.

    Call outside transactions.
    """
    inner = _advisory(name) if connection.vendor == "postgresql" else _file(name)
    with inner as is_mine:
        yield is_mine


@contextmanager
def one_of(name: str, count: int) -> Iterator[bool]:
    """Take one of `count` turns for the time of the block; False when others have them all."""
    with ExitStack() as stack:
        yield any(stack.enter_context(turn(f"{name}-{number}")) for number in range(count))


@contextmanager
def _advisory(name: str) -> Iterator[bool]:
    key = zlib.crc32(f"router turn {name}".encode())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        is_mine = bool(cursor.fetchone()[0])
    try:
        yield is_mine
    finally:
        # A connection that broke meanwhile has taken its lock with it.
        if is_mine and connection.is_usable():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])


@contextmanager
def _file(name: str) -> Iterator[bool]:
    with (Path(settings.DATA_DIR) / f"{name}.turn").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
