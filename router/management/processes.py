"""Start child processes, watch them, and end them without leaving any behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from django.conf import settings

from router import lifeline

log = logging.getLogger(__name__)

STOP_SECONDS = 29.0
STANDARD_ERROR = 2


class StopRequest:
    """Becomes true on SIGTERM, SIGINT, or when the terminal is closed (but under ``nohup``)."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, _signum: int, _frame: object) -> None:
        self.requested = True

    def wait(self, seconds: float) -> bool:
        """Sleep, waking early when asked to stop; tell whether it was asked."""
        limit = time.monotonic() + seconds
        while not self.requested and time.monotonic() < limit:
            time.sleep(min(0.1, seconds))
        return self.requested


def start(
    arguments: Sequence[str], *, extra: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``manage.py`` with ``arguments`` in a process group of its own.

    It ends when this process does, at once and however: what it had in hand is taken up again from
    the ledger, and a product started anew finds its ports free. To be called by the main thread.
    It talks on standard error: standard output belongs to whoever started the product.
    """
    manage = Path(settings.BASE_DIR) / "manage.py"
    return subprocess.Popen(  # noqa: S603 - our own program and literal arguments
        [sys.executable, str(manage), *arguments],
        env={**os.environ, **(extra or {})},
        stdout=STANDARD_ERROR,
        start_new_session=True,
        preexec_fn=partial(lifeline.end_with, os.getpid()),  # noqa: PLW1509 - calls prctl, no more
    )


def stop(children: Sequence[subprocess.Popen[bytes]], *, seconds: float = STOP_SECONDS) -> bool:
    """Ask children to end, wait, then kill whatever is left of their groups.

    Returns:
        True when all had ended by themselves.
    """
    for child in children:
        if child.poll() is None:
            child.terminate()
    limit = time.monotonic() + seconds
    in_time = all(_wait(child, limit) for child in children)
    for child in children:
        kill_group(child)
    return in_time


def _wait(child: subprocess.Popen[bytes], limit: float) -> bool:
    try:
        child.wait(max(0.0, limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        log.warning("process.overdue", extra={"pid": child.pid})
        return False
    return True


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a child's process group."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()
