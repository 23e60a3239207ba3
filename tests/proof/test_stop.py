"""A graceful stop in the middle of receiving and delivering: in time, exit 0, nothing lost."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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
from tests.senders import ConnectionEnded, RawAssociation, RawObject
from tests.sinks import Script, Sink

MOST_SECONDS = 30
pytestmark = [pytest.mark.database, pytest.mark.timeout(240)]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product that the test may stop."""
    with Product(tmp_path / "own") as running:
        yield running


class Stream:
    """A modality that sends over one association without end, until it is cut or told to stop."""

    def __init__(self, product: Product, objects: list[RawObject]) -> None:
        self.acknowledged: set[str] = set()
        self.stop = threading.Event()
        self.statuses: set[int] = set()
        self._product, self._objects = product, objects
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(40)
        assert not self._thread.is_alive(), "the modality still waits for an answer"

    def _send(self) -> None:
        contexts = [(CT, [EXPLICIT_LITTLE])]
        try:
            with RawAssociation(HOST, self._product.port, contexts=contexts) as assoc:
                for one in self._objects:
                    status, _ = assoc.store(one)
                    self.statuses.add(status)
                    if status == 0:
                        self.acknowledged.add(one.sop_instance_uid)
                    if self.stop.wait(0.01):
                        return
        except (ConnectionEnded, OSError):
            return


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_stop_in_the_middle_loses_nothing(
    own: Product, tmp_path: Path, *, number: int, to_group: bool
) -> None:
    objects = study_of(3000)
    with Sink(Script(ae_title="SLOW", delay=0.01, keep_data=False)) as sink:
        folder = tmp_path / "out"
        own.apply(to_every(dicom_destination("slow", sink), folder_destination("disk", folder)))
        with Stream(own, objects) as stream:
            assert sink.wait_for(50, 30)
            began = time.monotonic()
            own.send_signal(number, to_group=to_group)
            stream.stop.wait(1.0)
            stream.stop.set()
            code = own.wait_ended(MOST_SECONDS + 5)
            took = time.monotonic() - began
        print(f"stopped within {took:.1f} s, {len(stream.acknowledged)} acknowledged")
        assert code == 0, own.log()[-3000:]
        assert took < MOST_SECONDS
        assert stream.statuses == {0}
        own.start()
        wait_until(
            lambda: stream.acknowledged <= names_in(folder) & set(sink.hashes()),
            seconds=60,
            what="what was acknowledged before the stop",
        )
        own.wait_idle()
        sent = hashes(objects)
        assert in_folder(folder) == sink.hashes()
        assert in_folder(folder) == {uid: sent[uid] for uid in names_in(folder)}
        own.verify("--deep")


def test_a_stop_cuts_a_sender_that_does_not_end(own: Product, tmp_path: Path) -> None:
    own.apply(to_every(folder_destination("disk", tmp_path / "out")))
    with Stream(own, study_of(6000)) as stream:
        wait_until(lambda: len(stream.acknowledged) > 50, seconds=30, what="a stream")
        began = time.monotonic()
        assert own.stop() == 0, own.log()[-3000:]
        took = time.monotonic() - began
    print(f"stopped within {took:.1f} s under a sender without end")
    assert took < MOST_SECONDS
    own.start()
    own.wait_idle()
    assert stream.acknowledged <= names_in(tmp_path / "out")
    own.verify()
