"""Processes that serve one listener: forked, watched, replaced when they die, stopped in order.

The parent binds and listens; the children inherit the socket and accept from it. Over
SO_REUSEPORT that has three advantages: a port in use is an error of the command itself, a child
that dies takes no waiting connection with it (the backlog belongs to the shared socket), and its
replacement serves at once without binding anything.

The parent does nothing but watch. It refuses to know DICOM and Django.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from router import lifeline

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.1
STOP_SECONDS = 29.0
# A child that dies younger than this is replaced after a pause, so a broken one does not spin.
YOUNG_SECONDS = 5.0
PAUSE_SECONDS = 1.0
# A child whose parent is gone ends in order, but soon: a new product wants the port.
ORPHAN_SECONDS = 4.0

# What a child runs: it calls the first when it serves, and ends soon after the second is set.
Serve = Callable[[Callable[[], None], threading.Event], None]


class Processes:
    """A fixed number of children. `on_death` is told the process id of each that ended."""

    def __init__(self, count: int, serve: Serve, *, on_death: Callable[[int], None]) -> None:
        self._count = count
        self._serve = serve
        self._on_death = on_death
        self._born: dict[int, float] = {}
        self._next_birth = 0.0
        self._is_stopping = False
        self._ready_read, self._ready_write = os.pipe()
        self._life_read, self._life_write = os.pipe()

    def run(self, on_ready: Callable[[], None]) -> int:
        """Keep the children alive until SIGTERM or SIGINT; 0 when all ended in order.

        `on_ready` is called once, when every child serves.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        os.set_blocking(self._ready_read, False)
        waiting = self._count
        while not self._is_stopping:
            self._raise_children()
            self._reap()
            if waiting > 0:
                waiting -= self._count_ready()
                if waiting <= 0:
                    on_ready()
            time.sleep(WATCH_SECONDS)
        return self._end_children()

    def _stop(self, *_: object) -> None:
        self._is_stopping = True

    def _raise_children(self) -> None:
        if time.monotonic() < self._next_birth:
            return
        parent = os.getpid()
        while len(self._born) < self._count:
            pid = os.fork()
            if not pid:
                self._be_child(parent)
            self._born[pid] = time.monotonic()

    def _reap(self) -> list[int]:
        """Collect children that ended; their exit statuses."""
        statuses = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                born = self._born.pop(pid, None)
                if born is None:
                    continue
                statuses.append(status)
                self._on_death(pid)
                self._mourn(pid, status, lived=time.monotonic() - born)
        return statuses

    def _mourn(self, pid: int, status: int, *, lived: float) -> None:
        if self._is_stopping:
            return
        log.error("receiver.process_died", extra={"pid": pid, "status": status})
        if lived < YOUNG_SECONDS:
            self._next_birth = time.monotonic() + PAUSE_SECONDS

    def _count_ready(self) -> int:
        try:
            return len(os.read(self._ready_read, self._count))
        except BlockingIOError:
            return 0

    def _end_children(self) -> int:
        deadline = time.monotonic() + STOP_SECONDS
        self._signal(signal.SIGTERM)
        statuses: list[int] = []
        while self._born and time.monotonic() < deadline:
            statuses += self._reap()
            time.sleep(WATCH_SECONDS)
        if self._born:
            log.error("receiver.processes_killed", extra={"pids": sorted(self._born)})
            self._signal(signal.SIGKILL)
            return 1
        return 1 if any(statuses) else 0

    def _signal(self, number: int) -> None:
        for pid in self._born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _be_child(self, parent: int) -> None:
        """Serve and exit; never returns into the parent's code."""
        status = 1
        try:
            os.close(self._life_write)
            stopping = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stopping.set())
            lifeline.end_with(parent, signal.SIGTERM)
            threading.Thread(target=self._watch_parent, args=(stopping,), daemon=True).start()
            self._serve(self._say_ready, stopping)
            status = 0
        except Exception:
            log.exception("receiver.process_failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _say_ready(self) -> None:
        os.write(self._ready_write, b".")

    def _watch_parent(self, stopping: threading.Event) -> None:
        """Stop when the parent is gone: nobody would replace or end us, or may wait for us."""
        os.read(self._life_read, 1)
        stopping.set()
        time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)
