"""``rotate_keys``: says what it did, makes a key when asked, exits 1 for what does not open."""

import base64
import io
import os
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from router import secrets as ring
from router.models import Secret
from router.services import secrets
from router.services.actors import Actor

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _ring(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(base64.urlsafe_b64encode(os.urandom(32)).decode())
    settings.KEYS_FILE = path


def rotate_keys(*arguments: str) -> str:
    out = io.StringIO()
    call_command("rotate_keys", *arguments, stdout=out)
    return out.getvalue()


def test_wraps_anew_under_a_new_key() -> None:
    secrets.put("pacs", "hunter2", actor=Actor("test"))
    old = ring.newest_key()

    said = rotate_keys("--new-key", "--batch", "1")

    assert f"1 secrets wrapped anew under key {ring.newest_key()}" in said
    assert f"key {old} is needed only for older backups" in said
    assert Secret.objects.get().key_id == ring.newest_key() != old
    assert secrets.reveal("pacs") == "hunter2"
    assert "0 secrets wrapped anew" in rotate_keys()


def test_says_what_does_not_open() -> None:
    secrets.put("pacs", "hunter2", actor=Actor("test"))
    Secret.objects.update(envelope=b"\x01" + bytes(40), key_id="0" * 16)
    with pytest.raises(CommandError, match="pacs: its key 0000000000000000") as caught:
        rotate_keys()
    assert caught.value.returncode == 1


def test_needs_a_file_for_a_new_key(settings: Settings) -> None:
    settings.KEYS = settings.KEYS_FILE.read_text()
    settings.KEYS_FILE = None
    with pytest.raises(CommandError, match="ROUTER_KEYS is given as a value"):
        rotate_keys("--new-key")
    assert "0 secrets" in rotate_keys()


@pytest.mark.parametrize("batch", ["0", "x", "10001"])
def test_refuses_other_batches(batch: str) -> None:
    with pytest.raises(CommandError, match="no number from 1 to 10000"):
        rotate_keys("--batch", batch)
