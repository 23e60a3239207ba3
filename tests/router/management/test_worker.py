"""``manage.py worker``: a cluster that answers, comes back when killed, and ends when told."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
WAIT = 60.0
AN_ORPHAN_MAY_LIVE = 5.0


class Worker:
    """The command on a database and a data directory of its own."""

    def __init__(self, folder: Path) -> None:
        self._database = folder / "router.sqlite3"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "DATABASE_"))},
            "ROUTER_DATA_DIR": str(folder),
            "ROUTER_WORKERS": "2",
        }
        self._manage("migrate", "--verbosity", "0")
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"],
            cwd=ROOT,
            env=self._environment,
            stderr=subprocess.DEVNULL,
        )

    def _manage(self, *arguments: str) -> None:
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, cwd=ROOT, env=self._environment, check=True, timeout=120)

    def beats(self) -> list[str]:
        """Return when a worker answered last."""
        with sqlite3.connect(self._database, timeout=30) as database:
            rows = database.execute("SELECT at FROM router_heartbeat WHERE role = 'worker'")
            return [at for (at,) in rows]

    def cluster(self) -> list[psutil.Process]:
        """Return the processes of the cluster, the first of them first."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    started = Worker(tmp_path)
    yield started
    for process in started.cluster():
        process.kill()
    started.process.kill()
    started.process.wait()


def _wait_for(question: Callable[[], object]) -> None:
    limit = time.monotonic() + WAIT
    while not question():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.1)


@pytest.mark.timeout(240)
def test_answers_comes_back_after_a_kill_and_ends_when_told(worker: Worker) -> None:
    _wait_for(worker.beats)

    first, last_beat = worker.cluster()[0], worker.beats()
    os.killpg(first.pid, signal.SIGKILL)
    _wait_for(lambda: worker.beats() > last_beat)
    assert worker.cluster()[0].pid != first.pid

    cluster = worker.cluster()
    worker.process.terminate()
    assert worker.process.wait(30) == 0
    assert not any(process.is_running() for process in cluster)


@pytest.mark.timeout(240)
def test_any_idle_worker_may_be_killed(worker: Worker) -> None:
    """One of them always waits first in the queue; its place must not stay locked."""
    _wait_for(worker.beats)
    sentinel = worker.cluster()[1]
    for _ in range(2):
        for one in sentinel.children():
            last_beat = worker.beats()
            one.kill()
            _wait_for(lambda beat=last_beat: worker.beats() > beat)  # type: ignore[misc]
    assert worker.cluster()[1].pid == sentinel.pid  # nobody had to start it anew


@pytest.mark.timeout(240)
def test_no_worker_outlives_a_killed_sentinel(worker: Worker) -> None:
    """The watchdog sleeps meanwhile: it is the kernel that ends the pool."""
    _wait_for(worker.beats)
    cluster, sentinel = worker.cluster()[:2]
    pool = sentinel.children(recursive=True)
    assert len(pool) >= 3  # two workers, and what feeds them
    worker.process.send_signal(signal.SIGSTOP)
    sentinel.kill()
    _, alive = psutil.wait_procs(pool, timeout=AN_ORPHAN_MAY_LIVE)
    assert not [one for one in alive if _runs(one)]

    last_beat = worker.beats()
    worker.process.send_signal(signal.SIGCONT)
    _wait_for(lambda: worker.beats() > last_beat)
    assert worker.cluster()[0].pid != cluster.pid


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
