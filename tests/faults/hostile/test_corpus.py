"""Each hostile sequence of the corpus: how it ends, and that nobody else notices."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.faults.hostile.attack import play
from tests.faults.hostile.corpus import PROBES, RQ, Probe
from tests.faults.hostile.mutation import Sequence
from tests.faults.hostile.sessions import RECORDED, pdata, pdv, store
from tests.faults.hostile.target import HOST, Target, attacked
from tests.senders import RELEASE_RQ

PATIENCE = {"pdu_seconds": 0.5, "request_seconds": 0.5, "idle_seconds": 0.5}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("target"), **PATIENCE) as target:
        yield target


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_hostile_sequence_ends_as_it_should(target: Target, probe: Probe) -> None:
    ending = "listen" if probe.holds_open else "half_close"
    answer = play(target.port, Sequence(probe.name, probe.pdus, ending=ending))
    last = answer.rpartition("-")[2]
    assert last in {str(kind) for kind in probe.ends} | _quiet_ends(probe), answer
    assert target.is_healthy()
    assert target.errors() == ""
    assert target.strangers() == []
    assert target.parts() == []


def _quiet_ends(probe: Probe) -> set[str]:
    return {"end", "reset", "ConnectionResetError", "BrokenPipeError"} if 0 in probe.ends else set()


def test_a_byte_beyond_the_request_does_not_keep_its_answer(target: Target) -> None:
    """The upper layer read it before it had indicated the connection, and waited for the rest."""
    answer = play(target.port, Sequence("", (RQ + b"\x05",)))
    assert answer.startswith("2-")


@pytest.mark.parametrize("first", [b"", b"\x01\x00", b"\x01\x00\x00\x00\x00\xff" + bytes(10)])
def test_a_drip_is_cut_though_it_never_rests(target: Target, first: bytes) -> None:
    with socket.create_connection((HOST, target.port), timeout=10) as sock:
        sock.sendall(first)
        assert drip(sock) < 5.0


def test_a_drip_of_small_fragments_is_cut_though_each_is_in_time(target: Target) -> None:
    with socket.create_connection((HOST, target.port), timeout=10) as sock:
        sock.sendall(RQ)
        assert sock.recv(1000)[:1] == b"\x02"
        sock.sendall(store(1)[0])
        assert drip(sock, pdata(pdv(3, 0, b"x"))) < 5.0


def drip(sock: socket.socket, piece: bytes = b"\0") -> float:
    """Send `piece` every 50 ms until the far side has enough; how long that took."""
    began = time.monotonic()
    sock.settimeout(0.05)
    try:
        while time.monotonic() - began < 10:
            sock.sendall(piece)
            try:
                if sock.recv(100) == b"":
                    break
            except TimeoutError:
                continue
    except (BrokenPipeError, ConnectionResetError):
        pass
    return time.monotonic() - began


def test_peers_gone_before_our_acceptance_leave_no_traceback(target: Target) -> None:
    """Their socket was lent for data transfer after it had been closed."""
    for _ in range(300):
        with socket.create_connection((HOST, target.port), timeout=10) as sock:
            sock.sendall(RQ)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert target.is_healthy()
    assert target.errors() == ""


@pytest.mark.parametrize("more", [b"", b"\x09\x00\x00\x00\x00\x04" + bytes(4)])
def test_a_release_is_answered_before_what_lies_behind_it(target: Target, more: bytes) -> None:
    """The upper layer read on, and took its own answer for an event without a rule."""
    pdus = (*RECORDED["echo"][:-1], RELEASE_RQ + more)
    assert play(target.port, Sequence("", pdus)) == "2-6"
    assert target.confused() == {}
