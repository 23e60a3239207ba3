"""The queue wakes its reader after the commit, and loses nothing when nobody listens."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django_q.brokers import get_broker
from django_q.models import OrmQ

from router import doorbell, task_queue
from router.task_queue import TaskQueue

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 40.0


@pytest.fixture(autouse=True)
def _folder(settings: Any, tmp_path: Path) -> None:  # Any: pytest-django has no type
    settings.DATA_DIR = tmp_path


class Reader:
    """A reader in a thread of its own, which only a wake can end in the time of a test."""

    def __init__(self) -> None:
        self.looks = 0
        self.taken: list[tuple[int, str]] = []
        self._waits = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._waits.wait(PATIENCE)

    def is_done(self) -> bool:
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def _read(self) -> None:
        queue = TaskQueue()
        try:
            assert queue.dequeue() is None  # the first look opens what is waited on
            self._waits.set()
            while not self.taken:
                self.looks += 1
                self.taken = queue.dequeue() or []
        finally:
            connection.close()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    found = Reader()
    if connection.vendor == "sqlite":  # there the first look waits too
        monkeypatch.setattr(task_queue, "LOOK_SECONDS", 0.01)
    found.start()
    monkeypatch.setattr(task_queue, "LOOK_SECONDS", 10 * PATIENCE)
    yield found
    assert found.is_done()


def test_the_product_uses_this_queue() -> None:
    assert isinstance(get_broker(), TaskQueue)


def test_a_ring_wakes_the_reader(reader: Reader) -> None:
    doorbell.ring("route")
    assert reader.is_done()
    ((key, _task),) = reader.taken
    assert OrmQ.objects.get().pk == key
    assert reader.looks <= 3


def test_a_task_is_taken_only_after_its_commit(reader: Reader) -> None:
    with transaction.atomic():
        doorbell.ring("route")
        with transaction.atomic():
            doorbell.ring("canary")
            transaction.set_rollback(True)
        assert reader.taken == []
    assert reader.is_done()
    assert [row.task["func"] for row in OrmQ.objects.all()] == ["router.tasks.route"]


def test_what_was_queued_before_anybody_listened_is_found() -> None:
    doorbell.ring("route")
    assert len(TaskQueue().dequeue() or []) == 1


def test_an_empty_queue_gives_nothing() -> None:
    queue = TaskQueue()
    assert [queue.dequeue() for _ in range(2)] == [None, None]


def test_a_reader_outlives_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_queue, "AWAY_SECONDS", 0.0)
    doorbell.ring("route")
    queue = TaskQueue()

    def away(*_: object) -> None:
        raise OperationalError("the database is away")

    with connection.execute_wrapper(away):
        assert queue.dequeue() is None
    assert len(queue.dequeue() or []) == 1
