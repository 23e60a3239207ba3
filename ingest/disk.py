"""What a filling volume means for intake: slower below one mark, refused below the other.

`DiskGate.delay` answers for each object; `look` is called every few seconds, so that a change is
reported when nothing arrives too. It refuses to know who is told and to free anything.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

log = logging.getLogger(__name__)

SLOWEST = 0.25
# A better state is reported when it has lasted, so that a volume at a mark raises no storm.
CALM_SECONDS = 10.0

DiskState = Literal["open", "slow", "refusing"]
Report = Callable[[DiskState, int], None]
_RANK: dict[DiskState, int] = {"open": 0, "slow": 1, "refusing": 2}


class DiskGate:
    """Slows or refuses intake as the spool's volume fills up, and reports each change once."""

    def __init__(
        self,
        free_bytes: Callable[[], int],
        *,
        slow: int,
        refuse: int,
        report: Report | None = None,
        calm_seconds: float = CALM_SECONDS,
    ) -> None:
        self._free_bytes = free_bytes
        self._slow = slow
        self._refuse = refuse
        self._report = report
        self._calm_seconds = calm_seconds
        self._lock = threading.Lock()
        self._state: DiskState = "open"
        self._better_since = 0.0

    def delay(self) -> float | None:
        """Seconds to wait before an object is taken; None when none is."""
        free = self._free_bytes()
        state = self._judge(free)
        self._note(state, free)
        if state == "refusing":
            return None
        if state == "open":
            return 0.0
        return SLOWEST * (self._slow - free) / (self._slow - self._refuse)

    def look(self) -> None:
        """See whether the state changed though nothing arrives."""
        try:
            free = self._free_bytes()
        except OSError as error:
            log.error("disk.unreadable", extra={"error": str(error)})
            return
        self._note(self._judge(free), free)

    def overflowed(self) -> None:
        """A write failed for want of room, whatever the marks say (quota, inodes, a race)."""
        self._note("refusing", self._free_bytes())

    def _judge(self, free: int) -> DiskState:
        if free < self._refuse:
            return "refusing"
        return "slow" if free < self._slow else "open"

    def _note(self, state: DiskState, free: int) -> None:
        with self._lock:
            if not self._is_news(state):
                return
            self._state = state
        level = logging.INFO if state == "open" else logging.ERROR
        log.log(level, "disk.%s", state, extra={"free": free})
        if self._report is not None:
            self._report(state, free)

    def _is_news(self, state: DiskState) -> bool:
        """Whether to report: a worse state at once, a better one when it has lasted."""
        now = time.monotonic()
        if _RANK[state] >= _RANK[self._state]:
            self._better_since = 0.0
            return state != self._state
        self._better_since = self._better_since or now
        if now - self._better_since < self._calm_seconds:
            return False
        self._better_since = 0.0
        return True
