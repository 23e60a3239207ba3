"""Queues that no death can lock: a reader killed while it waits costs the others nothing."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from router.management.cluster import MOST_BYTES, RESULT_BYTES, TASK_BYTES, PacketQueue

FORKS = multiprocessing.get_context("fork")


def test_gives_messages_in_order_and_says_when_none_is_left() -> None:
    queue = PacketQueue(TASK_BYTES)
    assert queue.empty()
    queue.put({"id": 1})
    queue.put("STOP")
    assert not queue.empty()
    assert [queue.get(), queue.get()] == [{"id": 1}, "STOP"]
    assert queue.empty()
    queue.close()
    queue.join_thread()


def test_takes_a_result_as_large_as_it_reads() -> None:
    queue = PacketQueue(RESULT_BYTES)
    long = "x" * (MOST_BYTES - 100)
    queue.put(long)
    assert queue.get() == long


def test_refuses_what_no_reader_could_take_whole() -> None:
    with pytest.raises(OSError, match="too long"):
        PacketQueue(TASK_BYTES).put("x" * RESULT_BYTES)


def _read(queue: PacketQueue, said: Connection) -> None:
    while True:
        said.send(queue.get())


@pytest.mark.timeout(60)
def test_whoever_waits_may_be_killed() -> None:
    queue = PacketQueue(TASK_BYTES)
    heard, said = FORKS.Pipe(duplex=False)
    readers = [FORKS.Process(target=_read, args=(queue, said), daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for number, reader in enumerate(readers):
            queue.put(number)
            assert heard.recv() == number
            time.sleep(0.05)  # all wait now
            if number < 2:
                assert reader.pid is not None
                os.kill(reader.pid, signal.SIGKILL)
                reader.join()
        queue.put("still")
        assert heard.recv() == "still"
    finally:
        for reader in readers:
            reader.kill()
