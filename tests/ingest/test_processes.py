"""Forked processes: watched, replaced, stopped in order."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
    import os, sys
    from pathlib import Path
    from ingest.processes import Processes
    folder = Path(sys.argv[1])
    def serve(ready, stopping):
        (folder / f"born-{os.getpid()}").touch()
        ready()
        stopping.wait()
        (folder / f"ended-{os.getpid()}").touch()
    def died(pid):
        (folder / f"died-{pid}").touch()
    sys.exit(Processes(2, serve, on_death=died).run(lambda: print("ready", flush=True)))
"""


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CODE), str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def pids(folder: Path, what: str) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob(f"{what}-*")}


def wait_for(folder: Path, what: str, count: int) -> set[int]:
    deadline = time.monotonic() + 20
    while len(found := pids(folder, what)) < count:
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(0.02)
    return found


def test_children_are_replaced_and_end_in_order(tmp_path: Path) -> None:
    with start(tmp_path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        first = wait_for(tmp_path, "born", 2)
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        everyone = wait_for(tmp_path, "born", 3)
        assert pids(tmp_path, "died") == {victim}
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 0
        assert pids(tmp_path, "ended") == everyone - {victim}


def test_children_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    with start(tmp_path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        born = wait_for(tmp_path, "born", 2)
        parent.kill()
        parent.wait(20)
        assert wait_for(tmp_path, "ended", 2) == born
