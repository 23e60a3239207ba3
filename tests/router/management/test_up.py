"""``manage.py up`` killed without a word: nothing it started lives on, and it starts anew."""

import os
import signal
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.product import Product, wait_until

AN_ORPHAN_MAY_LIVE = 5.0


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _all_gone(processes: list[psutil.Process]) -> bool:
    return not _alive(processes)


@pytest.mark.database
@pytest.mark.timeout(240)
def test_nothing_outlives_up_and_it_starts_anew(tmp_path: Path) -> None:
    with Product(tmp_path) as product:
        everyone = product.processes()
        roles = [len(product.processes(role)) for role in ("web", "receiver", "worker")]
        assert min(roles) > 1, everyone
        os.kill(product.up.pid, signal.SIGKILL)
        product.wait_ended()
        wait_until(lambda: not _alive(everyone), seconds=AN_ORPHAN_MAY_LIVE, what="no orphan")
        product.start()


@pytest.mark.database
@pytest.mark.timeout(240)
def test_a_closed_terminal_ends_it_in_order(tmp_path: Path) -> None:
    with Product(tmp_path) as product:
        everyone = product.processes()
        assert product.stop(signal.SIGHUP) == 0
        assert not _alive(everyone)


@pytest.mark.database
@pytest.mark.timeout(240)
def test_whatever_dies_is_started_again(tmp_path: Path) -> None:
    """With what was under the dead one: nothing of the old tree goes on beside the new one."""
    with Product(tmp_path) as product:
        product.stop()
        product.start("--demo")
        for role in ("web", "receiver", "worker", "demo_pacs"):
            (first, *below) = product.processes(role)
            tree = [first, *below, *first.children(recursive=True)]
            first.kill()
            wait_until(partial(_all_gone, tree), seconds=10, what=f"the old {role} gone")
            wait_until(partial(product.processes, role), seconds=30, what=f"a new {role}")
        product.wait_idle(120)
        assert product.get("/healthz")
