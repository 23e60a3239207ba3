"""HTTP for senders: an httpx client whose every connection is made by the guard.

No redirect is followed, no proxy and no netrc is read. Waiting is done in short turns, so that an
end that is wanted ends it; bytes that move are told. What was sent and answered is the caller's.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import certifi
import httpcore
import httpx

from router.webclient import guard
from router.webclient.guard import TICK

BLOCK = 256 * 1024

Verify = Path | Literal[True]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for a connection, TLS included; without a byte accepted; until an answer comes."""

    connect: float = 10.0
    write: float = 30.0
    read: float = 60.0


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of bytes that moved, and who is asked whether to go on."""

    abort: Callable[[], bool]
    progress: Callable[[int], None]


def never() -> bool:
    return False


def nothing(_moved: int) -> None:
    return None


def client(
    *,
    timeout: Timeouts,
    verify: Verify = True,
    certificate: tuple[Path, Path] | None = None,
    abort: Callable[[], bool] = never,
    progress: Callable[[int], None] = nothing,
) -> httpx.Client:
    """Return a client that connects only where the guard lets it.

    Args:
        timeout: how long is waited.
        verify: a file of certificate authorities, the only ones trusted; or True for those of the
            system and of the `certifi` package.
        certificate: files of our certificate and its key, for servers that ask for one.
        abort: asked every quarter of a second; when true what goes on ends with an error.
        progress: told of bytes that left or came; what it raises ends what goes on.

    Raises:
        OSError: a file is not there or holds no certificate or key (ssl.SSLError).

    Requests raise `Forbidden`, or what httpx raises.
    """
    return _Client(
        transport=_Transport(tls_context(verify, certificate), Watch(abort, progress)),
        timeout=httpx.Timeout(
            connect=timeout.connect, write=timeout.write, read=timeout.read, pool=timeout.connect
        ),
        follow_redirects=False,
        trust_env=False,
    )


def tls_context(verify: Verify, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    """Return the TLS side of a client: certificates and names are always checked.

    Raises:
        OSError: a file is not there or holds no certificate or key (ssl.SSLError).
    """
    if verify is True and certificate is None:
        return _usual_context()
    context = _trusting() if verify is True else ssl.create_default_context(cafile=verify)
    if certificate is not None:  # OpenSSL would ask the terminal for a passphrase
        context.load_cert_chain(*certificate, password=lambda: b"")
    return context


@lru_cache(maxsize=1)
def _usual_context() -> ssl.SSLContext:
    return _trusting()


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class _Client(httpx.Client):
    """httpx's own, which looks at an address before it is taken to pieces."""

    def build_request(
        self,
        method: str,
        url: httpx.URL | str,
        **given: Any,  # httpx's own arguments
    ) -> httpx.Request:
        """Return a request.

        Raises:
            Forbidden: its address is none, or refused at sight.
        """
        guard.check_url(str(url))
        try:
            return super().build_request(method, url, **given)
        except httpx.InvalidURL as error:
            raise guard.Forbidden("an address like https://host:443/path is expected") from error


class _Transport(httpx.HTTPTransport):
    """httpx's own, over a pool with our way of connecting."""

    def __init__(self, context: ssl.SSLContext, watch: Watch) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=_Backend(watch))


class _Backend(httpcore.NetworkBackend):
    """Makes connections through the guard."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect.

        Raises:
            Forbidden, httpcore.ConnectTimeout, httpcore.ConnectError.
        """
        try:
            connection = guard.connect(host, port, timeout=timeout, abort=self._watch.abort)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(_words(error)) from error
        return _Stream(connection, self._watch)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Refuse: nothing that we send to is a socket of this machine."""
        raise guard.Forbidden("a Unix socket is not connected to")

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection that is read and written in short turns."""

    def __init__(self, connection: socket.socket, watch: Watch) -> None:
        self._socket, self._watch = connection, watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes, b'' at the end."""
        try:
            block: bytes = self._turns(lambda: self._socket.recv(max_bytes), timeout)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("no answer came in time") from error
        except OSError as error:
            raise httpcore.ReadError(_words(error)) from error
        self._watch.progress(len(block))
        return block

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of `buffer`; the time counts anew whenever bytes were accepted."""
        rest = memoryview(buffer)
        while rest:
            rest = rest[self._write_some(rest[:BLOCK], timeout) :]

    def _write_some(self, block: memoryview, timeout: float | None) -> int:
        try:
            moved: int = self._turns(lambda: self._socket.send(block), timeout)
        except TimeoutError as error:
            raise httpcore.WriteTimeout("no byte was accepted for too long") from error
        except OSError as error:
            raise httpcore.WriteError(_words(error)) from error
        self._watch.progress(moved)
        return moved

    def _turns(self, move: Callable[[], Any], timeout: float | None) -> Any:  # what `move` returns
        """Try to move bytes until some do.

        Raises:
            TimeoutError: none did in time. OSError: the connection broke, or we are to stop.
        """
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            if self._watch.abort():
                raise guard.Stopped("we were told to stop")
            self._socket.settimeout(max(0.001, min(TICK, end - time.monotonic())))
            try:
                return move()
            except TimeoutError:
                self._watch.progress(0)
                if time.monotonic() >= end:
                    raise

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Begin TLS; the name that the certificate must hold is that of the address."""
        try:
            self._socket.settimeout(timeout)
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout("no TLS connection came about in time") from error
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(_words(error)) from error
        return _Stream(wrapped, self._watch)

    def get_extra_info(self, info: str) -> Any:  # Any: httpcore's signature
        """Tell the pool whether an idle connection was closed by the far end."""
        if info == "is_readable":
            return _is_readable(self._socket)
        return self._socket if info == "socket" else None


def _is_readable(connection: socket.socket) -> bool:
    """Whether an idle connection has something to read: then it has ended, or is out of step."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'it was closed'})"
    return error.strerror or str(error) or "it was closed"
