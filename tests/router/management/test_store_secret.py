"""``store_secret``: one line of standard input, never repeated."""

import io

import pytest
from django.core.management import CommandError, call_command

from router.services import secrets

pytestmark = pytest.mark.django_db


def store_secret(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    call_command("store_secret", name, stdout=out)
    return out.getvalue()


def test_keeps_the_line_and_does_not_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = store_secret("pacs", "hunter2\n", monkeypatch)
    said += store_secret("pacs", "hunter3\n", monkeypatch)
    assert said == "pacs is stored\npacs is replaced\n"
    assert secrets.reveal("pacs") == "hunter3"


@pytest.mark.parametrize(("name", "line"), [("a b", "x\n"), ("pacs", "\n"), ("pacs", "")])
def test_refuses(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="expected") as caught:
        store_secret(name, line, monkeypatch)
    assert caught.value.returncode == 1
