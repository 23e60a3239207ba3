"""``export_config``: the form that ``apply_config`` takes, on standard output or in a file."""

import io
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests import factories

pytestmark = pytest.mark.django_db


def test_writes_to_standard_output() -> None:
    factories.source("ct", hosts=[])
    out = io.StringIO()
    call_command("export_config", stdout=out)
    assert out.getvalue() == "version: 1\n\nsources:\n- {name: ct, ae_title: CT1}\n"


def test_writes_a_file_that_applies_without_a_change(tmp_path: Path) -> None:
    factories.destination("pacs")
    factories.rule("all", send=["pacs"])
    file = tmp_path / "now.yaml"
    call_command("export_config", str(file))
    out = io.StringIO()
    call_command("apply_config", str(file), stdout=out)
    assert out.getvalue() == "no change\n"


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file") as caught:
        call_command("export_config", str(tmp_path / "missing" / "now.yaml"))
    assert caught.value.returncode == 2
