"""The stop flag of a process and its children: asked between items and PDUs.

The flag is a file that the watchdog makes, so every worker sees it however the signals fell.
"""

import os
import time
from pathlib import Path

VARIABLE = "ROUTER_STOP_FILE"


def request(path: Path) -> None:
    """Ask every process that was started with this stop file to end soon."""
    path.touch()


GRACE_SECONDS = 15.0


def overdue() -> bool:
    """Tell whether the stop was asked for so long ago that what is in flight must be broken off."""
    try:
        asked = Path(os.environ[VARIABLE]).stat().st_mtime
    except (KeyError, FileNotFoundError):
        return False
    return time.time() - asked > GRACE_SECONDS


def requested() -> bool:
    """Tell whether this process was asked to end."""
    path = os.environ.get(VARIABLE)
    return path is not None and Path(path).exists()
