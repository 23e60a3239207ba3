"""Whether this installation is ready to work: each part asked, yes or no.

The page that answers the public says only ready or not; the names of what failed are for those who
may see health. A failed part is logged with its reason.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.db import DatabaseError, connection

from router import storage
from router.services import heartbeats

log = logging.getLogger(__name__)

# Never one of our keys: row ids begin at 1.
PROBE_KEY = "0/0/0/readiness.dcm"


def database() -> bool:
    """Tell whether the database answers."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone() == (1,))


def object_storage() -> bool:
    """Tell whether the storage may be written (files) or answers for an unknown key (bucket)."""
    found = storage.objects()
    if isinstance(found, storage.FileStorage):
        standing = next(folder for folder in (found.root, *found.root.parents) if folder.exists())
        return standing.is_dir() and os.access(standing, os.W_OK | os.X_OK)
    with contextlib.suppress(FileNotFoundError):
        found.size(PROBE_KEY)
    return True


def disk() -> bool:
    """Tell whether the free space is above the mark below which intake refuses."""
    return disk_state(fullest_volume().free) != "refuse"


@dataclass(frozen=True)
class Volume:
    """A volume in bytes."""

    total: int
    free: int


def fullest_volume() -> Volume:
    """Return the volume with the least room of those that hold data directory, spool and objects.

    Usually it is one and the same.
    """
    folders = [Path(settings.DATA_DIR), Path(settings.SPOOL_DIR)]
    found = storage.objects()
    if isinstance(found, storage.FileStorage):
        folders.append(found.root)
    usages = [shutil.disk_usage(folder) for folder in folders if folder.exists()]
    least = min(usages, key=lambda usage: usage.free)
    return Volume(least.total, least.free)


def disk_state(free: int) -> str:
    """Say what intake does at so many free bytes: ``open``, ``slow`` or ``refuse``."""
    if free < settings.DISK_REFUSE:
        return "refuse"
    return "slow" if free < settings.DISK_SLOW else "open"


def receiver() -> bool:
    """Tell whether a receiver gave a sign of life within 30 s."""
    return heartbeats.is_alive("receiver")


def worker() -> bool:
    """Tell whether a worker gave a sign of life within 30 s."""
    return heartbeats.is_alive("worker")


CHECKS: dict[str, Callable[[], bool]] = {
    "database": database,
    "storage": object_storage,
    "disk": disk,
    "receiver": receiver,
    "worker": worker,
}


def failing() -> list[str]:
    """Return the names of the parts that are not ready, in the order they are asked."""
    return [name for name, check in CHECKS.items() if not _passes(name, check)]


def _passes(name: str, check: Callable[[], bool]) -> bool:
    try:
        ready = check()
    except (DatabaseError, OSError, BotoCoreError, ClientError) as error:
        log.warning("readiness.failed", extra={"part": name, "error": type(error).__name__})
        return False
    if not ready:
        log.warning("readiness.failed", extra={"part": name, "error": "not ready"})
    return ready
