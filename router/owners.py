"""Which process owns a folder of the spool, and whether that process still lives.

A process holds an advisory lock (flock) on a file of its own for as long as it runs; the kernel
lets go of it however the process ends. That answers "is the owner dead?" across containers that
share a volume, where process ids mean nothing, and without any race on re-used process ids. The
process id, its start and the boot are kept beside it for people.

It refuses to know what a folder holds: that is the spool's business.
"""

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STALE_AFTER = 3600.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TOKEN_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Owner:
    """One run of one process. `lock` names its lock file."""

    pid: int
    process_start: int
    boot_id: str
    lock: str

    def to_dict(self) -> dict[str, int | str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Owner":  # Any: decoded JSON, checked here
        lock = str(data["lock"])
        if len(lock) != _TOKEN_LENGTH or not lock.isalnum():
            raise ValueError(f"an owner's lock is {_TOKEN_LENGTH} hex digits, not {lock!r}")
        return cls(
            pid=int(data["pid"]),
            process_start=int(data["process_start"]),
            boot_id=str(data["boot_id"]),
            lock=lock,
        )


class Owners:
    """The lock files of the processes that use one spool."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mutex = threading.Lock()
        self._me: Owner | None = None
        self._fd = -1

    def me(self) -> Owner:
        """This process as an owner; its lock is taken on first use, anew after a fork."""
        with self._mutex:
            if self._me is None or self._me.pid != os.getpid():
                self._me = self._register()
            return self._me

    def is_alive(self, owner: Owner) -> bool:
        try:
            fd = os.open(self._folder / owner.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    def has_ended(self, lock: str) -> bool:
        """Tell whether the process of a lock file has ended; a file that is not here says no."""
        if len(lock) != _TOKEN_LENGTH or not lock.isalnum():
            return False
        try:
            fd = os.open(self._folder / lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return _try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    @contextmanager
    def claim(self, owner: Owner) -> Iterator[bool]:
        """Stand in for a dead `owner`; False when it lives or another process was quicker."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._folder / owner.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _try_lock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    def sweep(self, *, keep: frozenset[str]) -> int:
        """Remove lock files of dead processes that no folder names any more."""
        removed = 0
        with suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                if path.name not in keep and _is_stale(path) and _unlink_if_free(path):
                    removed += 1
        return removed

    def _register(self) -> Owner:
        self._folder.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        # The descriptor is kept open on purpose: it is the lock, and it ends with the process.
        self._fd = os.open(
            self._folder / token, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return Owner(os.getpid(), _process_start(), _boot_id(), token)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_stale(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > STALE_AFTER
    return False


def _unlink_if_free(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not _try_lock(fd, fcntl.LOCK_EX):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def _process_start() -> int:
    """Clock ticks between boot and the start of this process; 0 where /proc is not."""
    with suppress(OSError, ValueError, IndexError):
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        return int(stat.rpartition(")")[2].split()[19])
    return 0


def _boot_id() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""
