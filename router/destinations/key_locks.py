"""One writer of ours at a time for a name at a far end that cannot be trusted to refuse a second.

The locks are of the kernel (open file description locks), on one small file of the data directory,
so that they hold between threads and processes of this machine and end with whoever held them. They
say nothing to writers of others.
"""

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

FOLDER, FILE = "locks", "keys"
PAUSE = 0.05
_FLOCK = struct.Struct("@hhqqi4x")


@contextmanager
def alone(name: str, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `name`; `waiting` is called again and again until it is free, and may raise."""
    folder = Path(settings.DATA_DIR) / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    opened = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _is_taken(opened, _place(name)):
            waiting()
            time.sleep(PAUSE)
        yield
    finally:
        os.close(opened)


def _place(name: str) -> int:
    """Return the byte of the file that stands for `name`."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2


def _is_taken(opened: int, place: int) -> bool:
    """Take the lock; tell whether it is ours now."""
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    try:
        fcntl.fcntl(opened, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        return False
    return True
