"""The secrets that settings make: whole, private, and the same for whoever starts at once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAY = "from router import settings; print(settings.SECRET_KEY, settings.KEYS)"


def begin(data_dir: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    environment = {**kept, "ROUTER_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-c", SAY]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    started = [begin(data_dir) for _ in range(4)]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(said) == 1
    assert len(said.pop().split()) == 2


def test_they_are_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    assert begin(tmp_path).communicate(timeout=60)[0]
    files = sorted((tmp_path / "keys").iterdir())
    assert [path.name for path in files] == ["keys", "secret_key"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
