"""A crowd of slow and silent peers around one honest sender (R28): what it costs the honest one.

As a program: `python -m tests.faults.hostile.crowd` with HOSTILE_PEERS (default 300) and
HOSTILE_SECONDS (default 20): measures the honest sender alone and in the crowd, prints one JSON
line, and exits with 1 when C-ECHO takes 1 s at the 95th percentile or the store rate falls by
20 %.
"""

import json
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.hostile.sessions import associate, pdata, pdv, store
from tests.faults.hostile.target import HOST, ROOT, Target, attacked
from tests.receivers import CT, EXPLICIT_LITTLE, make_object
from tests.senders import IMPLICIT_LITTLE, VERIFICATION, RawAssociation

PATIENCE = {"request_seconds": 10.0, "pdu_seconds": 30.0, "idle_seconds": 300.0}
LIMITS = {"most": 200, "most_per_address": 20}
ADDRESSES = 30
ROUNDS = 5

# What a peer sends first, and then every two seconds.
Habit = tuple[bytes, bytes]
_HALF_STORE = store(1, fragment=700)[0] + store(1, fragment=700)[1]
BEFORE: tuple[Habit, ...] = (
    (b"", b""),
    (b"\x01\x00\x00", b""),
    (associate()[:50], b"\0"),
    (b"G", b"E"),
    (b"\x16\x03\x01", b""),
)
WITHIN: tuple[Habit, ...] = (
    (associate(), b""),
    (associate() + _HALF_STORE, b""),
    (associate() + _HALF_STORE, pdata(pdv(3, 0, b"x"))),
    (associate() + _HALF_STORE + b"\x04\x00\x00\x00\x40\x00", b"\0"),
)


class Crowd(threading.Thread):
    """Peers that come back a second after they were cut; some beyond their association."""

    def __init__(self, port: int, peers: int, *, within: int) -> None:
        super().__init__(daemon=True)
        self._back_at = [0.0] * peers
        self._port = port
        self._chance = random.Random(1)
        self._peers: list[socket.socket | None] = [None] * peers
        self._within = within
        self._is_over = threading.Event()
        self.have_come = threading.Event()
        self.cuts = 0

    def run(self) -> None:
        drip_at = 0.0
        while not self._is_over.is_set():
            self._come_back()
            self.have_come.set()
            self._notice_cuts()
            if time.monotonic() >= drip_at:
                drip_at = time.monotonic() + 2.0
                self._drip()
        for peer in self._peers:
            if peer is not None:
                peer.close()

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def _habit(self, number: int) -> Habit:
        if number < self._within:
            return WITHIN[number % len(WITHIN)]
        return BEFORE[number % len(BEFORE)]

    def _come_back(self) -> None:
        for number, peer in enumerate(self._peers):
            if peer is None and time.monotonic() >= self._back_at[number]:
                self._back_at[number] = time.monotonic() + self._chance.uniform(0.8, 1.5)
                address = f"127.0.2.{number % ADDRESSES + 1}"
                try:
                    sock = socket.create_connection((HOST, self._port), 5, (address, 0))
                    sock.settimeout(0.0)
                    sock.send(self._habit(number)[0])
                except OSError:
                    continue
                self._peers[number] = sock

    def _notice_cuts(self) -> None:
        poll = select.poll()
        numbers = {}
        for number, peer in enumerate(self._peers):
            if peer is not None:
                numbers[peer.fileno()] = number
                poll.register(peer, select.POLLIN | select.POLLHUP)
        for descriptor, _ in poll.poll(200):
            self._read(numbers[descriptor])

    def _read(self, number: int) -> None:
        peer = self._peers[number]
        assert peer is not None
        try:
            is_over = peer.recv(65536) == b""
        except BlockingIOError:
            return
        except OSError:
            is_over = True
        if is_over:
            peer.close()
            self._peers[number] = None
            self.cuts += 1

    def _drip(self) -> None:
        for number, peer in enumerate(self._peers):
            drop = self._habit(number)[1]
            if peer is not None and drop:
                try:
                    peer.send(drop)
                except OSError:
                    continue  # noticed when it is read


@dataclass
class Cuts:
    """How often a crowd was cut, once it has gone."""

    count: int = 0


@contextmanager
def crowded(port: int, peers: int, *, within: int) -> Iterator[Cuts]:
    """A crowd in a process of its own for the duration of the block, which ends it."""
    command = [sys.executable, "-m", "tests.faults.hostile.crowd"]
    command += [str(port), str(peers), str(within)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # all have come
        time.sleep(1)
        crowd = Cuts()
        try:
            yield crowd
        finally:
            crowd.count = int(process.communicate()[0])


def be_crowd(port: int, peers: int, within: int) -> None:
    """The process of a crowd: until its input ends; prints how often it was cut."""
    crowd = Crowd(port, peers, within=within)
    crowd.start()
    crowd.have_come.wait()
    print("all have come", flush=True)  # noqa: T201
    sys.stdin.read()
    crowd.stop()
    print(crowd.cuts)  # noqa: T201


def echo_times(port: int, seconds: float) -> list[float]:
    """Seconds that a connection with one C-ECHO took, one after the other."""

    def one() -> None:
        with RawAssociation(HOST, port, contexts=[(VERIFICATION, [IMPLICIT_LITTLE])]) as assoc:
            assert assoc.echo() == 0

    return list(_repeat(one, seconds))


def store_rate(port: int, seconds: float) -> float:
    """Objects of 526 kB a second over one association."""
    thing = make_object(pixels=526 << 10)
    with RawAssociation(HOST, port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
        assoc.store(thing)
        times = list(_repeat(lambda: assoc.store(thing), seconds))
    return len(times) / sum(times)


def _repeat(what: Callable[[], object], seconds: float) -> Iterator[float]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        what()
        yield time.monotonic() - began


def cost_of_storing(target: Target, seconds: float) -> tuple[float, float]:
    """Objects a second, and milliseconds of the receiver's processor for each."""
    before = target.processor_seconds()
    rate = store_rate(target.port, seconds)
    return rate, 1000 * (target.processor_seconds() - before) / (rate * seconds)


def measure(target: Target, *, peers: int, within: int, seconds: float) -> dict[str, float]:
    """The honest sender alone and in the crowd, in turns; medians."""
    alone, crowd, echoes, cuts = [], [], [], 0
    part = seconds / ROUNDS / 2
    for _ in range(ROUNDS):
        alone.append(cost_of_storing(target, part))
        with crowded(target.port, peers, within=within) as them:
            crowd.append(cost_of_storing(target, part))
            echoes += echo_times(target.port, part)
        cuts += them.count
        target.settle(threads=12, seconds=20)
    rate, processor = (statistics.median(column) for column in zip(*alone, strict=True))
    rate_within, processor_within = (
        statistics.median(column) for column in zip(*crowd, strict=True)
    )
    return {
        "peers": peers,
        "peers_with_association": within,
        "cuts": cuts,
        "stores_alone": round(rate),
        "stores_in_crowd": round(rate_within),
        "store_drop": round(1 - rate_within / rate, 3),
        "store_ms_alone": round(processor, 2),
        "store_ms_in_crowd": round(processor_within, 2),
        "echoes": len(echoes),
        "echo_median": round(statistics.median(echoes), 4),
        "echo_p95": round(statistics.quantiles(echoes, n=20)[-1], 4),
        "resident_mib": round(target.resident() / (1 << 20), 1),
    }


def main() -> int:
    """The measurement."""
    peers = int(os.environ.get("HOSTILE_PEERS", "300"))
    seconds = float(os.environ.get("HOSTILE_SECONDS", "30"))
    with (
        tempfile.TemporaryDirectory() as folder,
        attacked(Path(folder), **PATIENCE, **LIMITS) as target,
    ):
        found = measure(target, peers=peers, within=peers // 3, seconds=seconds)
        errors = target.errors()
    print(json.dumps({"proof": "hostile-crowd", **found, "errors": errors}))  # noqa: T201
    return 1 if errors or found["echo_p95"] >= 1 or found["store_drop"] >= 0.2 else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        be_crowd(*map(int, sys.argv[1:]))
    else:
        sys.exit(main())
