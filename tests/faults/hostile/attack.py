"""Plays sequences against a receiver, many at a time, and judges what became of it.

As a program: `python -m tests.faults.hostile.attack` with HOSTILE_SEQUENCES (default 100000),
HOSTILE_SEED and HOSTILE_WORKERS in the environment; prints one JSON line with the figures and
exits with 1 when the receiver died, hung, logged an error, kept memory, threads or descriptors,
or wrote where it should not.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.hostile.mutation import Sequence, sequence
from tests.faults.hostile.target import HOST, Target, attacked

HANG_SECONDS = 30.0
GROWTH = 1.10
WARM_UP = 1000  # sequences before the base is taken
SETTLE_SECONDS = 12.0  # the receiver gives memory back every ten


@dataclass
class Findings:
    """What an attack came to. Lawful when `problems` is empty."""

    sequences: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    confused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    base_mib: float = 0.0
    peak_mib: float = 0.0
    end_mib: float = 0.0
    growth: float = 0.0
    per_second: float = 0.0
    seconds: float = 0.0

    def note_memory(self, base: int, end: int) -> None:
        """Bytes at the base and at the end."""
        self.base_mib, self.end_mib = round(base / (1 << 20), 1), round(end / (1 << 20), 1)
        self.growth = round(end / base - 1, 4)


def play(port: int, what: Sequence, *, address: str = "127.0.0.1") -> str:
    """Send one sequence; how the far side ended it. `hang` when it did not within 30 s."""
    try:
        with socket.create_connection((HOST, port), 10, source_address=(address, 0)) as sock:
            sock.settimeout(HANG_SECONDS)
            return _converse(sock, what)
    except TimeoutError:
        return "hang"
    except OSError as error:
        return type(error).__name__


def _converse(sock: socket.socket, what: Sequence) -> str:
    first = what.pdus[0] if what.pdus else b""
    is_sent = _write(sock, [first], what.write_size)
    kind = _first_answer(sock) if is_sent and _is_whole(first) else 0
    _write(sock, what.pdus[1:], what.write_size)
    if what.ending == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return f"{kind}-reset"
    if what.ending == "half_close":
        _shut(sock)
    if what.ending in {"half_close", "listen"}:
        return f"{kind}-{_last_answer(sock)}"
    return f"{kind}-closed"


def _write(sock: socket.socket, pdus: Iterable[bytes], size: int) -> bool:
    data = b"".join(pdus)
    try:
        for start in range(0, len(data), size or len(data) or 1):
            sock.sendall(data[start : start + size] if size else data)
    except (BrokenPipeError, ConnectionResetError):
        return False  # the far side has had enough
    return bool(data)


def _is_whole(request: bytes) -> bool:
    """Whether the far side has to answer without more."""
    return len(request) >= 6 and request[0] == 1 and (
        int.from_bytes(request[2:6], "big") <= len(request) - 6
    )  # fmt: skip


def _first_answer(sock: socket.socket) -> int:
    try:
        head = sock.recv(6, socket.MSG_WAITALL)
        if len(head) == 6:
            sock.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
            return head[0]
    except (ConnectionResetError, BrokenPipeError):
        pass
    return 0


def _last_answer(sock: socket.socket) -> str:
    kinds, rest = [], b""
    try:
        while piece := sock.recv(65536):
            rest += piece
    except ConnectionResetError:
        kinds.append("reset")
    while len(rest) >= 6:
        kinds.append(str(rest[0]))
        rest = rest[6 + int.from_bytes(rest[2:6], "big") :]
    return kinds[-1] if kinds else "end"


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        sock.shutdown(socket.SHUT_WR)


def attack(
    target: Target,
    sequences: Iterable[Sequence],
    *,
    workers: int = 8,
    check_every: int = 5000,
    weighs: bool = True,
) -> Findings:
    """Play all sequences; health, memory and logs are looked at on the way and at the end.

    Without `weighs` the resident memory is not judged: that takes half a minute of waiting.
    """
    findings = Findings()
    with ThreadPoolExecutor(workers) as pool:
        _warm_up(target, pool, WARM_UP if weighs else 1)
        time.sleep(SETTLE_SECONDS if weighs else 0)
        threads, descriptors, base = target.threads(), target.descriptors(), target.resident()
        began = time.monotonic()
        for batch in _batches(sequences, check_every):
            _play_all(pool, target, batch, findings)
            findings.peak_mib = max(findings.peak_mib, round(target.resident() / (1 << 20), 1))
            findings.problems += _problems(target)
            if findings.problems:
                break
    findings.seconds = round(time.monotonic() - began, 1)
    findings.per_second = round(findings.sequences / findings.seconds, 1)
    findings.confused = target.confused()
    if target.is_alive():
        findings.problems += left_behind(target, threads=threads, descriptors=descriptors)
        if weighs:
            findings.note_memory(base, back_to(target, base))
            findings.problems += ["memory was kept"] * (findings.growth > GROWTH - 1)
    return findings


def _warm_up(target: Target, pool: ThreadPoolExecutor, count: int) -> None:
    assert target.is_healthy()
    play(target.port, Sequence("warm-up", (b"GET / HTTP/1.0\r\n\r\n",)))  # starts the notices
    sequences = (sequence(f"warm-up:{number}") for number in range(count))
    for _ in pool.map(lambda one: _from_anywhere(target, one), sequences):
        pass


def left_behind(target: Target, *, threads: int, descriptors: int) -> list[str]:
    """Threads and descriptors beyond those that were there before, after a minute at most."""
    target.settle(threads=threads, descriptors=descriptors)
    found = [f"{target.threads()} threads of {threads}"] * (target.threads() > threads)
    now = target.descriptors()
    return found + [f"{now} descriptors of {descriptors}"] * (now > descriptors)


def _play_all(
    pool: ThreadPoolExecutor, target: Target, batch: list[Sequence], findings: Findings
) -> None:
    """Addresses differ by worker, so that no limit per address hides a fault."""
    for what, answer in zip(
        batch, pool.map(lambda one: _from_anywhere(target, one), batch), strict=True
    ):
        findings.sequences += 1
        findings.answers[answer] += 1
        if answer == "hang":
            findings.problems.append(f"hang: {what.seed}")


def _from_anywhere(target: Target, what: Sequence) -> str:
    return play(target.port, what, address=f"127.0.1.{threading.get_ident() // 64 % 250 + 1}")


def _batches(sequences: Iterable[Sequence], size: int) -> Iterator[list[Sequence]]:
    batch: list[Sequence] = []
    for one in sequences:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _problems(target: Target) -> list[str]:
    if not target.is_alive():
        return ["the process died"]
    found = [f"error logged: {target.errors()[:2000]}"] if target.errors() else []
    if not target.is_healthy():
        found.append("an honest peer was not served")
    return found + [f"stranger: {path}" for path in target.strangers()]


def back_to(target: Target, base: int, *, seconds: float = 60.0) -> int:
    """Resident memory once it is back to the base, or after a minute (R26)."""
    deadline = time.monotonic() + seconds
    while (now := target.resident()) > base * GROWTH and time.monotonic() < deadline:
        assert target.is_healthy()
        time.sleep(0.5)
    return now


def main() -> int:
    """The full form."""
    count = int(os.environ.get("HOSTILE_SEQUENCES", "100000"))
    seed = os.environ.get("HOSTILE_SEED", "1")
    workers = int(os.environ.get("HOSTILE_WORKERS", "8"))
    with tempfile.TemporaryDirectory() as folder, attacked(Path(folder)) as target:
        sequences = (sequence(f"{seed}:{number}") for number in range(count))
        findings = attack(target, sequences, workers=workers)
    print(json.dumps({"proof": "hostile-pdu", "seed": seed, **vars(findings)}))  # noqa: T201
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
