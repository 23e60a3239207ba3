"""Connections that came to nothing: one log line a kind and second, and the journal.

The accept loop may not wait for a disk, so a thread of its own writes. Lines are folded, so a
flood costs a line a second. It refuses to grow: past a number of kinds the rest are one.
"""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

FOLD_SECONDS = 1.0
MOST_KINDS = 256
OTHERS = "*"

# host, reason
Journal = Callable[[str, str], None]


class Notices:
    """Writes what `put` was told, soon, from a thread that starts with the first notice."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: dict[tuple[str, str], int] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def put(self, host: str, reason: str) -> None:
        """Note one connection; never waits."""
        with self._changed:
            key = (host, reason)
            if key not in self._waiting and len(self._waiting) >= MOST_KINDS:
                key = (OTHERS, reason)
            self._waiting[key] = self._waiting.get(key, 0) + 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write what is left and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                taken, self._waiting = self._waiting, {}
                is_last = self._is_closing
            for (host, reason), count in taken.items():
                self._write(host, reason, count)
            if is_last:
                return
            time.sleep(FOLD_SECONDS)

    def _write(self, host: str, reason: str, count: int) -> None:
        log.warning("connection.refused", extra={"remote": host, "reason": reason, "count": count})
        try:
            for _ in range(count):
                self._journal(host, reason)
        except (OSError, ValueError) as error:
            log.error("rejection.not_journaled", extra={"error": str(error)})
