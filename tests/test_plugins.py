"""``--database-only`` selects what uses the database, all of it and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = """
import pytest
from django.test import SimpleTestCase, TestCase

def test_pure(): pass

@pytest.mark.django_db
def test_marked(): pass

@pytest.mark.database
def test_other_process(): pass

def test_fixture(db): pass

@pytest.fixture
def row(transactional_db): pass

def test_fixture_of_a_fixture(row): pass

class TestRows(TestCase):
    def test_of_a_class(self): pass

class TestNoRows(SimpleTestCase):
    def test_of_a_simple_class(self): pass
"""


def collected(folder: Path, *arguments: str) -> set[str]:
    """The names of the sample's tests that pytest would run."""
    (folder / "test_sample.py").write_text(SAMPLE)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = database: x\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.plugins", "--collect-only", "-q", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return {line.rpartition("::")[2] for line in result.stdout.splitlines() if "::" in line}


def test_without_the_option_everything_runs(tmp_path: Path) -> None:
    assert {"test_pure", "test_marked", "test_of_a_simple_class"} <= collected(tmp_path)


def test_selects_what_uses_the_database(tmp_path: Path) -> None:
    assert collected(tmp_path, "--database-only") == {
        "test_marked",
        "test_other_process",
        "test_fixture",
        "test_fixture_of_a_fixture",
        "test_of_a_class",
    }
