"""Secrets: named in three ways, never the product's own; envelopes open in their row only (R55)."""

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from router import secrets

PLACE = "router.secret.envelope:1"


def key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


@pytest.fixture
def ring(settings: Settings, tmp_path: Path) -> Path:
    """Have the ring in a file with one key."""
    path = tmp_path / "keys"
    path.write_text(key())
    settings.KEYS_FILE = path
    return path


@pytest.fixture
def _empty_vault() -> Iterator[None]:
    before = secrets._vault
    yield
    secrets.install(before)


class TestResolve:
    """Settings name a secret; a sender gets it."""

    def test_nothing_named_is_nothing(self) -> None:
        assert secrets.resolve({"password": "never looked at"}, "password") == ""

    def test_from_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PACS_PASSWORD", "hunter2")
        assert secrets.resolve({"password_env": "PACS_PASSWORD"}, "password") == "hunter2"

    def test_from_a_file_as_it_is_now(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        for value in ("one", "two"):
            path.write_text(f"{value}\n")
            assert secrets.resolve({"token_file": str(path)}, "token") == value

    @pytest.mark.usefixtures("_empty_vault")
    def test_from_the_vault(self) -> None:
        secrets.install({"pacs": "hunter2"}.__getitem__)
        assert secrets.resolve({"password_stored": "pacs"}, "password") == "hunter2"

    @pytest.mark.parametrize(
        "name", ["ROUTER_SECRET_KEY", "ROUTER_KEYS", "DATABASE_URL", "TEST_DATABASE_URL", "a b", ""]
    )
    def test_tells_nobody_the_products_own(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        if name.isupper():
            monkeypatch.setenv(name, "the product's own")
        with pytest.raises(ValueError, match="expected"):
            secrets.check_variable(name)
        if name:
            with pytest.raises(secrets.Unresolved):
                secrets.resolve({"password_env": name}, "password")

    def test_reads_no_file_of_the_product_or_the_system(self, ring: Path, data_dir: Path) -> None:
        (data_dir / "keys").mkdir(exist_ok=True)
        own = data_dir / "keys" / "other"
        own.write_text("the product's own")
        link = ring.parent / "link"
        link.symlink_to(own)
        for path in (ring, own, link, Path("/proc/self/environ")):
            with pytest.raises(secrets.Unresolved):
                secrets.resolve({"password_file": str(path)}, "password")

    @pytest.mark.parametrize("name", ["ROUTER_SECRET_KEY_FILE", "DATABASE_URL_FILE"])
    def test_reads_no_file_that_holds_a_setting_of_the_product(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "kept").write_text("the product's own")
        (tmp_path / "link").symlink_to(tmp_path / "kept")
        monkeypatch.setenv(name, str(tmp_path / "link"))
        for path in (tmp_path / "kept", tmp_path / "link"):
            with pytest.raises(secrets.Unresolved, match="belongs to the product"):
                secrets.resolve({"password_file": str(path)}, "password")

    def test_what_cannot_be_had_says_why_and_no_value(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PACS_PASSWORD", raising=False)
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        (tmp_path / "long").write_text("x" * 70_000)
        cases = {
            "PACS_PASSWORD is not set": {"password_env": "PACS_PASSWORD"},
            "No such file": {"password_file": str(tmp_path / "none")},
            "no regular file|directory": {"password_file": str(tmp_path)},
            "is empty": {"password_file": str(tmp_path / "empty")},
            "no text": {"password_file": str(tmp_path / "bytes")},
            "longer than": {"password_file": str(tmp_path / "long")},
            "absolute": {"password_file": "relative"},
        }
        for words, settings in cases.items():
            with pytest.raises(secrets.Unresolved, match=words):
                secrets.resolve(settings, "password")


@pytest.mark.usefixtures("ring")
class TestEnvelope:
    """Sealed under the newest key, bound to its row."""

    @given(secret=st.text(max_size=200))
    def test_opens_to_what_was_sealed(self, secret: str) -> None:
        assert secrets.unseal(secrets.seal(secret, place=PLACE), place=PLACE) == secret

    def test_is_never_the_same_twice_and_shows_nothing(self) -> None:
        first, second = (secrets.seal("hunter2", place=PLACE) for _ in range(2))
        assert first != second
        assert b"hunter2" not in first
        assert len(first) == 1 + 8 + 12 + len("hunter2") + 16

    def test_does_not_open_elsewhere(self) -> None:
        with pytest.raises(secrets.Unreadable, match="another row"):
            secrets.unseal(secrets.seal("hunter2", place=PLACE), place=f"{PLACE}1")

    def test_does_not_open_when_any_bit_is_changed(self) -> None:
        envelope = secrets.seal("hunter2", place=PLACE)
        for at in range(len(envelope)):
            changed = bytearray(envelope)
            changed[at] ^= 1
            with pytest.raises(secrets.Unreadable):
                secrets.unseal(bytes(changed), place=PLACE)

    def test_does_not_open_when_cut(self) -> None:
        envelope = secrets.seal("hunter2", place=PLACE)
        for length in range(len(envelope)):
            with pytest.raises(secrets.Unreadable):
                secrets.unseal(envelope[:length], place=PLACE)


class TestRing:
    """Keys of 32 bytes, newest first; more may be added while it is used."""

    def test_older_keys_still_open(self, ring: Path) -> None:
        old = secrets.seal("hunter2", place=PLACE)
        first = secrets.newest_key()
        added = secrets.add_key()
        assert secrets.key_ids() == [added, first]
        assert secrets.key_of(secrets.seal("x", place=PLACE)) == added
        assert secrets.unseal(old, place=PLACE) == "hunter2"
        assert stat.S_IMODE(ring.stat().st_mode) == 0o600

    def test_a_key_that_is_gone_is_named(self, ring: Path) -> None:
        old, key_id = secrets.seal("hunter2", place=PLACE), secrets.newest_key()
        ring.write_text(key())
        with pytest.raises(secrets.Unreadable, match=f"its key {key_id} is not in ROUTER_KEYS"):
            secrets.unseal(old, place=PLACE)

    def test_takes_both_alphabets_with_or_without_padding(self) -> None:
        raw = bytes([251, 255] * 16)
        words = [
            base64.b64encode(raw).decode(),
            base64.urlsafe_b64encode(raw).decode(),
            base64.urlsafe_b64encode(raw).decode().rstrip("="),
        ]
        assert len({tuple(secrets.parse_ring(word)) for word in words}) == 1
        ring = secrets.parse_ring(f"{words[0]}, {key()}\n{words[1]}")
        assert next(iter(ring.values())) == raw

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "holds no key"),
            ("c2hvcnQ", "5 bytes; 32"),
            ("%%%%", "no base64"),
            ("é", "no base64"),
        ],
    )
    def test_refuses_what_is_no_ring_and_repeats_none_of_it(self, text: str, words: str) -> None:
        with pytest.raises(secrets.KeyRingError, match=words) as caught:
            secrets.parse_ring(text)
        assert not text or text not in str(caught.value)

    def test_adds_no_key_where_the_ring_is_a_value(self, settings: Settings) -> None:
        settings.KEYS_FILE, settings.KEYS = None, key()
        with pytest.raises(secrets.KeyRingError, match="restart every process"):
            secrets.add_key()
        assert len(secrets.key_ids()) == 1
