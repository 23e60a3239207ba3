"""The watchdog: a cluster that died or went deaf is replaced; one that is only busy is not."""

import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from router.management.commands import worker
from router.models import ItemState, LaneSlot
from router.services import clock
from tests import factories
from tests.product import Product, wait_until

SECOND = timedelta(seconds=1)


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[worker.Watchdog]:
    """Return a watchdog whose cluster was started two minutes ago; signals are as before after."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    found = worker.Watchdog(tmp_path / "stop")
    found._started = time.monotonic() - 120
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def _lease(seconds: int) -> None:
    until = clock.now() + seconds * SECOND
    item = factories.item(state=ItemState.LEASED, owner="w", lease_until=until)
    LaneSlot.objects.create(destination=item.destination, number=0, owner="w", lease_until=until)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("silent_for", "lease", "deaf"),
    [
        (10, None, False),
        (80, None, False),
        (100, None, True),
        (None, None, True),  # never answered at all
        (100, 20, False),  # busy: its lease advances
        (100, -1, True),
    ],
)
def test_is_deaf_when_nobody_answers_and_no_lease_advances(
    watchdog: worker.Watchdog, silent_for: int | None, lease: int | None, *, deaf: bool
) -> None:
    if silent_for is not None:
        factories.heartbeat("worker", at=clock.now() - silent_for * SECOND)
    if lease is not None:
        _lease(lease)
    assert watchdog._is_deaf() is deaf


@pytest.mark.django_db
def test_a_cluster_that_has_just_begun_is_not_deaf(watchdog: worker.Watchdog) -> None:
    watchdog._started += 60
    assert not watchdog._is_deaf()


@pytest.mark.database
def test_a_dead_cluster_is_replaced_and_a_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    with Product(tmp_path) as product:
        wait_until(lambda: _clusters(product), seconds=60, what="a cluster")
        (first,) = _clusters(product)
        first.kill()
        wait_until(lambda: _others(product, first.pid), seconds=60, what="another cluster")
        seen = product.processes("worker")
        assert product.stop() == 0
        assert [process for process in seen if process.is_running()] == []


def _clusters(product: Product) -> list[psutil.Process]:
    """Return the leaders of the clusters that run."""
    found = product.processes("worker", "--cluster")
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid() not in pids]


def _others(product: Product, pid: int) -> list[psutil.Process]:
    return [process for process in _clusters(product) if process.pid != pid]
