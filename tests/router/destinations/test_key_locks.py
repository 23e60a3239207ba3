"""Locks on names: between threads, between processes, and gone with whoever held them."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from router.destinations import key_locks


class Busy(Exception):
    """The name is held by another."""


def busy() -> None:
    raise Busy


@pytest.fixture(autouse=True)
def _folder(settings: Any, tmp_path: Path) -> None:  # Any: pytest-django has no type
    settings.DATA_DIR = tmp_path


def test_a_name_is_held_once_and_free_again() -> None:
    with key_locks.alone("a", waiting=busy):
        with pytest.raises(Busy), key_locks.alone("a", waiting=busy):
            pass
        with key_locks.alone("b", waiting=busy):
            pass
    with key_locks.alone("a", waiting=busy):
        pass


def test_the_next_one_gets_it_when_it_is_free() -> None:
    waited = threading.Event()
    order: list[str] = []

    def second() -> None:
        with key_locks.alone("a", waiting=waited.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with key_locks.alone("a", waiting=busy):
        thread.start()
        assert waited.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_killed_process_holds_nothing() -> None:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with key_locks.alone("a", waiting=busy):
            os.write(tell, b"x")
            signal.pause()
    assert os.read(told, 1) == b"x"
    with pytest.raises(Busy), key_locks.alone("a", waiting=busy):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with key_locks.alone("a", waiting=busy):
        pass
    os.close(told)
    os.close(tell)
