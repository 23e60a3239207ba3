"""The machine: what it is, how busy it was, and the ceilings no program on it can pass."""

import contextlib
import hashlib
import mmap
import os
import platform
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench import peers, processes
from bench.objects import Objects
from bench.sender import send
from bench.sink import Sink

FLUSHES = 100
TOUCHED_BYTES = 2 << 30
MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it


def describe(database: str) -> dict[str, object]:
    """Return the machine, the versions, the load and the commit."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": load(),
        "database": database,
        "commit": commit(),
        "peers": {name: peers.version(name) for name in ("Orthanc", "storescp", "dcmsend")},
    }


def load() -> list[float]:
    """Return the load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def commit() -> str:
    """Return the commit that is measured, `+` when files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!bench", ":!docs")
    return head + ("+" if changed else "") if head else "unknown"


def flush_ceilings(folder: Path, size: int) -> dict[str, float]:
    """Return how many files of `size` bytes a second become durable, by 1 and by 4 threads.

    What every durable receiver must do an object: write, fsync, rename, fsync of the folder.
    """
    block = os.urandom(size)
    return {str(count): _flush_rate(folder, block, count) for count in (1, 4)}


def loopback_ceilings(folder: Path, ct: Objects, *, run: int) -> dict[str, float]:
    """Return how many `ct` a second our sender brings to our sink, over 1 and 4 associations."""
    found = {}
    for count in (1, 4):
        with Sink(folder, name=f"ceiling{count}") as sink:
            report = send(sink.port, "SINK", ct.shares(count), run)
            found[str(count)] = round(report.count / (report.finished - report.started), 1)
    return found


def hash_ceiling() -> float:
    """Return how many MB a second one core hashes (SHA-256)."""
    block = bytes(1 << 24)
    started = time.perf_counter()
    hashlib.sha256(block).digest()
    return round(len(block) / 1e6 / (time.perf_counter() - started), 1)


def settle() -> None:
    """Write out what others left dirty and fetch memory, so that nobody pays for either.

    The free memory of a virtual machine may be with its host. Fetching it again costs more than
    receiving an object of that size does, and whoever comes first after a pause would pay for it.
    """
    os.sync()
    time.sleep(0.2)
    memory = mmap.mmap(-1, TOUCHED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memory, contextlib.suppress(OSError):  # an older kernel: cold memory, as it is
        memory.madvise(MADV_POPULATE_WRITE)


def _flush_rate(folder: Path, block: bytes, count: int) -> float:
    folders = [folder / f"flush{number}" for number in range(count)]
    for one in folders:
        one.mkdir()
    threads = [threading.Thread(target=_flush, args=(one, block)) for one in folders]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    for one in folders:
        for path in one.iterdir():
            path.unlink()
        one.rmdir()
    return round(count * FLUSHES / seconds, 1)


def _flush(folder: Path, block: bytes) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        paths = [folder / f"{number}.part" for number in range(FLUSHES)]
        for path in paths:
            path.touch()
        os.fsync(descriptor)
        for path in paths:
            with path.open("r+b") as file:
                file.write(block)
                file.flush()
                os.fdatasync(file.fileno())
            path.rename(path.with_suffix(".dcm"))
    finally:
        os.close(descriptor)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["git", *arguments],
            cwd=processes.ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()
    return ""
