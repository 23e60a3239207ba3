"""``create_token``: the token alone on the last line, with the scopes and the life asked for."""

import hashlib
import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from router.models import ApiToken
from tests import factories

pytestmark = pytest.mark.django_db


def create_token(*arguments: str) -> list[str]:
    out = io.StringIO()
    call_command("create_token", *arguments, stdout=out)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    "scopes",
    [
        ["--scope", "dicomweb:read", "api:read"],
        ["--scope", "dicomweb:read", "--scope", "api:read"],
    ],
)
def test_the_token_is_the_last_line(scopes: list[str]) -> None:
    factories.user("pump", role="service")
    *_said, token = create_token("pump", *scopes)
    row = ApiToken.objects.get()
    assert row.digest == hashlib.sha256(token.encode()).hexdigest()
    assert row.scopes == ["api:read", "dicomweb:read"]
    assert row.expires_at - row.created_at == timedelta(days=90)


def test_lives_as_long_as_asked() -> None:
    factories.user("pump", role="service")
    said = create_token("pump", "--scope", "metrics:read", "--expires", "12h")
    assert "it expires in 12h" in said[0]
    row = ApiToken.objects.get()
    assert row.expires_at - row.created_at == timedelta(hours=12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody", "--scope", "api:read"], "'nobody' is unknown"),
        (["pump", "--scope", "api:fly"], "api:fly is unknown; expected some of"),
        (["pump", "--scope", "api:read", "--expires", "400d"], "at most 366 days"),
        (["pump", "--scope", "api:read", "--expires", "soon"], "'soon' is no duration"),
        (["pump"], "--scope"),
    ],
)
def test_refuses(arguments: list[str], message: str) -> None:
    factories.user("pump", role="service")
    with pytest.raises(CommandError, match=message):
        create_token(*arguments)
    assert not ApiToken.objects.exists()
