"""A crash point kills one process, once, at its nth time; unarmed and in production it does not."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from router import crashpoints

ROOT = Path(__file__).resolve().parents[2]
THRICE = "from router.crashpoints import reach; [reach('index.after_commit') for _ in range(3)]"


def run(folder: Path, **more: str) -> int:
    environment = {**os.environ, crashpoints.VARIABLE: str(folder), **more}
    command = [sys.executable, "-c", THRICE]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=30).returncode


def test_it_dies_at_the_nth_time_and_once(tmp_path: Path) -> None:
    (tmp_path / "index.after_commit").write_text("3 first")
    assert run(tmp_path) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["index.after_commit.reached"]
    assert run(tmp_path) == 0


def test_it_lives_before_its_time_and_at_other_points(tmp_path: Path) -> None:
    (tmp_path / "index.after_commit").write_text("4 later")
    (tmp_path / "index.after_moves").write_text("1 elsewhere")
    assert run(tmp_path) == 0


def test_it_lives_in_production(tmp_path: Path) -> None:
    (tmp_path / "index.after_commit").write_text("1 now")
    assert run(tmp_path, ROUTER_ENV="production") == 0


def test_it_stops_where_that_is_wanted_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "index.after_commit").write_text("2 now STOP")
    environment = {**os.environ, crashpoints.VARIABLE: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", THRICE], cwd=ROOT, env=environment) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0


def test_every_point_has_its_place() -> None:
    called = re.compile(r'crashpoints\.reach\("([a-z_.]+)"\)')
    folders = ("router", "ingest")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {name for path in paths for name in called.findall(path.read_text())}
    assert found == set(crashpoints.POINTS)
