"""Random faults one after the other, each with its end: what a soak and the oracle run go through.

A kill of a role; at a far end or before it a cut, a stall, a slow line, a refusal, a status, some
time of absence; and a database that does not answer for a while.
"""

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import psutil

from tests.faults.kills import ROLES, Roles
from tests.faults.load import Far
from tests.faults.postgres import PostgreSQL
from tests.faults.proxy import End, Fault, FaultProxy
from tests.faults.site import Background, Site

LOCAL_LIMIT = (2, 3, 2)  # A-ASSOCIATE-RJ: transient, presentation service, local limit exceeded
ENDS: tuple[End, ...] = ("close", "reset", "half")
PASSING = (0xA700, 0x0110, 0xB000, 0xB007)
PAUSES = (20.0, 60.0)
JOINS = 150.0  # seconds; no fault lasts longer


class Mishaps:
    """`turn()` now and then: begins the next fault when its time has come."""

    def __init__(
        self,
        site: Site,
        server: PostgreSQL | None,
        seed: int,
        *,
        pauses: tuple[float, float] = PAUSES,
        longest: float = 60.0,
        lines: Sequence[FaultProxy] = (),
    ) -> None:
        self._site, self._server = site, server
        self._lines = [*lines, *(far.proxy for far in site.far.values())]
        self._chance = random.Random(seed)
        self._pauses, self._longest = pauses, longest
        self._running: Background | None = None
        self._name, self._ended = "", 0.0
        self._next = time.monotonic() + self._chance.uniform(*pauses)
        self._bag: list[str] = []
        self._roles: list[str] = []
        self.counts: Counter[str] = Counter()

    def turn(self, *, may_kill: bool = True) -> None:
        """Look whether a fault has ended and another is due. Raises what a fault raised."""
        if self._running is not None:
            if self._running.is_running:
                return
            self.finish()
        if time.monotonic() >= self._next:
            self._begin(may_kill=may_kill)

    def finish(self) -> None:
        """Wait for the end of the fault that is on."""
        if self._running is not None:
            self._running.join(JOINS)
            self._running, self._ended = None, time.monotonic()
            self._next = self._ended + self._chance.uniform(*self._pauses)

    def lately(self, seconds: float) -> str:
        """The fault that is on, or the last, when it ended less than `seconds` ago."""
        recent = self._running is not None or (
            self._name and time.monotonic() - self._ended < seconds
        )
        return self._name if recent else ""

    def _begin(self, *, may_kill: bool) -> None:
        if not self._bag:
            self._bag = [*FAULTS, "status", "cut"]
            self._chance.shuffle(self._bag)
        kind = self._bag.pop()
        if kind == "kill" and not may_kill:
            return
        detail = self._role() if kind == "kill" else ""
        self._name = f"{kind} {detail}".strip()
        self.counts[self._name] += 1
        self._running = Background(lambda: FAULTS[kind](self))

    def _role(self) -> str:
        if not self._roles:
            self._roles = list(ROLES)
            self._chance.shuffle(self._roles)
        return self._roles[-1]

    # --- the faults -------------------------------------------------------------------------------
    def kill(self) -> None:
        """SIGKILL to one process of a role; all roles are back when this returns."""
        roles = Roles(self._site.product)
        victims = roles.of(self._roles.pop())
        if victims:
            victim = self._chance.choice(victims)
            victim.kill()
            psutil.wait_procs([victim], timeout=10)
        Roles(self._site.product)  # waits until all are there

    def cut(self) -> None:
        """Connections to a far end end badly after some bytes of either direction."""
        fault = Fault("cut", up_bytes=self._chance.randint(1, 60_000))
        if self._chance.random() < 0.5:
            fault = Fault("cut", down_bytes=self._chance.randint(1, 1200))
        self._line(replace(fault, end=self._chance.choice(ENDS)), 5, 15)

    def stall(self) -> None:
        """A far end stops reading, or answers no more."""
        fault = Fault("stall", up_bytes=self._chance.randint(1, 60_000), end="stall")
        if self._chance.random() < 0.5:
            fault = Fault("stall", down_bytes=self._chance.randint(1, 1200), end="stall")
        self._line(fault, 8, 20)

    def slow(self) -> None:
        """A slow line."""
        self._line(Fault("slow", rate=200_000.0), 5, 15)

    def down(self) -> None:
        """A far end is away: every connection to it ends, and so does each new one."""
        line = self._chance.choice(self._lines)
        line.fault = Fault("down", up_bytes=0)
        for one in list(line._open):
            one.end()
        time.sleep(self._longest)
        line.heal()

    def refuse(self) -> None:
        """A far end rejects every association for the time being."""
        far = self._far()
        script = far.sink.script
        far.sink.script = replace(script, reject=LOCAL_LIMIT)
        time.sleep(self._chance.uniform(5, 15))
        far.sink.script = script

    def status(self) -> None:
        """A far end answers some objects with a failure that passes, or with a warning."""
        far = self._far()
        far.sink.answers.extend(self._chance.choices(PASSING, k=self._chance.randint(1, 20)))

    def database(self) -> None:
        """The database does not answer: frozen, or locked by somebody else."""
        seconds = min(self._chance.uniform(3, 15), self._longest)
        if self._server is not None:
            self._server.freeze()
            time.sleep(seconds)
            self._server.resume()
            return
        path = self._site.product.data_dir / "router.sqlite3"
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            file.execute("ROLLBACK")

    def _far(self) -> Far:
        far = self._chance.choice(list(self._site.far.values()))
        assert isinstance(far, Far)
        return far

    def _line(self, fault: Fault, least: float, most: float) -> None:
        line = self._chance.choice(self._lines)
        line.fault = fault
        time.sleep(self._chance.uniform(least, most))
        line.heal()


FAULTS: dict[str, Callable[[Mishaps], None]] = {
    "kill": Mishaps.kill,
    "cut": Mishaps.cut,
    "stall": Mishaps.stall,
    "slow": Mishaps.slow,
    "down": Mishaps.down,
    "refuse": Mishaps.refuse,
    "status": Mishaps.status,
    "database": Mishaps.database,
}
