"""Children end with their parent, whatever kills it and whatever they are doing."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
WAIT = 20.0

# A tree of processes that sleep with every signal blocked that a process may block.
_BOUND = """
    import os, signal, sys, time
    from router import lifeline
    lifeline.end_forks_with_this()
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    for _ in range(2):
        if os.fork() == 0:
            if os.fork() == 0:
                os.write(1, b"%d\\n" % os.getpid())
                time.sleep(600)
            os.write(1, b"%d\\n" % os.getpid())
            time.sleep(600)
    time.sleep(600)
"""
# The parent dies between the fork and the child's first step.
_LATE = """
    import os, sys, time
    from router import lifeline
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.01)
        lifeline.end_with(parent)
        print("outlived", flush=True)
    os._exit(0)
"""


def _start(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def _wait_gone(pids: list[int]) -> None:
    limit = time.monotonic() + WAIT
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < limit, left
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_forks_at_any_depth_end_with_a_killed_parent() -> None:
    with _start(_BOUND) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(4)]
        assert all(_runs(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
        parent.wait(WAIT)
    _wait_gone(pids)


def test_forks_of_a_killed_child_end_and_its_siblings_stay() -> None:
    with _start(_BOUND) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(4)]
        first, second = psutil.Process(parent.pid).children()
        (grandchild,) = first.children()
        first.kill()
        _wait_gone([first.pid, grandchild.pid])
        assert _runs(second.pid)
        parent.kill()
    _wait_gone(pids)


def test_a_child_whose_parent_died_first_ends_at_once() -> None:
    with _start(_LATE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == ""
