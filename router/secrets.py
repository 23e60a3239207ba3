"""Secrets of destinations: how a sender gets one, and how a stored one is kept (R55).

A setting `password` is never written down. It is named, in one of three ways, and a sender asks for
it when it needs it: ``secrets.resolve(settings, "password")``.

- ``password_env: NAME``, the variable of our environment that holds it;
- ``password_file: /path``, the file that holds it;
- ``password_stored: name``, one that was typed in the console and lies encrypted in the database.

Those are all that a configuration, its revisions, exports and pages ever hold. Stored secrets lie
in rows, which nothing at this level knows: `router.services.secrets` gives its way of reading them
to `install` when the program starts.

A stored secret is an envelope: version (1 byte), key id (8), nonce (12), AES-256-GCM ciphertext
with its tag. The associated data are version, key id and the place of the row (`model.field:pk`),
so that an envelope opens in its own row only. The key ring is `ROUTER_KEYS`: keys of 32 bytes in
base64, newest first; a ring that lies in a file is read anew each time, so keys can be added while
processes run.
"""

import base64
import binascii
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings as django_settings

from router import durable

VERSION = 1
KEY_BYTES, ID_BYTES, NONCE_BYTES = 32, 8, 12
HEAD_BYTES = 1 + ID_BYTES + NONCE_BYTES
MOST_BYTES = 64 * 1024
WAYS = ("env", "file", "stored")
"""The suffixes of a setting that names a secret."""

OURS = re.compile(r"ROUTER_|DATABASE_URL\Z|TEST_DATABASE_URL\Z|DJANGO_")
"""Variables that hold secrets of the product itself: no destination is told them."""


class Unresolved(Exception):
    """A secret cannot be had. The sentence says which and why, without a full stop at its end."""


class Unreadable(Unresolved):
    """An envelope does not open: its key is not in the ring, or it was changed or moved."""


class KeyRingError(Exception):
    """`ROUTER_KEYS` cannot be used, or nothing can be added to it."""


def _no_vault(name: str) -> str:
    raise Unresolved(f"the stored secret '{name}' cannot be read by this process")


_vault: Callable[[str], str] = _no_vault


def install(vault: Callable[[str], str]) -> None:
    """Have stored secrets read by `vault`, which returns the secret of a name or raises
    `Unresolved`."""
    global _vault
    _vault = vault


def resolve(settings: Mapping[str, object], key: str) -> str:
    """Return the secret that the settings of a destination name under `key`; '' for none.

    Raises:
        Unresolved: it is named, and cannot be had.
    """
    if variable := settings.get(f"{key}_env"):
        return _of_environment(str(variable))
    if path := settings.get(f"{key}_file"):
        return _of_file(Path(str(path)))
    if name := settings.get(f"{key}_stored"):
        return _vault(str(name))
    return ""


def check_variable(name: str) -> None:
    """Look at the name of a variable that is to hold a secret of a destination.

    Raises:
        ValueError: it is no such name, or one that holds a secret of the product itself.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ValueError("the name of an environment variable is expected, like PACS_PASSWORD")
    if OURS.match(name):
        raise ValueError(f"{name} belongs to the product itself; another variable is expected")


def check_file(path: str) -> None:
    """Look at the path of a file that is to hold a secret of a destination.

    Raises:
        ValueError: it is not absolute, or lies where the product keeps its own secrets.
    """
    if not path.startswith("/") or "\0" in path:
        raise ValueError("an absolute path is expected, like /run/secrets/pacs")
    real = Path(os.path.realpath(path))
    own = [Path(os.path.realpath(django_settings.DATA_DIR)), Path("/proc"), Path("/sys")]
    if real in _own_files() or any(real.is_relative_to(folder) for folder in own):
        raise ValueError(f"{path} belongs to the product or the system; another file is expected")


def _own_files() -> set[Path | None]:
    """The files that the product's own settings are read from, wherever their links lead now."""
    named = {
        Path(os.path.realpath(value))
        for name, value in os.environ.items()
        if name.endswith("_FILE") and OURS.match(name.removesuffix("_FILE"))
    }
    return {_ring_file(), *named}


def _of_environment(name: str) -> str:
    try:
        check_variable(name)
    except ValueError as error:
        raise Unresolved(str(error)) from error
    value = os.environ.get(name, "")
    if not value:
        raise Unresolved(f"the environment variable {name} is not set")
    return value


def _of_file(path: Path) -> str:
    try:
        check_file(str(path))
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unresolved(f"{path} is no regular file")
            content = file.read(MOST_BYTES + 1)
        value = content.decode().rstrip("\r\n")
    except OSError as error:
        raise Unresolved(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unresolved(f"{path} holds no text") from error
    except ValueError as error:
        raise Unresolved(str(error)) from error
    if not value or len(content) > MOST_BYTES:
        raise Unresolved(f"{path} is empty or longer than {MOST_BYTES // 1024} KiB")
    return value


# --- envelopes ------------------------------------------------------------------------------------
def seal(secret: str, *, place: str) -> bytes:
    """Return the envelope of `secret` for the row at `place`, under the newest key."""
    ring = _ring()
    key_id = next(iter(ring))
    nonce = os.urandom(NONCE_BYTES)
    head = bytes([VERSION]) + bytes.fromhex(key_id)
    return head + nonce + AESGCM(ring[key_id]).encrypt(nonce, secret.encode(), _data(head, place))


def unseal(envelope: bytes, *, place: str) -> str:
    """Return the secret in the envelope of the row at `place`.

    Raises:
        Unreadable: it does not open.
    """
    if len(envelope) < HEAD_BYTES or envelope[0] != VERSION:
        raise Unreadable("the stored value is no envelope of ours")
    key_id = key_of(envelope)
    key = _ring().get(key_id)
    if key is None:
        raise Unreadable(f"its key {key_id} is not in ROUTER_KEYS")
    head, nonce = envelope[: 1 + ID_BYTES], envelope[1 + ID_BYTES : HEAD_BYTES]
    try:
        plain = AESGCM(key).decrypt(nonce, envelope[HEAD_BYTES:], _data(head, place))
    except InvalidTag as error:
        raise Unreadable("the stored value was changed, or belongs to another row") from error
    return plain.decode()


def key_of(envelope: bytes) -> str:
    """Return the id of the key that an envelope is under, in hexadecimal."""
    return envelope[1 : 1 + ID_BYTES].hex()


def newest_key() -> str:
    """Return the id of the key that new envelopes are under."""
    return next(iter(_ring()))


def key_ids() -> list[str]:
    """Return the ids of all keys in the ring, newest first."""
    return list(_ring())


def add_key() -> str:
    """Put a new key at the head of the ring's file, durably; return its id.

    Raises:
        KeyRingError: the ring does not lie in a file that we can write.
    """
    path = _ring_file()
    if path is None:
        raise KeyRingError(
            "ROUTER_KEYS is given as a value: put a new key before the others there, restart every "
            "process, and run this again without --new-key"
        )
    key = base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode("ascii")
    try:
        with _locked(path.parent):
            durable.write(path, f"{key}\n{path.read_text(encoding='ascii').strip()}\n")
    except OSError as error:
        raise KeyRingError(f"{path} cannot be written: {error.strerror}") from error
    return newest_key()


def parse_ring(text: str) -> dict[str, bytes]:
    """Return the keys of a ring by their id, newest first.

    Raises:
        KeyRingError: there is none, or one is no key.
    """
    keys = [_key(word) for word in re.split(r"[\s,]+", text.strip()) if word]
    if not keys:
        raise KeyRingError("ROUTER_KEYS holds no key; keys of 32 bytes in base64 are expected")
    return {_id(key): key for key in keys}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on `folder`: of two who add a key at once, none is lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _data(head: bytes, place: str) -> bytes:
    return head + b"\0" + place.encode()


def _ring() -> dict[str, bytes]:
    path = _ring_file()
    try:
        text = path.read_text(encoding="ascii") if path else django_settings.KEYS
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"the keys in {path} cannot be read") from error
    return _parsed(text)


_parsed = lru_cache(maxsize=4)(parse_ring)


def _ring_file() -> Path | None:
    path: Path | None = django_settings.KEYS_FILE
    return path


def _key(word: str) -> bytes:
    plain = word.replace("+", "-").replace("/", "_").rstrip("=")
    try:
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyRingError("a key in ROUTER_KEYS is no base64") from error
    if len(key) != KEY_BYTES:
        raise KeyRingError(f"a key in ROUTER_KEYS has {len(key)} bytes; {KEY_BYTES} are expected")
    return key


def _id(key: bytes) -> str:
    return hashlib.sha256(b"dicom-router key id\0" + key).hexdigest()[: 2 * ID_BYTES]
