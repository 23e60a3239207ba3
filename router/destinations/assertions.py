"""The signed assertion with which a service account asks for a token (RFC 7523, RFC 7515 RS256).

Made from the key file that Google gives out for one. It asks nobody.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LASTS_SECONDS = 3600


class NoKey(ValueError):
    """The text is no key of a service account; the sentence repeats nothing of it."""


@dataclass(frozen=True)
class ServiceKey:
    """The key of a service account: who it is, where tokens are given, and what it signs with."""

    account: str
    url: str
    private: rsa.RSAPrivateKey
    identifier: str

    def assertion(self, scope: str, *, now: float) -> str:
        """Return a JSON Web Token that asks for `scope`; `now` is in seconds since 1970."""
        header = {"alg": "RS256", "typ": "JWT", "kid": self.identifier}
        claims = {
            "iss": self.account,
            "scope": scope,
            "aud": self.url,
            "iat": int(now),
            "exp": int(now) + LASTS_SECONDS,
        }
        content = f"{_part(header)}.{_part(claims)}"
        signature = self.private.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{content}.{_coded(signature)}"


def read_key(text: str) -> ServiceKey:
    """Read the JSON of a key file.

    Raises:
        NoKey: it is none.
    """
    try:
        given: Any = json.loads(text)  # Any: whatever the file holds
        names = ("client_email", "token_uri", "private_key", "private_key_id")
        account, url, pem, identifier = (str(given[name]) for name in names)
        private = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NoKey("it is no key file of a service account") from error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise NoKey("the key of a service account is an RSA key")
    return ServiceKey(account, url, private, identifier)


def _part(content: object) -> str:
    return _coded(json.dumps(content, separators=(",", ":")).encode())


def _coded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
