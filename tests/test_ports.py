"""Ports given to tests: nobody listens there, nobody else is given them, here or beside us."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ports

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> range:
    """As if there were only a few ports."""
    first = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", first)
    monkeypatch.setattr(ports, "AFTER", first + 3)
    return range(first, first + 3)


def test_no_port_is_given_twice(few: range) -> None:
    given: list[int] = []
    with pytest.raises(AssertionError, match="no free port"):
        given.extend(ports.free_port() for _ in range(3))
    assert len(given) == len(set(given)) <= 2, "the first was given before"
    assert set(given) < set(few)


def test_a_port_in_use_is_not_given() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", ports.free_port()))
        assert not ports._is_unused(one.getsockname()[1])


def test_a_process_beside_us_is_given_another() -> None:
    mine = ports.free_port()
    script = f"from tests import ports; print(ports._take({mine}), ports._take(ports.free_port()))"
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"]
