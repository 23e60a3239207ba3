"""The stop flag of a process and its children: asked between items and PDUs.

The flag is a file that the watchdog makes, so every worker sees it however the signals fell.
"""

import os
from pathlib import Path

VARIABLE = "ROUTER_STOP_FILE"


def request(path: Path) -> None:
    """Ask every process that was started with this stop file to end soon."""
    path.touch()


def requested() -> bool:
    """Tell whether this process was asked to end."""
    path = os.environ.get(VARIABLE)
    return path is not None and Path(path).exists()
