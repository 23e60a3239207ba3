"""Clients of AWS services, as boto3's are, whose every connection is made by the guard.

They use the keys they are given and no others: no profile, no environment, no metadata service. No
proxy is used, no redirect followed, no other region tried, and nothing is tried twice: what an
answer means is the caller's business. botocore and urllib3 themselves are not changed.
"""

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from router.webclient import guard
from router.webclient.guard import Forbidden
from router.webclient.http import Timeouts, Verify, never

# Any in this module: botocore makes its clients when the program runs and has no types.

ISOLATED = {
    "profile": (None, None, None, None),
    "config_file": (None, None, None, None),
    "credentials_file": (None, None, None, None),
}
"""Where botocore looks for settings of the machine: nowhere."""
_LOADER = botocore.loaders.create_loader()
"""Keeps the descriptions of services, which take longer to read than a client takes to be made."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The credentials of a request, none of which is ever shown."""

    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


class BotoForbidden(Forbidden, BotoCoreError):  # type: ignore[misc]  # botocore has no types
    """`Forbidden`, raised by a client of botocore."""

    fmt = "{sentence}"

    def __init__(self, sentence: str) -> None:
        BotoCoreError.__init__(self, sentence=sentence)


def boto_client(
    service: str,
    *,
    keys: Keys,
    region: str,
    endpoint: str = "",
    timeout: Timeouts,
    verify: Verify = True,
    certificate: tuple[Path, Path] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a client (botocore's, without boto3's transfers) that connects only where the guard
    lets it.

    Args:
        service: such as `s3`.
        keys: access key and secret; both are needed.
        region: its name, in the signature and, without an endpoint, in the address.
        endpoint: the address of a compatible service; without one it is that of AWS.
        timeout: how long is waited; an answer is awaited for `read`, bytes are for `write`.
        verify: a file of certificate authorities, the only ones trusted; or True.
        certificate: files of our certificate and its key.
        options: further arguments of `botocore.config.Config`, such as `s3`.

    Raises:
        Forbidden: the endpoint is refused at sight. ValueError: a key is missing, or the region or
            endpoint has no valid form. OSError: a file is not there or holds no certificate.

    Calls raise `Forbidden` (as `BotoForbidden`, a `BotoCoreError` too), or what botocore raises.
    """
    if not keys.access or not keys.secret:
        raise ValueError("an access key and its secret are expected")
    if endpoint:
        guard.check_url(endpoint)
    session = botocore.session.Session(session_vars=ISOLATED)
    session.register_component("data_loader", _LOADER)
    client = session.create_client(
        service,
        region_name=region,
        endpoint_url=endpoint or None,
        aws_access_key_id=keys.access,
        aws_secret_access_key=keys.secret,
        aws_session_token=keys.token or None,
        config=Config(
            proxies={},
            ignore_configured_endpoint_urls=True,
            retries={"mode": "standard", "total_max_attempts": 1},
            **(options or {}),
        ),
    )
    _install(client, _Session(timeout=timeout, verify=verify, certificate=certificate))
    return client


def _install(client: Any, session: "_Session") -> None:
    client._endpoint.http_session.close()
    client._endpoint.http_session = session
    events = client.meta.events
    events.register_last("before-parameter-build.s3", _stay_in_region)


def _stay_in_region(context: dict[str, Any], **_others: Any) -> None:
    """Have botocore think that the request was redirected once, so that it is not again."""
    context.setdefault("s3_redirect", {})["redirected"] = True


class _Session(URLLib3Session):  # type: ignore[misc]  # botocore has no types
    """botocore's own HTTP session, over connections of ours."""

    def __init__(
        self, *, timeout: Timeouts, verify: Verify, certificate: tuple[Path, Path] | None
    ) -> None:
        super().__init__(
            verify=True if verify is True else str(verify),
            proxies={},
            timeout=(timeout.connect, timeout.read),
            client_cert=tuple(map(str, certificate)) if certificate else None,
        )
        self._manager.pool_classes_by_scheme = {
            "http": _guarded(AWSHTTPConnectionPool, AWSHTTPConnection, timeout.write),
            "https": _guarded(AWSHTTPSConnectionPool, AWSHTTPSConnection, timeout.write),
        }

    def _get_ssl_context(self) -> ssl.SSLContext:
        """Trust the authorities of the system too where no file is given, as over httpx."""
        context: ssl.SSLContext = super()._get_ssl_context()
        if self._verify is True:
            context.load_default_certs()
        return context

    def send(self, request: Any) -> Any:
        """Send; what the guard refuses keeps its name."""
        try:
            guard.check_url(request.url.partition("?")[0])
            return super().send(request)
        except HTTPClientError as error:
            cause = error.kwargs.get("error")
            if isinstance(cause, Forbidden):
                raise BotoForbidden(str(cause)) from cause
            raise
        except Forbidden as error:
            raise BotoForbidden(str(error)) from error


def _guarded(pool: Any, connection: Any, write: float) -> Any:
    """Return botocore's `pool` of its `connection`s, which are made by the guard."""

    class Connection(connection):  # type: ignore[misc]
        """urllib3 would send under the time-out for connecting."""

        def _new_conn(self) -> socket.socket:
            return _connect(self)

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(write)

        def request(self, *args: Any, **kwargs: Any) -> None:
            if self.sock is not None:  # used again: it still has the time-out for reading
                self.sock.settimeout(write)
            super().request(*args, **kwargs)

    return type("Pool", (pool,), {"ConnectionCls": Connection})


def _connect(connection: Any) -> socket.socket:
    """Connect as urllib3 would, by way of the guard, with the errors that botocore knows."""
    host, timeout = connection._dns_host, connection.timeout
    try:
        made = guard.connect(host, connection.port, timeout=timeout, abort=never)
        made.settimeout(timeout)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, str(error)) from error
    except OSError as error:
        raise NewConnectionError(connection, error.strerror or str(error)) from error
    return made
