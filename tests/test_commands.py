"""Commands that are forked: each is a process of its own that does what `manage.py` does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import ROOT, Commands

CODE = ("shell", "--no-imports", "-c")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ROUTER_", "DATABASE_"))}
    return {**kept, "ROUTER_DATA_DIR": str(tmp_path_factory.mktemp("data"))}


@pytest.fixture(scope="module")
def commands(environment: dict[str, str]) -> Iterator[Commands]:
    started = Commands(environment)
    yield started
    started.end()


@pytest.mark.parametrize(
    "arguments",
    [
        (*CODE, "import sys; print('said'); print('blamed', file=sys.stderr)"),
        (*CODE, "raise SystemExit(7)"),
        (*CODE, "raise SystemExit('a reason')"),
        (*CODE, "import atexit; atexit.register(print, 'at the end')"),
        ("no_such_command",),
        ("wait_idle", "--timeout", "not a number"),
    ],
)
def test_does_what_manage_does(
    commands: Commands, environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    plain = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    forked = commands.run(arguments, timeout=100)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        plain.returncode,
        plain.stdout,
        plain.stderr,
    )


def test_an_error_is_shown(commands: Commands) -> None:
    done = commands.run([*CODE, "raise ValueError('wrong')"], timeout=100)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: wrong\n")


def test_none_remembers_another(commands: Commands) -> None:
    commands.run([*CODE, "import os, router; os.environ['X'] = router.left = 'x'"], timeout=100)
    code = "import os, router; print('X' in os.environ, hasattr(router, 'left'), os.getpid())"
    first, second = (commands.run([*CODE, code], timeout=100).stdout.split() for _ in range(2))
    assert first[:2] == second[:2] == ["False", "False"]
    assert first[2] != second[2]


def test_two_run_at_once(commands: Commands, tmp_path: Path) -> None:
    """Each waits for the other."""
    code = (
        "import pathlib, time\npathlib.Path({mine!r}).touch()\n"
        "while not pathlib.Path({other!r}).exists(): time.sleep(0.01)"
    )
    names = [str(tmp_path / name) for name in ("one", "two")]
    pairs = [names, names[::-1]]
    with ThreadPoolExecutor() as pool:
        texts = [code.format(mine=mine, other=other) for mine, other in pairs]
        done = list(pool.map(lambda text: commands.run([*CODE, text], timeout=100), texts))
    assert [one.returncode for one in done] == [0, 0]


def test_what_takes_too_long_is_ended(commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(path)!r}).write_text(str(os.getpid()))"
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run([*CODE, f"{code}; time.sleep(3600)"], timeout=5)
    assert not path.exists() or not Path(f"/proc/{path.read_text()}").exists()
