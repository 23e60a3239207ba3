"""`ROUTER_OUTBOUND_ALLOW` and `ROUTER_KEYS`: their defaults, and a sentence for what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SAY = "from router import settings; print(*settings.OUTBOUND_ALLOW)"
SET_UP = "import django; django.setup()"
PRODUCTION = {
    "ROUTER_ENV": "production",
    "ROUTER_SECRET_KEY": "s" * 60,
    "ROUTER_KEYS": "A" * 43,
    "ROUTER_PUBLIC_URL": "https://router.example",
    "ROUTER_ALLOW_SQLITE": "1",
}


def run(code: str, data_dir: Path, **given: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    module = {"DJANGO_SETTINGS_MODULE": "router.settings", "ROUTER_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=kept | module | given, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({}, "127.0.0.0/8 ::1/128"),
        (PRODUCTION, ""),
        ({"ROUTER_OUTBOUND_ALLOW": ""}, ""),
        ({"ROUTER_OUTBOUND_ALLOW": "10.1.2.3, 169.254.9.9/16"}, "10.1.2.3/32 169.254.0.0/16"),
        (PRODUCTION | {"ROUTER_OUTBOUND_ALLOW": "127.0.0.1"}, "127.0.0.1/32"),
    ],
)
def test_what_may_be_reached(tmp_path: Path, given: dict[str, str], allowed: str) -> None:
    assert run(SAY, tmp_path, **given).stdout.strip() == allowed


def test_refuses_what_is_no_network(tmp_path: Path) -> None:
    said = run(SAY, tmp_path, ROUTER_OUTBOUND_ALLOW="10.1.0.0/33").stderr
    assert "ROUTER_OUTBOUND_ALLOW: '10.1.0.0/33'" in said
    assert "such as 10.1.0.0/16 are expected." in said


def test_starts_with_no_keys_that_cannot_be_used(tmp_path: Path) -> None:
    done = run(SET_UP, tmp_path, ROUTER_KEYS="hunter2hunter2")
    assert done.returncode != 0
    assert "a key in ROUTER_KEYS has 10 bytes; 32 are expected." in done.stderr
    assert "hunter2" not in done.stderr.splitlines()[-1]
    assert run(SET_UP, tmp_path, ROUTER_KEYS=f"{'A' * 43}=, {'B' * 43}").returncode == 0
