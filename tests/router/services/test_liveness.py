"""A worker that was killed is known to be dead at once; one that only hangs has its lease."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from router.models import Attempt, AttemptOutcome, ItemState, JobItem, LaneSlot
from router.services import clock, delivery, liveness, upkeep
from tests import factories

pytestmark = pytest.mark.django_db

WORKER = """
    import os, sys, time
    from pathlib import Path
    from router.owners import Owners
    print(Owners(Path(sys.argv[1])).me().lock, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def workers(settings: Any, tmp_path: Path) -> Iterator[Path]:  # Any: pytest-django has no type
    """Give the test lock files of its own."""
    settings.DATA_DIR = tmp_path
    liveness._owners.cache_clear()
    yield tmp_path / "workers"
    liveness._owners.cache_clear()


@contextmanager
def _worker(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run another process that holds a lock file; give its token."""
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def _leased(owner: str, *, seconds: float = 30) -> JobItem:
    until = clock.now() + timedelta(seconds=seconds)
    item = factories.item(state=ItemState.LEASED, owner=owner, lease_until=until, fence=1)
    factories.attempt(item, fence=1, outcome=AttemptOutcome.RUNNING, ended_at=None)
    LaneSlot.objects.create(destination=item.destination, number=0, owner=owner, lease_until=until)
    return item


def test_names_are_of_this_process_and_never_the_same() -> None:
    first, second = liveness.new_name(), liveness.new_name()

    assert first != second
    assert liveness.token(first) == liveness.token(second)
    assert len(first) <= 64
    assert liveness.dead([first]) == []


def test_only_a_process_that_has_ended_is_dead(workers: Path) -> None:
    with _worker(workers) as (token, process):
        assert liveness.dead([f"{token}:1"]) == []
        process.kill()
        process.wait()
        assert liveness.dead([f"{token}:1", f"{token}:2"]) == [token]


@pytest.mark.parametrize("name", ["0" * 32 + ":1", "", "../../etc/passwd", "w"])
def test_of_a_name_without_a_lock_file_here_nothing_is_said(name: str, workers: Path) -> None:
    workers.mkdir()

    assert liveness.dead([name]) == []


def test_the_work_of_a_killed_worker_is_taken_back_at_once(workers: Path) -> None:
    with _worker(workers) as (token, process):
        item = _leased(f"{token}:1")
        assert delivery.recover_lost() == 0
        process.kill()
        process.wait()

        assert delivery.recover_lost() == 1

    item.refresh_from_db()
    assert (item.state, item.lost, item.owner) == (ItemState.PENDING, 1, "")
    assert Attempt.objects.get(item=item).outcome == AttemptOutcome.WORKER_LOST
    assert LaneSlot.objects.get().owner == ""


def test_only_what_the_dead_one_held_is_taken_back(workers: Path) -> None:
    mine = _leased(liveness.new_name())
    elsewhere = _leased("f" * 32 + ":1")
    with _worker(workers) as (token, process):
        lost = _leased(f"{token}:1")
        process.kill()
        process.wait()

        delivery.recover_lost()

    left = JobItem.objects.filter(state=ItemState.LEASED).values_list("pk", flat=True)
    assert set(left) == {mine.pk, elsewhere.pk}
    assert JobItem.objects.get(pk=lost.pk).state == ItemState.PENDING


def test_a_worker_of_another_host_has_its_lease() -> None:
    item = _leased("f" * 32 + ":1", seconds=5)

    with clock.shifted(timedelta(seconds=6)):
        assert delivery.recover_lost() == 1

    item.refresh_from_db()
    assert item.state == ItemState.PENDING


def test_lock_files_of_old_dead_workers_go_unless_they_hold_something(workers: Path) -> None:
    workers.mkdir()
    (workers / ("a" * 32)).touch()
    (workers / ("b" * 32)).touch()
    old = clock.now().timestamp() - 7200
    for path in workers.iterdir():
        os.utime(path, (old, old))
    _leased("a" * 32 + ":1")

    assert upkeep.forget_ended_workers() == 1

    assert [path.name for path in workers.iterdir()] == ["a" * 32]
