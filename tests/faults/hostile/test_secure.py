"""Silent TLS clients delay nobody: a thread waits for each that began, none for the others."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.hostile.secure import PATIENCE, greet, silence
from tests.faults.hostile.target import Target, attacked, certify

PEERS = 90
STEPS = 3  # at which they fall silent; from the last one on each has a thread


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    certify(tmp_path)
    with attacked(tmp_path, **PATIENCE) as target:
        yield target


def test_a_good_handshake_shares_no_thread_with_the_silent(target: Target) -> None:
    greet(target)
    before = _at_rest(target)
    with silence(target, PEERS) as silent:
        greet(target)  # whoever came before it has been looked at
        assert target.threads() >= before + PEERS // STEPS
        for _ in range(5):
            greet(target)
        assert _at_rest(target) <= before + PEERS // STEPS
        for sock in silent:
            sock.settimeout(0.0)
        assert sum(_is_open(sock) for sock in silent) == PEERS  # nobody had to go for it
    assert target.errors() == ""


def _is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True


def _at_rest(target: Target) -> int:
    """How many threads there are once those of the last peer have ended."""
    counts = [target.threads()]
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        time.sleep(0.1)
        counts.append(target.threads())
    return counts[-1]
