"""How long an exchange may last and who is told of its progress; no sockets."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from router.dimse.errors import Stalled, Stopped

TICK = 0.25
"""Longest time in seconds that a wait lasts before the stop flag is looked at again."""


def _nothing(_moved: int) -> None:
    return None


def _never() -> bool:
    return False


def _forever(_size: int) -> float:
    return float("inf")


@dataclass(frozen=True, slots=True)
class Pace:
    """`progress` hears of bytes moved, `stop` ends the exchange, `stall` is the longest
    standstill in seconds while sending, `deadline` the longest time in seconds for an object of
    so many bytes."""

    progress: Callable[[int], None] = _nothing
    stop: Callable[[], bool] = _never
    stall: float = 30.0
    deadline: Callable[[int], float] = _forever


class Patience:
    """Counts down one wait: `tick()` gives the seconds to wait now, or raises when it is over,
    with `otherwise` as the reason."""

    def __init__(self, seconds: float, pace: Pace, *, otherwise: str, until: float) -> None:
        self._seconds, self._pace, self._otherwise = seconds, pace, otherwise
        self._until = until
        self.renew()

    def renew(self) -> None:
        """Something moved: count from now."""
        self._end = time.monotonic() + self._seconds

    def tick(self) -> float:
        """Return how long to wait before asking again.

        Raises:
            Stopped: the stop flag is up.
            Stalled: the time is over.
        """
        if self._pace.stop():
            raise Stopped
        now = time.monotonic()
        if now >= self._until:
            raise Stalled("the object took longer than its deadline allows")
        if now >= self._end:
            raise Stalled(self._otherwise)
        return min(TICK, self._end - now, self._until - now)
