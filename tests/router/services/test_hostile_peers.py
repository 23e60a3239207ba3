"""Peers that break off at every moment: nothing is called delivered that was not answered, nothing
arrives twice without a recorded "unknown", and everything is delivered in the end."""

import hashlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django import Settings

from router.models import Attempt, AttemptOutcome, ItemState, JobItem, Lane
from router.services import clock, delivery
from tests import deliveries
from tests.sinks import RawSink, accept_association, receive_message, receive_pdu, store_response

S, A = ItemState, AttemptOutcome
ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x05"
RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
RELEASE_RP = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
ITEMS = 4
MOST_PDU = 256

pytestmark = pytest.mark.django_db


class _Peer:
    """Serves its first association as `misbehave` does and every later one as it should."""

    def __init__(self, misbehave: "Misbehave") -> None:
        self._misbehave: Misbehave | None = misbehave
        self.arrived: Counter[str] = Counter()
        self.answered = 0

    def __call__(self, connection: socket.socket) -> None:
        misbehave, self._misbehave = self._misbehave, None
        if misbehave is not None:
            misbehave(connection, self)
            return
        accept_association(connection, most_pdu=MOST_PDU)
        number = 1
        while self.take(connection, number):
            number += 1
        connection.sendall(RELEASE_RP)

    def take(self, connection: socket.socket, number: int, *, answer: bool = True) -> bool:
        """Receive an object whole and answer it; false when the association ended before it."""
        context_id, data, _ = receive_message(connection)
        if not context_id:
            return False
        self.arrived[hashlib.sha256(data).hexdigest()] += 1
        if answer:
            connection.sendall(store_response(context_id, 0, message_id=number))
            self.answered += 1
        return True


Misbehave = Callable[[socket.socket, _Peer], None]


def _abort_after(pdus: int) -> Misbehave:
    """Abort after so many P-DATA PDUs of the first object; nothing of it is whole by then."""

    def misbehave(connection: socket.socket, _peer: _Peer) -> None:
        accept_association(connection, most_pdu=MOST_PDU)
        for _ in range(pdus):
            receive_pdu(connection)
        connection.sendall(ABORT)

    return misbehave


def _abort_before_the_association(connection: socket.socket, _peer: _Peer) -> None:
    connection.sendall(ABORT)


def _abort_the_association(connection: socket.socket, _peer: _Peer) -> None:
    receive_pdu(connection)
    connection.sendall(ABORT)


def _after_an_object(last_words: bytes, *, answer: bool) -> Misbehave:
    """Say `last_words` once the second object has arrived whole, before or after its answer."""

    def misbehave(connection: socket.socket, peer: _Peer) -> None:
        accept_association(connection, most_pdu=MOST_PDU)
        peer.take(connection, 1)
        peer.take(connection, 2, answer=answer)
        connection.sendall(last_words)

    return misbehave


def _reset_between_items(connection: socket.socket, peer: _Peer) -> None:
    accept_association(connection, most_pdu=MOST_PDU)
    peer.take(connection, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _answer_too_late(connection: socket.socket, peer: _Peer) -> None:
    accept_association(connection, most_pdu=MOST_PDU)
    peer.take(connection, 1, answer=False)
    time.sleep(1.5)
    connection.sendall(store_response(1, 0, message_id=1))


def _answer_before_the_end(connection: socket.socket, _peer: _Peer) -> None:
    """Success after the command, then silence: not a byte of the data set is taken."""
    accept_association(connection, most_pdu=MOST_PDU)
    receive_pdu(connection)
    connection.sendall(store_response(1, 0, message_id=2))
    while connection.recv(1 << 16):
        continue


PEERS: dict[str, Misbehave] = {
    "aborts before the association": _abort_before_the_association,
    "aborts the association": _abort_the_association,
    "aborts after the acceptance": _abort_after(0),
    "aborts after the command": _abort_after(1),
    "aborts after a part": _abort_after(2),
    "aborts after another part": _abort_after(3),
    "aborts before the answer": _after_an_object(ABORT, answer=False),
    "aborts after the answer": _after_an_object(ABORT, answer=True),
    "releases before the answer": _after_an_object(RELEASE_RQ, answer=False),
    "releases after the answer": _after_an_object(RELEASE_RQ, answer=True),
    "closes before the answer": _after_an_object(b"", answer=False),
    "closes between items": _after_an_object(b"", answer=True),
    "resets between items": _reset_between_items,
    "answers too late": _answer_too_late,
    "answers another message before the end": _answer_before_the_end,
    "says what is no DICOM": _after_an_object(b"HTTP/1.1 200 OK\r\n\r\n", answer=False),
}


@pytest.mark.parametrize("misbehave", PEERS.values(), ids=PEERS.keys())
def test_nothing_is_lost_and_nothing_arrives_twice_unrecorded(
    misbehave: Misbehave, settings: Settings, tmp_path: Path
) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    peer = _Peer(misbehave)
    with RawSink(peer) as sink:
        pacs = deliveries.node(sink.settings, response_timeout="1s")
        Lane.objects.filter(destination=pacs).update(verified_endpoint=pacs.endpoint)
        items = deliveries.chosen(pacs, tmp_path, ITEMS)
        for hours in range(4):
            with clock.shifted(timedelta(hours=hours)):
                delivery.drain(pacs.pk, 0, stop=lambda: False)
            delivered = JobItem.objects.filter(state=S.DELIVERED).count()
            assert delivered == peer.answered
    assert delivered == ITEMS
    assert not Attempt.objects.filter(outcome=A.RUNNING).exists()
    for item in items:
        unknown = item.attempts.filter(outcome=A.UNKNOWN).count()
        # What had left and was not read counts as unknown too: we cannot tell the two apart.
        assert 1 <= peer.arrived[item.instance.sha256] <= 1 + unknown
        assert item.attempts.filter(outcome=A.SUCCESS).count() == 1
