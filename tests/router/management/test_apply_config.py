"""``apply_config``: what it prints, how it exits, and that two at once do not mix."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings as project
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from router.models import ConfigRevision, Source

MANAGE = str(Path(project.BASE_DIR) / "manage.py")
TEXT = "version: 1\nsources:\n  - {name: ct, ae_title: CT1}\n"
WRONG = "version: 1\nsources:\n  - {name: ct, ae_titel: CT1}\nrules: [{name: r, send: [x]}]\n"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, settings: Settings) -> Path:
    """Give every test a data directory, and the path of a file in it."""
    settings.DATA_DIR = tmp_path
    return tmp_path / "router.yaml"


def apply_config(*arguments: str) -> str:
    out = io.StringIO()
    call_command("apply_config", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
class TestApplyConfig:
    def test_prints_the_plan_then_no_change(self, file: Path) -> None:
        file.write_text(TEXT)
        first = apply_config(str(file), "--reason", "new scanner")
        assert first.splitlines() == [
            "+ source ct",
            '    ae_title: "CT1"',
            "applied as revision 2",
        ]
        assert apply_config(str(file)) == "no change\n"
        revision = ConfigRevision.objects.get(number=2)
        assert revision.reason == "new scanner"
        assert revision.actor

    def test_a_dry_run_changes_nothing(self, file: Path) -> None:
        file.write_text(TEXT)
        assert apply_config(str(file), "--dry-run").endswith("dry run: nothing was changed\n")
        assert not Source.objects.exists()

    def test_names_file_line_and_key_of_everything_wrong(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.write_text(WRONG)
        with pytest.raises(SystemExit) as caught:
            apply_config(str(file))
        assert caught.value.code == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert lines[0].startswith(f"{file}: line 3: sources[0]: the key 'ae_title' is missing")
        assert lines[1].startswith(f"{file}: line 3: sources[0].ae_titel: 'ae_titel' is unknown")
        assert lines[2].startswith(f"{file}: line 4: rules[0].send[0]: the destination 'x'")
        assert not Source.objects.exists()

    def test_reads_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
        assert "+ source ct" in apply_config("-")

    def test_a_missing_file_is_a_usage_error(self, file: Path) -> None:
        with pytest.raises(CommandError, match="No such file") as caught:
            apply_config(str(file))
        assert caught.value.returncode == 2


@pytest.mark.django_db(transaction=True)
def test_says_when_the_receiver_could_not_be_told(file: Path, settings: Settings) -> None:
    file.write_text(TEXT)
    settings.DATA_DIR = file.parent / "missing"
    with pytest.raises(CommandError, match=r"sources\.json"):
        apply_config(str(file))
    assert Source.objects.exists()


def test_two_processes_at_once_make_two_whole_revisions(tmp_path: Path) -> None:
    environment = os.environ | {
        "ROUTER_DATA_DIR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'router.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "router.settings",
    }

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, MANAGE, *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    migrated = start("migrate", "-v0")
    assert migrated.communicate()[0] == ""
    for name in ("one", "two"):
        (tmp_path / name).write_text(TEXT.replace("ct", name))
    both = [start("apply_config", str(tmp_path / name)) for name in ("one", "two")]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    numbers = [text.split()[-1] for text in said]
    assert sorted(numbers) == ["2", "3"]
    last = ("one", "two")[numbers.index("3")]
    export = start("export_config").communicate()[0]
    assert export == f"version: 1\n\nsources:\n- {{name: {last}, ae_title: CT1}}\n"
    assert f'"name": "{last}"' in (tmp_path / "sources.json").read_text()
