"""The fault proxy itself: each fault does to bytes what it says."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.proxy import NONE, Fault, FaultProxy


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy in front of an echo server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        with FaultProxy(server.getsockname()[1]) as running:
            yield running
        server.shutdown(socket.SHUT_RDWR)


def echo(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            one, _ = server.accept()
            threading.Thread(target=echo_one, args=(one,), daemon=True).start()


def echo_one(one: socket.socket) -> None:
    with one, suppress(OSError):
        while data := one.recv(65536):
            one.sendall(data)


def through(proxy: FaultProxy, fault: Fault, data: bytes, *, seconds: float = 2.0) -> bytes:
    """Send `data` and return what comes back until the end or for `seconds` of silence."""
    proxy.fault = fault
    got = b""
    with socket.create_connection((proxy.host, proxy.port), timeout=seconds) as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            while piece := one.recv(65536):
                got += piece
    return got


def test_it_passes_everything_without_a_fault(proxy: FaultProxy) -> None:
    assert through(proxy, NONE, b"x" * 300_000) == b"x" * 300_000


@pytest.mark.parametrize("size", [0, 1, 5, 99])
def test_it_cuts_what_is_sent(proxy: FaultProxy, size: int) -> None:
    assert len(through(proxy, Fault("cut", up_bytes=size, end="half"), b"x" * 100)) == size


def test_it_cuts_what_comes_back(proxy: FaultProxy) -> None:
    assert through(proxy, Fault("cut", down_bytes=7), b"x" * 100) == b"x" * 7


def test_it_resets(proxy: FaultProxy) -> None:
    proxy.fault = Fault("reset", up_bytes=10, end="reset")
    with socket.create_connection((proxy.host, proxy.port), timeout=2) as one:
        one.sendall(b"x" * 100)
        with pytest.raises(ConnectionResetError):
            drain(one)


def test_it_stalls_until_healed(proxy: FaultProxy) -> None:
    assert through(proxy, Fault("stall", up_bytes=10, end="stall"), b"x" * 99, seconds=0.3) == (
        b"x" * 10
    )
    proxy.heal()
    assert through(proxy, NONE, b"y") == b"y"


def test_it_drips_and_delays(proxy: FaultProxy) -> None:
    began = time.monotonic()
    assert through(proxy, Fault("drip", delay=0.01, chunk=1), b"x" * 20) == b"x" * 20
    assert time.monotonic() - began >= 0.2
    assert through(proxy, Fault("rate", rate=1000.0), b"x" * 200) == b"x" * 200


def test_it_answers_garbage(proxy: FaultProxy) -> None:
    got = through(proxy, Fault("garbage", down_bytes=3, end="garbage"), b"abcdef", seconds=0.3)
    assert got[:3] == b"abc"
    assert len(got) > 200
    assert got[3:6] != b"def"


def drain(one: socket.socket) -> None:
    while one.recv(100):
        pass


@pytest.mark.parametrize(("shift", "passed"), [(-1, 18), (0, 19), (1, 20)])
def test_it_cuts_at_the_end_of_a_pdu_and_beside_it(
    proxy: FaultProxy, shift: int, passed: int
) -> None:
    pdus = b"\x04\x00\x00\x00\x00\x03abc" + b"\x04\x00\x00\x00\x00\x04defg" + b"\x05" * 20
    fault = Fault("cut", up_pdus=2, shift=shift, end="half")
    assert through(proxy, fault, pdus, seconds=0.5) == pdus[:passed]
    assert proxy.has_cut()
