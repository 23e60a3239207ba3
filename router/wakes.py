"""A named pipe on which one process wakes another of the same host.

A wake is a hint: it may come for nothing, and it may be missed. It refuses to carry anything.
"""

import errno
import logging
import os
import select
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
# Nobody waits, or the pipe is full of wakes already.
_UNHEARD = frozenset({errno.ENXIO, errno.ENOENT, errno.EAGAIN})


class Pipe:
    """The end that waits; of several waiting on one path, a wake is for any one."""

    def __init__(self, path: Path) -> None:
        self._fd = _opened(path)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def wait(self, seconds: float) -> bool:
        """Wait to be woken; False when time ran out, on a volume without pipes after 100 ms."""
        if self._fd < 0:
            time.sleep(min(seconds, POLL_SECONDS))
            return False
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return False
        with suppress(BlockingIOError):  # another one waiting was quicker
            os.read(self._fd, 1 << 16)
        return True


def _opened(path: Path) -> int:
    """Open the pipe for reading; for writing too, so that it has no end. -1 where there is none."""
    try:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        log.warning("wakes.without_pipe", extra={"error": error.strerror})
        return -1


def wake(path: Path) -> None:
    """Wake one process that waits, if any does."""
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(pipe, b"\x00")
        finally:
            os.close(pipe)
    except OSError as error:
        if error.errno not in _UNHEARD:
            log.warning("wakes.unheard", extra={"error": error.strerror})
