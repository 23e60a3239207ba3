"""Far ends for outbound HTTP: one that counts who reaches it, a web server, and a name server.

The name server speaks DNS over UDP and answers by a script, so that a name may lead elsewhere the
second time. Everything listens on loopback.
"""

import ipaddress
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.ports import free_port

SECONDS = 0.05


class Listener:
    """Takes connections on one port of several loopback addresses, and counts them."""

    def __init__(self, *hosts: str) -> None:
        self.count = 0
        self.port = free_port()
        self._sockets = [socket.create_server((h, self.port), family=_family(h)) for h in hosts]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select(self._sockets, [], [], SECONDS)
            for one in ready:
                self.count += 1
                one.accept()[0].close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@dataclass
class Answer:
    """What the web server says to every request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"well"


class WebServer:
    """An HTTP/1.1 server on 127.0.0.1 that gives `answer` and keeps what it was asked."""

    def __init__(self, answer: Answer | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "https" if tls else "http"
        self.answer = answer or Answer()
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()
        self.hold = threading.Event()
        self.hold.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = _silent  # type: ignore[method-assign,assignment]
        if tls:
            # The handshake is made by the thread that serves, so that a bad one holds up nobody.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(SECONDS,))

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _silent(_request: object, _peer: object) -> None:
    """What goes wrong on this side is seen on the other."""


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

        def _serve(self) -> None:
            server.connections.add(self.client_address)
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            server.requests.append((self.command, self.path, dict(self.headers), body))
            server.hold.wait(30)
            self.send_response(server.answer.status)
            for name, value in server.answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(server.answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(server.answer.body)

        do_GET = do_PUT = do_POST = do_HEAD = _serve

    return Handler


class NameServer:
    """A name server on 127.0.0.1: each query for a name takes the next of its answers, the last
    one for ever."""

    def __init__(self, script: dict[str, list[list[str]]]) -> None:
        self._script = script
        self.queries: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if select.select([self._socket], [], [], SECONDS)[0]:
                query, peer = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        name = _name(query)
        self.queries.append(name)
        script = self._script[name]
        answers = script.pop(0) if len(script) > 1 else script[0]
        head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0)
        return head + query[12:] + b"".join(_record(text) for text in answers)

    def resolver(self) -> Callable[..., list[Any]]:
        """Return a `getaddrinfo` that asks this server about names."""
        genuine, address = socket.getaddrinfo, self._socket.getsockname()

        def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
            if host not in self._script:
                return genuine(host, port, *args, **kwargs)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(10)
                asking.sendto(_query(host), address)
                reply = asking.recv(4096)
            return [
                found
                for text in _addresses(reply)
                for found in genuine(text, port, *args, **kwargs)
            ]

        return getaddrinfo


def _query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def _name(query: bytes) -> str:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels)


def _record(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    kind = 1 if address.version == 4 else 28
    packed = address.packed
    return struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed


def _addresses(reply: bytes) -> list[str]:
    count = struct.unpack(">H", reply[6:8])[0]
    at = 12 + len(_name(reply)) + 2 + 4
    found = []
    for _ in range(count):
        length = struct.unpack(">H", reply[at + 10 : at + 12])[0]
        found.append(str(ipaddress.ip_address(reply[at + 12 : at + 12 + length])))
        at += 12 + length
    return found


@dataclass(frozen=True)
class Files:
    """An authority, and a pair signed by it that serves both ends."""

    ca: Path
    pair: tuple[Path, Path]


@contextmanager
def tls_server(files: Files, *, asks: bool = False) -> Iterator[WebServer]:
    """Serve over TLS; with `asks` only those who show a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files.pair)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    with WebServer(tls=context) as server:
        yield server
