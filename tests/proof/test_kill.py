"""SIGKILL in the middle: of the receiver while it receives, of a worker while it delivers.

What was acknowledged must reach exactly its destinations, by itself, and the ledger must close.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.product import HOST, Product, wait_until
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
    product: Product, rounds: int, tmp_path: Path
) -> None:
    with Sink(Script(ae_title="KILLED", keep_data=False)) as sink:
        folder = tmp_path / "out"
        product.apply(to_every(dicom_destination("pacs", sink), folder_destination("disk", folder)))
        sent: dict[str, str] = {}
        for number in range(rounds):
            objects = study_of(OBJECTS)
            sent |= hashes(objects)
            began = time.monotonic()
            acknowledged = send_until_cut(
                product, objects, cut=random.randint(20, 180), kill=lambda: kill_receiver(product)
            )
            assert 0 < len(acknowledged) < OBJECTS, "the kill did not fall into the association"
            wait_until(
                lambda: acknowledged <= names_in(folder) & set(sink.hashes()),  # noqa: B023
                seconds=60,
                what=f"{len(acknowledged)} acknowledged objects at both destinations",
            )
            product.wait_idle()
            took = time.monotonic() - began
            print(f"receiver killed, round {number + 1}: {len(acknowledged)} whole in {took:.1f} s")
            assert_exact(sent, sink, folder)
            time.sleep(max(0.0, APART - took))
        product.verify("--deep")


def test_a_killed_worker_leaves_nothing_undelivered(
    product: Product, rounds: int, tmp_path: Path
) -> None:
    with Sink(Script(ae_title="SLOW", delay=0.02, keep_data=False)) as sink:
        folder = tmp_path / "out"
        product.apply(to_every(dicom_destination("slow", sink), folder_destination("disk", folder)))
        sent: dict[str, str] = {}
        for number in range(rounds):
            objects = study_of(OBJECTS)
            before = len(sink.objects)
            sent |= hashes(objects)
            answers = send_raw(HOST, product.port, objects)
            assert {answer.status for answer in answers} == {0}
            assert sink.wait_for(before + random.randint(10, 150), 30)
            began = time.monotonic()
            name, kill = WAYS[number % len(WAYS)]
            kill(product, sink)
            wait_until(
                lambda: set(sent) <= names_in(folder) & set(sink.hashes()),
                seconds=150,
                what=f"{OBJECTS} objects at both destinations after the kill of {name}",
            )
            product.wait_idle(120)
            took = time.monotonic() - began
            print(f"{name} killed, round {number + 1}: whole in {took:.1f} s")
            assert_exact(sent, sink, folder)
        product.verify("--deep")


def send_until_cut(
    product: Product, objects: Sequence[RawObject], *, cut: int, kill: Callable[[], None]
) -> set[str]:
    """Send over one association, kill at the `cut`th object; return what was acknowledged."""
    acknowledged: set[str] = set()
    killer = threading.Thread(target=kill)
    with suppress(ConnectionEnded, OSError), RawAssociation(
        HOST, product.port, contexts=[(CT, [EXPLICIT_LITTLE])]
    ) as assoc:
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


WAYS = (
    ("the sending process", kill_sending_process),
    ("the cluster", kill_cluster),
    ("the watchdog", kill_watchdog),
)


def assert_exact(sent: dict[str, str], sink: Sink, folder: Path) -> None:
    """Both ends hold the same objects, byte for byte what was sent, and nothing else."""
    here, there = in_folder(folder), sink.hashes()
    assert here == there
    assert here == {uid: sent[uid] for uid in here}
    assert {one.sha256 for one in sink.objects} <= set(sent.values())
