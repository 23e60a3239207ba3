"""SIGKILL in the middle: of the receiver while it receives, of a worker while it delivers.

What was acknowledged must reach exactly its destinations, by itself, and the ledger must close.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.product import HOST, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import (
    dicom_destination,
    folder_destination,
    in_folder,
    names_in,
    to_every,
)
from tests.proof.objects import CT, EXPLICIT_LITTLE, hashes, study_of
from tests.senders import ConnectionEnded, RawAssociation, RawObject, send_raw
from tests.sinks import Script, Sink

ROUNDS = int(os.environ.get("PROOF_ROUNDS", "1"))
OBJECTS = 200
APART = 7.0 if ROUNDS > 1 else 0.0  # seconds; `up` gives up on what dies six times in 30 s
pytestmark = [pytest.mark.database, pytest.mark.timeout(120 + 90 * ROUNDS)]


def test_a_killed_receiver_loses_nothing_that_it_acknowledged(
    product: Product, note: Note, rounds: int, tmp_path: Path
) -> None:
    with Ends(product, tmp_path) as ends:
        for number in range(rounds):
            objects = study_of(OBJECTS)
            began = time.monotonic()
            cut = random.randint(20, 180)
            acknowledged = send_until_cut(product, objects, cut=cut)
            assert 0 < len(acknowledged) < OBJECTS, "the kill did not fall into the association"
            ends.sent |= hashes(objects)
            ends.wait_for(acknowledged, seconds=60)
            took = time.monotonic() - began
            note(f"receiver killed, {number + 1}: {len(acknowledged)} there after {took:.1f} s")
            ends.check()
            time.sleep(max(0.0, APART - took))
        product.verify("--deep")


def test_a_killed_worker_leaves_nothing_undelivered(
    product: Product, note: Note, rounds: int, tmp_path: Path
) -> None:
    with Ends(product, tmp_path, delay=0.02) as ends:
        for number in range(rounds):
            objects = study_of(OBJECTS)
            before = len(ends.sink.objects)
            ends.sent |= hashes(objects)
            answers = send_raw(HOST, product.port, objects)
            assert {answer.status for answer in answers} == {0}
            assert ends.sink.wait_for(before + random.randint(10, 150), 30)
            began = time.monotonic()
            name, kill = WAYS[number % len(WAYS)]
            kill(product, ends.sink)
            ends.wait_for(set(ends.sent), seconds=150)
            took = time.monotonic() - began
            note(f"{name} killed, {number + 1}: all there after {took:.1f} s")
            ends.check()
        product.verify("--deep")


class Ends:
    """A sink and a folder, to which one rule sends everything; what was sent to us meanwhile."""

    def __init__(self, product: Product, folder: Path, *, delay: float = 0.0) -> None:
        self.sink = Sink(Script(ae_title="FAR", delay=delay, keep_data=False))
        self.sent: dict[str, str] = {}
        self._product, self._folder = product, folder / "out"

    def __enter__(self) -> Self:
        self.sink.__enter__()
        disk = folder_destination("disk", self._folder)
        self._product.apply(to_every(dicom_destination("pacs", self.sink), disk))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.sink.__exit__(kind, None, None)

    def wait_for(self, uids: set[str], *, seconds: float) -> None:
        """Wait until both ends have these, and nothing is left to do."""
        wait_until(
            lambda: uids <= names_in(self._folder) & set(self.sink.hashes()),
            seconds=seconds,
            what=f"{len(uids)} objects at both destinations",
        )
        self._product.wait_idle(120)

    def check(self) -> None:
        """Both ends hold the same objects, byte for byte what was sent, and nothing else."""
        here = in_folder(self._folder)
        assert here == self.sink.hashes()
        assert here == {uid: self.sent[uid] for uid in here}
        assert {one.sha256 for one in self.sink.objects} <= set(self.sent.values())


def send_until_cut(product: Product, objects: Sequence[RawObject], *, cut: int) -> set[str]:
    """Send over one association, kill at the `cut`th object; return what was acknowledged."""
    acknowledged: set[str] = set()
    killer = threading.Thread(target=kill_receiver, args=(product,))
    contexts = [(CT, [EXPLICIT_LITTLE])]
    with (
        suppress(ConnectionEnded, OSError),
        RawAssociation(HOST, product.port, contexts=contexts) as assoc,
    ):
        for number, one in enumerate(objects):
            if number == cut:
                killer.start()
            status, comment = assoc.store(one)
            assert status == 0, comment
            acknowledged.add(one.sop_instance_uid)
            time.sleep(0.002)  # a modality's pace, so that the kill falls between two objects too
    killer.join()
    return acknowledged


def kill_receiver(product: Product) -> None:
    (leader,) = (one for one in product.processes("receiver") if one.ppid() == product.up.pid)
    os.killpg(leader.pid, signal.SIGKILL)


def kill_sending_process(product: Product, sink: Sink) -> None:
    """Kill the one process that has a connection to the sink."""
    for process in product.processes("worker"):
        with suppress(psutil.NoSuchProcess):
            if any(one.raddr and one.raddr.port == sink.port for one in process.net_connections()):
                process.kill()
                return
    raise AssertionError("nobody was sending")


def kill_cluster(product: Product, _sink: Sink) -> None:
    """Kill the whole cluster below its watchdog."""
    for process in product.processes("worker", "--cluster"):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def kill_watchdog(product: Product, _sink: Sink) -> None:
    """Kill the watchdog alone; its cluster must not go on unwatched."""
    (watchdog,) = (one for one in product.processes("worker") if one.ppid() == product.up.pid)
    watchdog.kill()


def kill_everything(product: Product, _sink: Sink) -> None:
    """Kill the whole product, as a power cut does, and start it again."""
    product.kill()
    product.start()


WAYS = (
    ("the sending process", kill_sending_process),
    ("the cluster", kill_cluster),
    ("the watchdog", kill_watchdog),
    ("the whole product", kill_everything),
)
