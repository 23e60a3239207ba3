"""A graceful stop in the middle of receiving and delivering: in time, exit 0, nothing lost."""

import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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
from tests.senders import ConnectionEnded, RawAssociation, RawObject
from tests.sinks import Script, Sink

MOST_SECONDS = 30
STOPS = (("SIGTERM", signal.SIGTERM, False), ("Ctrl-C", signal.SIGINT, True))
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

    def stop_after(self, seconds: float) -> None:
        """Have the modality go on for so long, unless it is cut."""
        self._thread.join(seconds)
        self.stop.set()

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


def test_a_stop_in_the_middle_loses_nothing(
    own: Product, note: Note, rounds: int, tmp_path: Path
) -> None:
    patience = 1.0 if rounds == 1 else 2.0 * MOST_SECONDS  # of the modality, once we are to stop
    folder, sent = tmp_path / "out", dict[str, str]()
    with Sink(Script(ae_title="SLOW", delay=0.01, keep_data=False)) as sink:
        own.apply(to_every(dicom_destination("slow", sink), folder_destination("disk", folder)))
        for name, number, to_group in STOPS:
            objects = study_of(3000)
            sent |= hashes(objects)
            had = len(sink.objects)
            with Stream(own, objects) as stream:
                assert sink.wait_for(had + 50, 30)
                began = time.monotonic()
                own.send_signal(number, to_group=to_group)
                stream.stop_after(patience)
                code = own.wait_ended(MOST_SECONDS + 5)
                took = time.monotonic() - began
            note(f"{name}: ended after {took:.1f} s, {len(stream.acknowledged)} acknowledged")
            assert code == 0, own.log()[-3000:]
            assert took < MOST_SECONDS
            assert stream.statuses == {0}
            own.start()
            wait_until(
                partial(have_all, stream.acknowledged, folder, sink),
                seconds=90,
                what="what was acknowledged before the stop",
            )
        own.wait_idle()
        assert in_folder(folder) == sink.hashes()
        assert in_folder(folder) == {uid: sent[uid] for uid in names_in(folder)}
        own.verify("--deep")


def have_all(uids: set[str], folder: Path, sink: Sink) -> bool:
    return uids <= names_in(folder) & set(sink.hashes())
