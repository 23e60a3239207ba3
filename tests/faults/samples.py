"""What processes hold while they live, and whether it grows: a line through their samples."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import psutil

MIB = 1 << 20
HOUR = 3600.0


@dataclass(frozen=True)
class Sample:
    """One look at one process: bytes, counts and seconds of processor; `at` in seconds."""

    at: float
    rss: int
    pss: int
    anonymous: int
    fds: int
    threads: int
    cpu: float


@dataclass(frozen=True)
class Growth:
    """The line through the samples of one process. Memory in MiB, slopes an hour."""

    role: str
    pid: int
    minutes: float
    rss: float
    rss_slope: float
    anonymous_slope: float
    fds: int
    fds_slope: float
    threads: int
    cpu: float
    course: tuple[float, ...]  # resident MiB, minute by minute


def look(process: psutil.Process, at: float) -> Sample:
    """Look at a process. Raises psutil.Error or OSError when it has ended."""
    sizes = _rollup(process.pid)
    with process.oneshot():
        times = process.cpu_times()
        return Sample(
            at=at,
            rss=sizes["Rss"],
            pss=sizes["Pss"],
            anonymous=sizes["Anonymous"],
            fds=process.num_fds(),
            threads=process.num_threads(),
            cpu=times.user + times.system,
        )


def _rollup(pid: int) -> dict[str, int]:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        found[name.rstrip(":")] = int(size) * 1024
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the Theil-Sen slope: the median of the slopes of all pairs; 0 below two points."""
    found = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
    return statistics.median(found) if found else 0.0


class Samples:
    """The samples of every process that was seen, by role and pid."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, float], list[Sample]] = defaultdict(list)

    def take(self, processes: Sequence[tuple[str, psutil.Process]], at: float) -> None:
        """Look at every process; one that has just ended is left out."""
        for role, process in processes:
            with suppress(psutil.Error, OSError, KeyError):
                self.add(role, process.pid, process.create_time(), look(process, at))

    def add(self, role: str, pid: int, born: float, sample: Sample) -> None:
        """Enter one sample."""
        self._found[role, pid, born].append(sample)

    def lives(self) -> dict[tuple[str, int, float], list[Sample]]:
        """Every process with its samples."""
        return dict(self._found)

    def growth(self, *, least: float, settle: float) -> list[Growth]:
        """Return the lines of those that lived `least` seconds, without their first `settle`."""
        return [
            _growth(role, pid, samples, settle)
            for (role, pid, _), samples in sorted(self._found.items())
            if samples[-1].at - samples[0].at >= least
        ]


def _growth(role: str, pid: int, samples: Sequence[Sample], settle: float) -> Growth:
    first = samples[0].at + settle
    kept = [one for one in samples if one.at >= first]
    an_hour = {
        name: HOUR * slope([(one.at, getattr(one, name)) for one in kept])
        for name in ("rss", "anonymous", "fds")
    }
    last = samples[-1]
    return Growth(
        role=role,
        pid=pid,
        minutes=round((last.at - samples[0].at) / 60, 1),
        rss=round(last.rss / MIB, 1),
        rss_slope=round(an_hour["rss"] / MIB, 2),
        anonymous_slope=round(an_hour["anonymous"] / MIB, 2),
        fds=last.fds,
        fds_slope=round(an_hour["fds"], 2),
        threads=last.threads,
        cpu=round((last.cpu - samples[0].cpu) / max(last.at - samples[0].at, 1.0), 3),
        course=tuple(_by_minute(samples)),
    )


def _by_minute(samples: Sequence[Sample]) -> Iterator[float]:
    due = samples[0].at
    for one in samples:
        if one.at >= due:
            due += 60
            yield round(one.rss / MIB, 1)
