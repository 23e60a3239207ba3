"""``manage.py up`` killed without a word: nothing it started lives on, and it starts anew."""

import os
import signal
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
