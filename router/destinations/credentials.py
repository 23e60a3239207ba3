"""Who we are to a server over HTTP: an Authorization header, and the tokens of OAuth 2.

Basic (RFC 7617), a bearer token (RFC 6750), or one that a token service gives for client
credentials (RFC 6749 4.4) or for the assertion of a service account (RFC 7523), kept until shortly
before it expires. Secrets are resolved when a request needs them and stand in no message.
"""

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from router import secrets
from router.destinations.assertions import GRANT_TYPE, read_key
from router.destinations.base import Settings
from router.destinations.references import keys_of

EARLY_SECONDS = 60.0
USUAL_SECONDS = 300.0
"""How long a token counts as good when the service does not say so."""
OAUTH_ERRORS = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)
"""RFC 6749 5.2: the words of a token service that are repeated; its sentences are not."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A form sent to a token service, and what the token goes by here."""

    url: str
    fields: dict[str, str]
    authorization: str
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; `until` is monotonic."""

    text: str
    until: float


class Fetch(Protocol):
    """Asks a token service; raises what the caller of `Credentials.header` knows."""

    def __call__(self, grant: Grant) -> Token: ...


class Tokens:
    """The tokens of this process, each asked for by one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Token] = {}
        self._locks: dict[tuple[str, ...], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, grant: Grant, fetch: Fetch) -> str:
        """Return a token that is good for a while yet."""
        with self._lock:
            lock = self._locks.setdefault(grant.key, threading.Lock())
        with lock:
            known = self._known.get(grant.key)
            if known is None or known.until <= time.monotonic():
                known = self._known[grant.key] = fetch(grant)
            return known.text

    def forget(self, grant: Grant, text: str) -> None:
        """Have no one use the token `text` again: the server did not take it."""
        known = self._known.get(grant.key)
        if known is not None and known.text == text:
            del self._known[grant.key]


TOKENS = Tokens()


class Credentials:
    """The credentials in the settings of one destination."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._tokens = settings, TOKENS

    def header(self, fetch: Fetch) -> str:
        """Return the value of the Authorization header, '' where there is none.

        Raises:
            secrets.Unresolved: a secret cannot be had. NoKey: it is no service account's; and what
                `fetch` raises.
        """
        if self._asks_for_tokens():
            return f"Bearer {self._tokens.get(self._grant(), fetch)}"
        if self._settings.get("username"):
            return _basic(str(self._settings["username"]), self._secret("password"))
        token = self._secret("token")
        return f"Bearer {token}" if token else ""

    def renew(self, header: str) -> bool:
        """Tell whether another try may go better than that with `header`, which got a 401."""
        if not self._asks_for_tokens():
            return False
        self._tokens.forget(self._grant(), header.removeprefix("Bearer "))
        return True

    def _asks_for_tokens(self) -> bool:
        names = ("oauth_url", *keys_of("service_key"))
        return any(self._settings.get(name) for name in names)

    def _grant(self) -> Grant:
        """Return the request for a token; of the secret its key holds a hash only."""
        if not self._settings.get("oauth_url"):
            return self._asserted()
        client, scope = str(self._settings["oauth_client"]), self._settings.get("oauth_scope")
        secret = self._secret("oauth_secret")
        url = str(self._settings["oauth_url"])
        fields = {"grant_type": "client_credentials"}
        if scope:
            fields["scope"] = str(scope)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        pair = _basic(quote(client, safe=""), quote(secret, safe=""))
        return Grant(url, fields, pair, (url, client, str(scope or ""), digest))

    def _asserted(self) -> Grant:
        text, scope = self._secret("service_key"), str(self._settings.get("oauth_scope") or "")
        key = read_key(text)
        fields = {"grant_type": GRANT_TYPE, "assertion": key.assertion(scope, now=time.time())}
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Grant(key.url, fields, "", (key.url, key.account, scope, digest))

    def _secret(self, key: str) -> str:
        return secrets.resolve(self._settings, key)


def token_of(answer: Any, *, now: Callable[[], float] = time.monotonic) -> Token | None:
    """Return the token in the decoded JSON answer of a token service, None where there is none."""
    if not isinstance(answer, dict):
        return None
    text, seconds = answer.get("access_token"), answer.get("expires_in", USUAL_SECONDS)
    if not isinstance(text, str) or not text.isprintable() or not text.strip():
        return None
    try:
        lasts = max(0.0, float(seconds))
    except (TypeError, ValueError):
        lasts = USUAL_SECONDS
    return Token(text, now() + lasts - min(EARLY_SECONDS, lasts / 10))


def _basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode("ascii")
