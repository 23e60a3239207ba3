"""Processes of the bench: started in groups of their own, measured, and ended without exception.

Everything started is registered; `end_all` runs at exit and ends what is left, descendants
included, by process id.
"""

import atexit
import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

PORTS = (20_000, 32_000)
ROOT = Path(__file__).resolve().parent.parent
END_SECONDS = 35.0
SAMPLE_SECONDS = 0.1
MIB = 1 << 20
ENDED = "ended"
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "LD_LIBRARY_PATH")


class BenchError(Exception):
    """A measurement that cannot be made; the message says why."""


_started: list[subprocess.Popen[bytes]] = []


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a clean environment: nothing of the caller's settings leaks into what is measured."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, **(extra or {})}


def start(
    command: Sequence[str],
    *,
    extra: Mapping[str, str] | None = None,
    log: Path | None = None,
    piped: bool = False,
    cwd: Path = ROOT,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; its words go to `log`, or to us when `piped`."""
    with contextlib.ExitStack() as stack:
        errors: IO[bytes] | None = stack.enter_context(log.open("ab")) if log else None
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(extra),
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else (errors or subprocess.DEVNULL),
            stderr=errors or (None if piped else subprocess.DEVNULL),
            start_new_session=True,
        )
    _started.append(child)
    return child


def read_line(child: subprocess.Popen[bytes], seconds: float) -> str:
    """Return the next line of a piped child.

    Raises:
        BenchError: it said nothing in time, or ended.
    """
    assert child.stdout is not None
    descriptor, line, limit = child.stdout.fileno(), b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, limit - time.monotonic()))
        piece = os.read(descriptor, 1) if ready else b""
        if not piece:
            raise BenchError(f"{child.args!r} said nothing more after {line!r}")
        line += piece
    return line.decode().strip()


def family(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a child and its descendants, whatever session they are in."""
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(child.pid)
        return [top, *top.children(recursive=True)]
    return []


def end(child: subprocess.Popen[bytes], *, seconds: float = END_SECONDS) -> None:
    """Ask a child to end; kill it and every descendant that is left."""
    members = family(child)
    if child.poll() is None:
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()  # psutil checks that the id is still the same process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(10)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if child in _started:
        _started.remove(child)


@atexit.register
def end_all() -> None:
    """End everything that is left."""
    for child in reversed(list(_started)):
        end(child, seconds=5.0)


def free_port() -> int:
    """Return a port that is free now, below those that the kernel gives to connections."""
    for _ in range(1000):
        port = random.randrange(*PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - the peers bind every address
            return port
    raise BenchError(f"no free port from {PORTS[0]} to {PORTS[1]}")


def wait_until(
    check: Callable[[], bool], seconds: float, what: str, *, pause: float = 0.01
) -> None:
    """Wait for something, with an end.

    Raises:
        BenchError: it did not come.
    """
    limit = time.monotonic() + seconds
    while not check():
        if time.monotonic() > limit:
            raise BenchError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)


def wait_port(port: int, child: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """Wait until a child listens."""

    def listens() -> bool:
        if child.poll() is not None:
            raise BenchError(f"{child.args!r} ended at start with {child.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    wait_until(listens, seconds, f"port {port}", pause=0.05)


# --- what they use --------------------------------------------------------------------------------
@dataclass
class Usage:
    """What processes used, by role: processor seconds, and the most memory a process had."""

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)

    def cores(self) -> dict[str, float]:
        """How many cores each role kept busy on average."""
        return {role: round(used / self.seconds, 2) for role, used in self.cpu.items()}


def role_of(process: psutil.Process) -> str:
    """Name a process after its command of ours, else after its program.

    One that ends meanwhile, or has ended and waits for its parent, as the children of
    `storescp --fork` do, has no words any more; its name lasts a little longer.
    """
    words: list[str] = []
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
    at = next((n for n, word in enumerate(words) if word.endswith("manage.py")), None)
    if at is not None and at + 1 < len(words):
        return words[at + 1]
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ENDED


@contextlib.contextmanager
def watched(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[Usage]:
    """Measure children and their descendants while the block runs."""
    usage, stop = Usage(), threading.Event()
    members = {p.pid: (p, role_of(p), _cpu(p)) for child in children for p in family(child)}
    peaks: dict[int, float] = {}

    def sample() -> None:
        for pid in members:
            peaks[pid] = _peak_mib(pid) or peaks.get(pid, 0.0)

    def run() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            sample()

    thread = threading.Thread(target=run, daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        yield usage
    finally:
        usage.seconds = time.monotonic() - started
        stop.set()
        thread.join()
        sample()
        for process, role, before in members.values():
            used = max(0.0, _cpu(process) - before)
            usage.cpu[role] = usage.cpu.get(role, 0.0) + used
            usage.peak_mib[role] = max(usage.peak_mib.get(role, 0.0), peaks.get(process.pid, 0.0))


def _cpu(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _peak_mib(pid: int) -> float:
    """The most resident memory a process ever had (VmHWM)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
