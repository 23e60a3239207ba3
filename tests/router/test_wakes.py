"""A wake is heard by one who waits, stops nobody, and needs no pipe to be missed."""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from router import wakes

PATIENCE = 60.0


def test_a_wake_ends_the_wait(tmp_path: Path) -> None:
    pipe = wakes.Pipe(tmp_path / "bell")
    assert stat.S_IMODE((tmp_path / "bell").stat().st_mode) == 0o600
    waker = threading.Timer(0.05, wakes.wake, [tmp_path / "bell"])
    waker.start()
    assert pipe.wait(PATIENCE) is True
    waker.join()
    assert pipe.wait(0.0) is False


def test_a_wake_before_the_wait_is_kept_and_many_are_one(tmp_path: Path) -> None:
    pipe = wakes.Pipe(tmp_path / "bell")
    for _ in range(3):
        wakes.wake(tmp_path / "bell")
    assert [pipe.wait(0.0) for _ in range(2)] == [True, False]


def test_a_second_process_may_wait_on_the_same_pipe(tmp_path: Path) -> None:
    first, second = wakes.Pipe(tmp_path / "bell"), wakes.Pipe(tmp_path / "bell")
    wakes.wake(tmp_path / "bell")
    assert second.wait(0.0) is True
    assert first.wait(0.0) is False


def test_nobody_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wakes.wake(tmp_path / "bell")
    os.mkfifo(tmp_path / "bell")
    wakes.wake(tmp_path / "bell")
    assert caplog.messages == []


def test_a_full_pipe_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = wakes.Pipe(tmp_path / "bell")
    fd = os.open(tmp_path / "bell", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.write(fd, b"\x00" * 4096):
            pass
    os.close(fd)
    wakes.wake(tmp_path / "bell")
    assert pipe.wait(0.0) is True
    assert caplog.messages == []


def test_where_no_pipe_can_be_made_the_wait_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wakes, "POLL_SECONDS", 0.0)
    pipe = wakes.Pipe(tmp_path / "no folder" / "bell")
    assert pipe.wait(PATIENCE) is False
    assert caplog.messages == ["wakes.without_pipe"]


def test_a_file_that_cannot_be_written_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wakes.wake(tmp_path)
    assert caplog.messages == ["wakes.unheard"]
