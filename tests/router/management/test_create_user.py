"""``create_user``: where the password comes from, limits, and what is refused."""

import io
import os
import pty
import sys

import pytest
from django.core.management import CommandError, call_command

from router.models import AuditEvent, User

PASSWORD = "correct horse battery"

pytestmark = pytest.mark.django_db


def create_user(*arguments: str) -> str:
    out = io.StringIO()
    call_command("create_user", *arguments, stdout=out)
    return out.getvalue()


def test_generates_a_password_and_prints_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    said = create_user("bob", "--role", "operator")
    first, second = said.splitlines()
    assert first == "user bob created with role operator"
    password = second.removeprefix("password ")
    assert len(password) >= 15
    assert User.objects.get(username="bob").check_password(password)
    assert AuditEvent.objects.get(event="user.created").actor_kind == "system"


def test_reads_the_password_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
    said = create_user("bob", "--role", "radiologist", "--password-stdin")
    assert PASSWORD not in said
    assert User.objects.get(username="bob").check_password(PASSWORD)


@pytest.mark.parametrize(("second", "is_made"), [(PASSWORD, True), ("another one", False)])
def test_asks_twice_on_a_terminal(
    second: str, is_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    asked = iter([PASSWORD, second])
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(asked))
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        if is_made:
            assert PASSWORD not in create_user("bob", "--role", "operator")
        else:
            with pytest.raises(CommandError, match="differ"):
                create_user("bob", "--role", "operator")
    os.close(ours)
    assert User.objects.filter(username="bob").exists() == is_made


def test_limits_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    limits = ["modalities=CT", "modalities=MR", "institutions=St. Ann, North = South"]
    create_user("bob", "--role", "auditor", *(f"--limit={limit}" for limit in limits))
    assert User.objects.get(username="bob").limit == {
        "modalities": ["CT", "MR"],
        "institutions": ["St. Ann, North = South"],
    }


def test_a_service_user_has_no_password() -> None:
    assert create_user("pump", "--role", "service") == "user pump created with role service\n"
    assert not User.objects.get(username="pump").has_usable_password()
    with pytest.raises(CommandError, match="no password") as caught:
        create_user("pump2", "--role", "service", "--password-stdin")
    assert caught.value.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bob", "--role", "king"], "'king' is unknown; expected one of"),
        (["b b b?", "--role", "operator"], "valid username"),
        (["bob", "--role", "operator", "--limit", "ward=3"], "'ward=3' is no limit"),
        (["bob", "--role", "operator", "--limit", "modalities="], "is no limit"),
        (["bob"], "--role"),
    ],
)
def test_refuses(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(CommandError, match=message):
        create_user(*arguments)
    assert not User.objects.exists()


def test_refuses_a_weak_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    with pytest.raises(CommandError, match="too short") as caught:
        create_user("bob", "--role", "operator", "--password-stdin")
    assert caught.value.returncode == 1


def test_refuses_a_name_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    create_user("bob", "--role", "operator")
    with pytest.raises(CommandError, match="exists already"):
        create_user("Bob", "--role", "operator")
