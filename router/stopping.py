"""The stop flag of a worker process: asked between items and PDUs, set by SIGTERM."""

import threading

_flag = threading.Event()


def request() -> None:
    """Ask whatever runs in this process to end soon."""
    _flag.set()


def requested() -> bool:
    """Tell whether this process was asked to end."""
    return _flag.is_set()
