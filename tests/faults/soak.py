"""The soak: the whole product at a steady rate for an hour, with random faults, watched.

`python -m tests.faults.soak --minutes 60 --rate 25` starts `manage.py up` in a folder of its own,
sends objects of many sizes over several associations to three DICOM far ends behind fault proxies
and a folder, breaks something every 20 to 60 seconds, samples every process every 10 seconds and
asks every minute whether anything stands that should not. At the end the books are compared, the
ledger is recounted with its hashes, and a line is drawn through what each process holds.

No process is killed in the last part, so that the lines are long enough. It appends one JSON line
to `bench/results/soak.jsonl`; the exit code is 0 when nothing was found.
"""
# ruff: noqa: T201 - it talks to whoever ran it

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tests.faults.books import Arrival
from tests.faults.ending import end_in_order
from tests.faults.invariants import Invariants
from tests.faults.load import Far, FolderEnd, Load
from tests.faults.mishaps import Mishaps
from tests.faults.postgres import PostgreSQL
from tests.faults.samples import Samples
from tests.faults.site import FOLDER, Site
from tests.faults.tagged import rules
from tests.product import Config
from tests.proof.delivered import folder_destination

RESULTS = Path(__file__).resolve().parents[2] / "bench/results/soak.jsonl"
DICOM = ("a", "b", "c")
NAMES = (*DICOM, FOLDER)
SAMPLE_EVERY, ASK_EVERY, COLLECT_EVERY = 10.0, 60.0, 5.0
CALM = 120.0  # seconds after a fault in which its consequences may still be seen
MOST_MEMORY_SLOPE = 1.0  # MiB an hour and process (R71)
MOST_FDS_SLOPE = 1.0  # open files an hour and process
SETTLES = 600.0  # on a machine that is busy with other things too
MOST_KILL_FREE = 25.0  # minutes
_PATH = re.compile(r"(/[\w.+-]+){2,}")  # of the machine it ran on; results are kept


@dataclass(frozen=True)
class Plan:
    """How long and how hard."""

    minutes: float
    rate: float
    associations: int = 4
    seed: int = 1
    database: str = "sqlite"

    @property
    def kill_free(self) -> float:
        """The last seconds, in which nothing is killed."""
        return min(MOST_KILL_FREE, self.minutes / 2) * 60

    @property
    def least_life(self) -> float:
        """Seconds that a process must have lived for a line."""
        return min(20.0, self.minutes / 3) * 60

    @property
    def settle(self) -> float:
        """The first seconds of a life, which are left out."""
        return min(10.0, self.minutes / 6) * 60


@dataclass
class Findings:
    """What was found, and what was merely the trace of a fault."""

    unexplained: list[str] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    longest_backlog: int = 0


class Ground(Site):
    """A site with three far ends that remember little, and a folder that is emptied."""

    def __init__(self, folder: Path, *, server: str, environment: Mapping[str, str]) -> None:
        super().__init__(folder, server=server, environment=environment)
        self.far = {name: Far(name) for name in DICOM}
        self.folder_end = FolderEnd(self.out)

    def configuration(self) -> Config:
        """Four destinations, and a rule for each."""
        destinations = [far.destination() for far in self.far.values()]
        destinations.append({**folder_destination(FOLDER, self.out), "retry": ["1s", "2s"]})
        return {"version": 1, "destinations": destinations, "rules": rules(NAMES)}

    def arrivals(self) -> dict[str, list[Arrival]]:
        """The books of the far ends."""
        found = {name: far.arrivals() for name, far in self.far.items()}
        return {**found, FOLDER: list(self.folder_end.arrivals)}

    def missing(self) -> set[tuple[str, str]]:
        """Pairs that were acknowledged and have not arrived."""
        there = {(one.uid, name) for name, some in self.arrivals().items() for one in some}
        return self.books.owed() - there

    def is_settled(self) -> bool:
        """Whether everything owed has arrived and the ledger has nothing left to do."""
        self.folder_end.collect()
        owed = sum(len(self.books.made[uid].destinations) for uid in self.books.acknowledged)
        arrived = sum(len(some) for some in self.arrivals().values())
        return arrived >= owed and super().is_settled()  # the cheap question first


class Soak:
    """One run on one ground."""

    def __init__(self, ground: Ground, server: PostgreSQL | None, plan: Plan) -> None:
        self.ground, self.plan = ground, plan
        self.samples, self.findings = Samples(), Findings()
        self.mishaps = Mishaps(ground, server, plan.seed)
        self._invariants = Invariants(ground.database_url, ground.product.data_dir)
        self._began = time.monotonic()
        self.load = Load(
            ground.books,
            ground.product.port,
            names=NAMES,
            rate=plan.rate,
            associations=plan.associations,
            seed=plan.seed,
        )

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """Send, break and watch for the whole time, then let everything settle."""
        length = self.plan.minutes * 60
        due = {self._sample: 0.0, self._ask: ASK_EVERY, self._collect: 0.0}
        every = {self._sample: SAMPLE_EVERY, self._ask: ASK_EVERY, self._collect: COLLECT_EVERY}
        self.load.start()
        while self.elapsed < length:
            for work, at in due.items():
                if self.elapsed >= at:
                    due[work] = self.elapsed + every[work]
                    work()
            self.mishaps.turn(may_kill=self.elapsed < length - self.plan.kill_free)
            time.sleep(0.2)
        self.mishaps.finish()
        self.load.stop()
        assert self.load.join(60), "a modality could not get rid of its objects within 60 s"

    def settle(self) -> dict[str, int]:
        """Compare the books, recount the ledger, with hashes."""
        began = time.monotonic()
        account = self.ground.settle(SETTLES, deep=True)
        return {**asdict(account), "settled_in": round(time.monotonic() - began)}

    def _sample(self) -> None:
        self.samples.take(_with_roles(self.ground.product.up), self.elapsed)

    def _collect(self) -> None:
        self.ground.folder_end.collect()

    def _ask(self) -> None:
        found = self.findings
        found.checks += 1
        found.longest_backlog = max(found.longest_backlog, self._invariants.backlog())
        try:
            broken = self._invariants.broken()
        except OSError:
            broken = {"a ledger that cannot be asked": 1}
        cause = self.mishaps.lately(CALM)
        for what, count in broken.items():
            if cause:
                found.explained[f"{what} ({cause})"] += 1
            else:
                found.unexplained.append(f"minute {self.elapsed / 60:.0f}: {count} {what}")
        sent = len(self.ground.books.acknowledged)
        print(f"{self.elapsed / 60:5.1f} min {sent} acknowledged, {cause or 'calm'} {broken or ''}",
              flush=True)  # fmt: skip


def _with_roles(up: psutil.Process) -> list[tuple[str, psutil.Process]]:
    """Every process with its role: which child of `up` it descends from, and how far down."""
    found = [("up", up)]
    for child in up.children():
        try:
            name = next(word for word in ("receiver", "worker", "web") if word in child.cmdline())
        except (StopIteration, psutil.Error):
            continue
        found += _below(name, child)
    return found


def _below(name: str, process: psutil.Process) -> list[tuple[str, psutil.Process]]:
    try:
        children = process.children()
    except psutil.Error:
        children = []
    return [(name, process)] + [pair for one in children for pair in _below(f"{name}.", one)]


# --- the verdict ----------------------------------------------------------------------------------
def soak(folder: Path, plan: Plan) -> dict[str, object]:
    """Run it; return its figures. `findings` is empty when all went well."""
    with ExitStack() as stack:
        server = None
        if plan.database == "postgresql":
            server = stack.enter_context(PostgreSQL(folder / "server"))
        ground = Ground(folder / "site", server=server.url if server else "", environment={})
        stack.enter_context(ground)
        running = Soak(ground, server, plan)
        problems = []
        account: dict[str, int] = {}
        try:
            running.run()
            account = running.settle()
        except AssertionError as error:
            problems.append(_PATH.sub("…", str(error))[:2000])
        return _verdict(running, account, problems)


def _verdict(running: Soak, account: dict[str, int], problems: list[str]) -> dict[str, object]:
    plan = running.plan
    lines = running.samples.growth(least=plan.least_life, settle=plan.settle)
    for one in lines:
        if one.rss_slope >= MOST_MEMORY_SLOPE:
            problems.append(f"{one.role} {one.pid} grows by {one.rss_slope} MiB an hour")
        if one.fds_slope >= MOST_FDS_SLOPE:
            problems.append(f"{one.role} {one.pid} opens {one.fds_slope} files an hour")
    problems += running.findings.unexplained
    tracebacks = running.ground.product.log().count("Traceback (most recent call last)")
    return {
        "plan": asdict(plan),
        **account,
        "rate": round(len(running.ground.books.acknowledged) / (plan.minutes * 60), 1),
        "late": running.load.late,
        "sender_errors": running.load.errors,
        "mishaps": dict(running.mishaps.counts),
        "checks": running.findings.checks,
        "longest_backlog": running.findings.longest_backlog,
        "explained": dict(running.findings.explained),
        "tracebacks": tracebacks,
        "processes": [asdict(one) for one in lines],
        "findings": problems,
    }


def prove(folder: Path, database: str, name: str, seed: int) -> dict[str, object]:
    """A case of `make prove`; the name says how long and how hard: "60 min at 25/s".

    Raises AssertionError when something was found.
    """
    minutes, _, rate = name.removesuffix("/s").partition(" min at ")
    found = soak(folder, Plan(float(minutes), float(rate), seed=seed % 2**31, database=database))
    keep(found)
    assert not found["findings"], found["findings"]
    return {key: value for key, value in found.items() if key not in ("processes", "plan")}


def keep(found: dict[str, object]) -> None:
    """Append the figures to the results."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({"at": at, **found}) + "\n")


def main() -> int:
    """Run what is asked for; the exit code."""
    end_in_order()
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=25.0, help="objects a second")
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        found = soak(Path(folder), plan)
    keep(found)
    print(json.dumps(found, indent=1))
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
