"""`make prove`: run the proofs of `tests/faults` in full, in shards that resume, and add up.

Every case appends one JSON line to `bench/results/prove.jsonl`. A case that has gone well on the
same commit and database is not run again. `PROVE=crash-3/10` runs the third tenth of one kind. The
sums of the commit are printed at the end; the exit code is 0 when nothing failed.
"""
# ruff: noqa: T201 - it talks to whoever ran it

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.stages import KINDS, Alone, Kind, Stage

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results/prove.jsonl"
DATABASES = ("sqlite", "postgresql")
PRODUCT = ("router", "ingest", "dicomweb", "manage.py", "requirements.txt")
ERROR_LENGTH = 4000
SHARD = re.compile(r"[1-9]\d*/[1-9]\d*")
STAGE_FAILURES = (AssertionError, OSError, psycopg.Error, subprocess.SubprocessError)
RECOUNT_EVERY = 5  # cases; the books are compared after each

Line = dict[str, Any]  # one JSON object


@dataclass(frozen=True)
class Case:
    """One run: the name says what is done, the number which of its repetitions it is."""

    database: str
    kind: str
    name: str
    number: int

    @property
    def seed(self) -> int:
        """What makes its random choices; the same on every machine."""
        text = f"{self.kind} {self.name} {self.number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def main() -> int:
    """Run what is asked for; the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # so that what was started and mounted is put away
    wanted = _arguments()
    commit = commit_of_tree()
    if wanted.sums:
        return print_sums(commit)
    cases = list(_cases(wanted))
    if wanted.jobs > 1:
        code = _in_parallel(wanted.jobs)
        print_sums(commit)
        return code
    done = {_key(line) for line in _lines(commit) if line["ok"]}
    left = [case for case in cases if _key(asdict(case)) not in done]
    print(f"{len(cases)} cases, {len(cases) - len(left)} of them done on {commit}", flush=True)
    failures = 0
    for database in DATABASES:
        for kind in KINDS:
            some = [case for case in left if (case.database, case.kind) == (database, kind)]
            failures += _run_all(some, commit)
    if not wanted.slice:
        print_sums(commit)
    return 1 if failures else 0


def _end(number: int, _frame: object) -> None:
    for again in (signal.SIGTERM, signal.SIGINT):  # putting away must not be broken off
        signal.signal(again, signal.SIG_IGN)
    raise SystemExit(128 + number)


# --- running --------------------------------------------------------------------------------------
def _run_all(cases: Sequence[Case], commit: str) -> int:
    """Run cases of one kind on one stage; after a failure on a new one. Count the failures."""
    failures, left = 0, list(cases)
    while left:
        kind = KINDS[left[0].kind]
        if isinstance(kind, Alone):
            failures += not _run_alone(left.pop(0), kind, commit)
            continue
        with tempfile.TemporaryDirectory(prefix="prove-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            try:
                with kind.around(Path(folder), left[0].database) as stage:
                    failures += not _run_on(stage, kind, left, commit)
            except STAGE_FAILURES as error:  # it could not be set up, or put away
                failures += 1
                if left:
                    _note(left.pop(0), commit, seconds=0.0, error=str(error))
    return failures


def _run_on(stage: Stage, kind: Kind, left: list[Case], commit: str) -> bool:
    """Run cases on one stage until one fails, the last with a deep recount of the ledger."""
    stage.site.recount_every = RECOUNT_EVERY
    while left:
        if not _run(left.pop(0), kind, stage, commit, is_last=not left):
            return False
    return True


def _run(case: Case, kind: Kind, stage: Stage, commit: str, *, is_last: bool) -> bool:
    began = time.monotonic()
    before = len(stage.site.books.acknowledged)
    error, facts = "", dict[str, object]()
    try:
        outcome = kind.run(stage, case.name, case.number, random.Random(case.seed))
        facts = {"recovery": outcome.seconds and round(outcome.seconds, 1)}
        facts |= asdict(outcome.account)
        if is_last:
            stage.site.settle(deep=True)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is this run's failure
        error = f"{type(failure).__name__}: {failure}\n{traceback.format_exc(limit=-4)}"
    facts["objects"] = len(stage.site.books.acknowledged) - before
    _note(case, commit, seconds=time.monotonic() - began, error=error, **facts)
    return not error


def _run_alone(case: Case, kind: Alone, commit: str) -> bool:
    began = time.monotonic()
    error, facts = "", dict[str, object]()
    with tempfile.TemporaryDirectory(prefix="prove-", ignore_cleanup_errors=True) as folder:
        try:
            facts = kind.run(Path(folder), case.database, case.name, case.seed)
        except Exception as failure:  # noqa: BLE001 - as above
            error = f"{type(failure).__name__}: {failure}\n{traceback.format_exc(limit=-4)}"
    _note(case, commit, seconds=time.monotonic() - began, error=error, **facts)
    return not error


def _note(case: Case, commit: str, *, seconds: float, error: str, **facts: object) -> None:
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        **asdict(case),
        "seed": case.seed,
        "ok": not error,
        "seconds": round(seconds, 1),
        **facts,
    }
    if error:
        # The file is kept with the project: the reason, not the paths of the machine it ran on.
        line["error"] = re.sub(r"(/[\w.+-]+){2,}", "…", error)[:ERROR_LENGTH]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    said = "ok" if not error else f"FAILED {error[:1500]}"
    print(
        f"{case.database} {case.kind} {case.name} {case.number}: {said} {seconds:.1f} s", flush=True
    )


def _in_parallel(jobs: int) -> int:
    """Run slices of the same request in processes of their own."""
    command = [sys.executable, "-m", "tests.faults.prove", *sys.argv[1:], "--jobs=1"]
    children = [
        subprocess.Popen([*command, f"--slice={n}/{jobs}"], cwd=ROOT) for n in range(1, jobs + 1)
    ]
    return max(child.wait() for child in children)


# --- what to run ----------------------------------------------------------------------------------
def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("--databases", default=",".join(DATABASES))
    parser.add_argument("--kinds", default="", help="comma-separated; all but what PROVE says")
    parser.add_argument("--count", action="append", default=[], metavar="KIND=N")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--slice", default="", help=argparse.SUPPRESS)
    parser.add_argument("--sums", action="store_true", help="only print the sums of this commit")
    wanted = parser.parse_args()
    only, _, shard = os.environ.get("PROVE", "").partition("-")
    wanted.kinds = [only] if only else [kind for kind in wanted.kinds.split(",") if kind]
    wanted.kinds = wanted.kinds or list(KINDS)
    wanted.shard = shard
    if not set(wanted.kinds) <= set(KINDS) or (shard and not SHARD.fullmatch(shard)):
        parser.error(f"PROVE is kind or kind-i/n, kinds are {', '.join(KINDS)}")
    return wanted


def _cases(wanted: argparse.Namespace) -> Iterator[Case]:
    """The cases of the request: PROVE=kind-i/n, then the slice of a parallel run."""
    counts = dict(word.split("=") for word in wanted.count)
    for database in wanted.databases.split(","):
        for kind in wanted.kinds:
            names = KINDS[kind].names(database)
            total = int(counts.get(kind, KINDS[kind].least))
            every = [
                Case(database, kind, names[n % len(names)], n // len(names) + 1)
                for n in range(total if names else 0)
            ]
            yield from part(part(every, wanted.shard), wanted.slice)


def part(cases: Sequence[Case], which: str) -> Sequence[Case]:
    """The ith of n parts, `which` being "i/n"; all without one."""
    if not which:
        return cases
    number, _, total = which.partition("/")
    return cases[int(number) - 1 :: int(total)]


def commit_of_tree() -> str:
    """The commit; where the product's files differ from it, with a mark of the difference."""
    commit = _git("rev-parse", "--short=12", "HEAD").strip()
    difference = _git("diff", "HEAD", "--", *PRODUCT)
    mark = hashlib.sha256(difference.encode()).hexdigest()[:8]
    return f"{commit}+{mark}" if difference else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


# --- the sums -------------------------------------------------------------------------------------
def print_sums(commit: str) -> int:
    """Print what has been proved on this commit; 1 when something failed and never went well."""
    lines = list(_lines(commit))
    well = {_key(line): line for line in lines if line["ok"]}
    open_failures = [line for line in lines if not line["ok"] and _key(line) not in well]
    print(f"commit {commit}")
    print(f"{'':24}{'runs':>7}{'of':>6}{'failed':>8}{'objects':>9}{'longest':>9}{'wall s':>9}")
    for database in DATABASES:
        for kind, about in KINDS.items():
            mine = [line for line in lines if (line["database"], line["kind"]) == (database, kind)]
            if mine:
                print(f"{database + ' ' + kind:24}{_sum(mine, about.least)}")
    for line in open_failures:
        print(f"FAILED {line['database']} {line['kind']} {line['name']} {line['number']}")
    return 1 if open_failures else 0


def _sum(lines: Sequence[Line], least: int) -> str:
    well = {_key(line) for line in lines if line["ok"]}
    failed = sum(not line["ok"] for line in lines)
    objects = sum(line.get("objects") or 0 for line in lines)
    longest = max((line.get("recovery") or 0.0 for line in lines), default=0.0)
    wall = sum(line["seconds"] for line in lines)
    return f"{len(well):>7}{least:>6}{failed:>8}{objects:>9}{longest:>9.1f}{wall:>9.0f}"


def _lines(commit: str) -> Iterator[Line]:
    if RESULTS.exists():
        for text in RESULTS.read_text().splitlines():
            line = json.loads(text)
            if line["commit"] == commit:
                yield line


def _key(line: Line) -> tuple[str, str, str, int]:
    return line["database"], line["kind"], line["name"], line["number"]


if __name__ == "__main__":
    sys.exit(main())
