"""Connections before their association: what is awaited, judged, and who gives way."""

import socket
import time
from collections.abc import Iterator

import pytest

from ingest.waiting import (
    CUT,
    HTTP,
    NOT_A_REQUEST,
    NOT_DICOM,
    PLAIN_ON_TLS,
    TLS_ON_PLAIN,
    TOO_LONG,
    Port,
    Unwelcome,
    Visitor,
    WaitingRoom,
)
from tests.ingest.conftest import StartReceiver
from tests.receivers import CT, EXPLICIT_LITTLE
from tests.senders import AssociationRejected, RawAssociation

REQUEST = b"\x01\x00\x00\x00\x00\x50" + bytes(80)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    near.settimeout(0.0)
    with near, far:
        yield near, far


@pytest.fixture
def room() -> Iterator[WaitingRoom]:
    room = WaitingRoom((), most=3, most_per_address=2)
    yield room
    room.close()


def visitor(sock: socket.socket, host: str = "10.0.0.1", *, seconds: float = 60) -> Visitor:
    return Visitor(sock, host, Port(sock), time.monotonic() + seconds)


def test_a_request_is_taken_when_it_is_whole(
    pair: tuple[socket.socket, socket.socket], room: WaitingRoom
) -> None:
    near, far = pair
    guest = visitor(near)
    room.enter(guest)
    assert list(room.wait(0)) == []
    for piece in (REQUEST[:3], REQUEST[3:20], REQUEST[20:-1]):
        far.sendall(piece)
        for news in room.wait(0.2):
            assert news is guest
            assert not guest.is_complete()
        assert list(room.wait(0)) == []  # nothing new until more comes: the loop does not spin
    far.sendall(REQUEST[-1:] + b"more")
    assert list(room.wait(1)) == [guest]
    assert guest.is_complete()
    assert guest.request == REQUEST
    assert near.recv(10) == b"more"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", HTTP),
        (b"OPTIONS * HTTP/1.1\r\n", HTTP),
        (b"\x16\x03\x01\x00\xff", TLS_ON_PLAIN),
        (b"SSH-2.0", NOT_DICOM),
        (b"\x00" * 10, NOT_DICOM),
        (b"\x05\x00\x00\x00\x00\x04", NOT_A_REQUEST),
        (b"\x01\x00\x00\x00\x00\x10", NOT_A_REQUEST),
        (b"\x01\x00\x00\x01\x00\x01", TOO_LONG),
    ],
)
def test_what_is_no_request_is_known_by_its_first_bytes(
    pair: tuple[socket.socket, socket.socket], first: bytes, reason: str
) -> None:
    near, far = pair
    far.sendall(first)
    with pytest.raises(Unwelcome, match=reason):
        visitor(near).is_complete()


def test_who_hangs_up_midway_is_let_go(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    guest = visitor(near)
    far.sendall(REQUEST[:30])
    assert not guest.is_complete()
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(Unwelcome, match=CUT):
        guest.is_complete()


def test_a_half_close_after_the_request_is_no_hanging_up(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.sendall(REQUEST)
    far.shutdown(socket.SHUT_WR)
    assert visitor(near).is_complete()


def test_the_oldest_gives_way(room: WaitingRoom) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    one, two, three = (
        visitor(near, host)
        for (near, _), host in zip(pairs, ("10.0.0.1", "10.0.0.2", "10.0.0.2"), strict=True)
    )
    for guest in (one, two):
        room.enter(guest)
    assert room.too_many("10.0.0.2") == []
    room.enter(three)
    assert room.too_many("10.0.0.2") == [two]
    assert room.too_many("10.0.0.3") == [one]
    room.leave(one)
    assert room.too_many("10.0.0.3") == []
    assert room.everyone() == [two, three]
    for near, far in pairs:
        near.close()
        far.close()


def test_late_ones_are_listed(room: WaitingRoom) -> None:
    near, far = socket.socketpair()
    guest = visitor(near, seconds=-1)
    room.enter(guest)
    assert room.late() == [guest]
    near.close()
    far.close()


def test_a_first_word_is_named_on_the_tls_port() -> None:
    import ssl

    with socket.socket() as sock:
        port = Port(sock, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        with pytest.raises(Unwelcome, match=PLAIN_ON_TLS):
            port.needs(REQUEST)
        assert port.needs(b"\x16\x03") == 5
        assert port.needs(b"\x16\x03\x01\x01\x00") == 261


def test_silent_peers_take_no_thread_and_no_slot(start_receiver: StartReceiver) -> None:
    import threading

    running = start_receiver(most=2, most_per_address=2)
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(4)]
    contexts = [(CT, [EXPLICIT_LITTLE])]
    with RawAssociation("127.0.0.1", running.port, contexts=contexts):
        assert len(running.receiver.connections) == 1
        assert threading.active_count() <= before + 4  # the association's two, notices, indexing
        with (
            RawAssociation("127.0.0.1", running.port, contexts=contexts),
            pytest.raises(AssociationRejected),
        ):
            RawAssociation("127.0.0.1", running.port, contexts=contexts)
    for sock in silent:
        sock.close()
