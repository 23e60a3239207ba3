"""A destination that is dead while much waits for it: it costs next to nothing, and all that waited
goes out by itself when it is back.

`PROOF_BACKLOG` is how many objects wait (50,000 is the release's); the suite does with a few.
"""

import os
import socket
import statistics
import threading
import time
from types import TracebackType
from typing import Self

import pytest

from tests.product import HOST, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import dicom_destination, to_every
from tests.proof.objects import study_of
from tests.senders import RawObject, send_raw
from tests.sinks import Script, Sink

BACKLOG = int(os.environ.get("PROOF_BACKLOG", "120"))
STUDY = 100
PROBE_SECONDS = 2
WATCHED_SECONDS = 5 * PROBE_SECONDS
ROUNDS = 3
pytestmark = [pytest.mark.database, pytest.mark.timeout(120 + BACKLOG / 10)]


class Knocks:
    """A port where nobody answers: connections are counted and closed at once."""

    def __init__(self) -> None:
        self.count = 0
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed by __exit__
                return
            self.count += 1
            connection.close()


def test_a_dead_destination_costs_one_connection_a_probe_and_drains_by_itself(
    product: Product, note: Note
) -> None:
    sent: list[RawObject] = []
    with Knocks() as dead:
        port = dead.port
        with Sink(Script(ae_title="DEAD")) as stand_in:
            away = dicom_destination("dead", stand_in, retry=[f"{PROBE_SECONDS}s"])
        product.apply(to_every(away | {"port": port}))
        while len(sent) < BACKLOG:
            sent += _send(product, min(STUDY, BACKLOG - len(sent)))
        wait_until(lambda: dead.count > 0, seconds=30, what="a first connection")
        wait_until(lambda: _waiting(product) == BACKLOG, seconds=120, what="all items wait")
        before, began = dead.count, time.monotonic()
        time.sleep(WATCHED_SECONDS)
        probes, watched = dead.count - before, time.monotonic() - began
        assert 1 <= probes <= watched / PROBE_SECONDS + 1
        note(f"{BACKLOG} wait for a dead destination: {probes} connections in {watched:.0f} s")
        sent += _compare(product, note)
    back = Sink(Script(ae_title="DEAD", most_pdu=131072, keep_data=False))
    back.port = port
    with back:
        began = time.monotonic()
        assert back.wait_for(len(sent), 60 + len(sent) / 20), f"{len(back.objects)} arrived"
        note(f"back again: {len(sent)} out after {time.monotonic() - began:.0f} s")
        product.wait_idle(120)
    arrived = [one.sop_instance_uid for one in back.objects]
    assert sorted(arrived) == sorted(one.sop_instance_uid for one in sent)
    product.verify()


def _send(product: Product, count: int) -> list[RawObject]:
    study = study_of(count, pixels=256)
    assert {one.status for one in send_raw(HOST, product.port, study)} == {0}
    return study


def _compare(product: Product, note: Note) -> list[RawObject]:
    """Receive with the lane probing and with it paused, in turn; a figure, not a verdict."""
    rates: dict[str, list[float]] = {"probing": [], "paused": []}
    sent: list[RawObject] = []
    size = max(20, BACKLOG // 50)
    for _ in range(ROUNDS):
        for how, some in rates.items():
            _pause(product, is_paused=how == "paused")
            study = study_of(size, pixels=256)
            began = time.monotonic()
            assert {one.status for one in send_raw(HOST, product.port, study)} == {0}
            some.append(size / (time.monotonic() - began))
            sent += study
    _pause(product, is_paused=False)
    medians = {how: statistics.median(some) for how, some in rates.items()}
    ratio = medians["probing"] / medians["paused"]
    probing, paused = medians["probing"], medians["paused"]
    note(f"receive beside it: {probing:.0f}/s, paused {paused:.0f}/s: {ratio:.2f}")
    return sent


def _pause(product: Product, *, is_paused: bool) -> None:
    verb = "pause_lane" if is_paused else "resume_lane"
    _shell(
        product,
        "from router.models import Destination; from router.services import jobs;"
        "from router.services.audit import Actor;"
        f"jobs.{verb}(Destination.objects.present().get(name='dead'), actor=Actor('proof'))",
    )


def _waiting(product: Product) -> int:
    said = _shell(
        product,
        "from router.models import JobItem;"
        "print(JobItem.objects.filter(destination__name='dead',"
        " state__in=['pending', 'waiting']).count())",
    )
    return int(said.split()[-1])


def _shell(product: Product, code: str) -> str:
    return product.command("shell", "--no-imports", "-c", code)
