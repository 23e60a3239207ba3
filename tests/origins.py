"""HTTP servers at the far end: one that takes objects by STOW-RS, one that takes anything.

Both misbehave on demand and listen on a free port of the loopback: `with Origin(Script(...)) as
origin: ... origin.objects`. They share no code with the product.
"""

import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

HOST = "127.0.0.1"
GROUP_LENGTH_END = 144


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def form(self) -> dict[str, str]:
        """The fields of a body that a form made."""
        return {key: values[0] for key, values in parse_qs(self.body.decode()).items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `cut` ends the connection without one."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


class Server:
    """A server that asks `answer` for every request and keeps them all."""

    def __init__(
        self, answer: Callable[[Request], Reply], *, context: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._server = _Listener((HOST, 0), _Handler)
        self._server.owner = self
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "http" if context is None else "https"
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._server.count

    def reply(self, request: Request) -> Reply:
        """Keep a request and answer it."""
        self.requests.append(request)
        return self._answer(request)

    def refuses(self, _handler: BaseHTTPRequestHandler) -> Reply | None:
        """Answer before the body is read, None to read it."""
        return None

    def cuts_after(self) -> int | None:
        """After how many bytes of the body the connection ends, None for never."""
        return None


class _Listener(ThreadingHTTPServer):
    owner: Server
    daemon_threads = True
    block_on_close = False
    count = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.count += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: _Listener

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Write nothing."""

    def _handle(self) -> None:
        owner = self.server.owner
        early = owner.refuses(self)
        if early is not None:
            self._send(early)
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        cut = owner.cuts_after()
        if cut is not None and cut < length:
            self.rfile.read(cut)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if len(body) == length:
            self._send(owner.reply(Request(self.command, self.path, dict(self.headers), body)))

    do_GET = do_POST = do_OPTIONS = do_PUT = _handle

    def _send(self, reply: Reply) -> None:
        if reply.cut:
            self._hang_up()
            return
        with suppress(OSError):
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Script:
    """How an origin server behaves. Objects and requests count from 1 over its life.

    `reasons` fails an object by its number with that Failure Reason; `warnings` stores it with that
    Warning Reason; `unnamed` stores it and says nothing of it; `others` does not, and speaks of it
    in Other Failures only; `dropped` does not, and says nothing but a 400. `statuses` answers the
    request of that number without looking at it; `cut_request` reads that one and hangs up;
    `cut_after` does so after so many bytes of a body.
    """

    reasons: Mapping[int, int] = field(default_factory=dict)
    warnings: Mapping[int, int] = field(default_factory=dict)
    unnamed: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    statuses: Mapping[int, Reply] = field(default_factory=dict)
    refuses_uid: frozenset[str] = frozenset()
    cut_request: int | None = None
    cut_after: int | None = None
    xml: bool = False
    authorization: str = ""
    delay: float = 0.0


class Origin(Server):
    """An origin server below `/dicom-web`; `objects` are Part 10 files by SOP Instance UID."""

    def __init__(self, script: Script | None = None, **options: Any) -> None:
        super().__init__(self._respond, **options)
        self.script = script or Script()
        self.objects: dict[str, bytes] = {}
        self.received: list[str] = []
        self.stores = 0

    @property
    def base(self) -> str:
        """The address that a destination is given."""
        return f"{self.url}/dicom-web"

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the data set by SOP Instance UID."""
        kept = list(self.objects.items())  # others come in meanwhile
        return {uid: data_set_hash(data) for uid, data in kept}

    def cuts_after(self) -> int | None:
        return self.script.cut_after

    def refuses(self, handler: BaseHTTPRequestHandler) -> Reply | None:
        wanted = self.script.authorization
        if wanted and handler.headers.get("Authorization") != wanted:
            return Reply(401)
        return None

    def _respond(self, request: Request) -> Reply:
        path = urlsplit(request.path).path
        if not path.startswith("/dicom-web/studies"):
            return Reply(404)
        if request.method == "POST":
            return self._store(request)
        return self._query(path, parse_qs(urlsplit(request.path).query))

    def _query(self, path: str, query: Mapping[str, list[str]]) -> Reply:
        uid = path.rpartition("/")[2]
        if path.endswith("/instances"):
            wanted = query.get("SOPInstanceUID", [""])[0]
            found = (
                [{"00080018": {"vr": "UI", "Value": [wanted]}}] if wanted in self.objects else []
            )
            return _json(200, found)
        if "/instances/" not in path:
            return _json(200, [])
        if uid not in self.objects:
            return Reply(404)
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + self.objects[uid] + b"\r\n--b--"
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        return Reply(200, body, {"Content-Type": kind})

    def _store(self, request: Request) -> Reply:
        self.stores += 1
        time.sleep(self.script.delay)
        parts = parts_of(request)
        uids = [sop_instance_uid(part) for part in parts]
        if self.stores == self.script.cut_request:
            return Reply(cut=True)
        if self.stores in self.script.statuses:
            return self.script.statuses[self.stores]
        if self.script.refuses_uid & set(uids):
            return Reply(400)
        said: dict[str, list[dict[str, int | str]]] = {
            "00081199": [],
            "00081198": [],
            "0008119A": [],
        }
        for uid, part in zip(uids, parts, strict=True):
            self._take(uid, part, said)
        if self._dropped(len(parts)):
            return _json(400, _data_set(said))
        failed = len(said["00081198"]) + len(said["0008119A"])
        status = 200 if not failed else 409 if failed == len(parts) else 202
        return _xml(status, said) if self.script.xml else _json(status, _data_set(said))

    def _dropped(self, count: int) -> bool:
        """Whether one of the last `count` objects was."""
        numbers = range(len(self.received) - count + 1, len(self.received) + 1)
        return not self.script.dropped.isdisjoint(numbers)

    def _take(self, uid: str, part: bytes, said: dict[str, list[dict[str, int | str]]]) -> None:
        self.received.append(uid)
        number = len(self.received)
        if number in self.script.dropped:
            return
        if number in self.script.others:
            said["0008119A"].append({"00081197": 0xC000})
            return
        if number in self.script.reasons:
            said["00081198"].append({"00081155": uid, "00081197": self.script.reasons[number]})
            return
        self.objects[uid] = part
        if number in self.script.unnamed:
            return
        item: dict[str, int | str] = {"00081155": uid}
        if number in self.script.warnings:
            item["00081196"] = self.script.warnings[number]
        said["00081199"].append(item)


def parts_of(request: Request) -> list[bytes]:
    """The parts of a multipart body (RFC 2046 5.1), without their heads."""
    boundary = request.headers["Content-Type"].rpartition("boundary=")[2].encode()
    pieces = request.body.split(b"--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    heads = [piece.partition(b"\r\n\r\n")[0] for piece in pieces[1:-1]]
    assert set(heads) <= {b"\r\nContent-Type: application/dicom"}
    return [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces[1:-1]]


def sop_instance_uid(part: bytes) -> str:
    """The Media Storage SOP Instance UID of a Part 10 file."""
    at = part.index(b"\x02\0\x03\0UI", 132)
    length = int.from_bytes(part[at + 6 : at + 8], "little")
    return part[at + 8 : at + 8 + length].rstrip(b"\0").decode()


def data_set_hash(part: bytes) -> str:
    """SHA-256 of what follows the file meta of a Part 10 file."""
    assert part[128:132] == b"DICM"
    meta = int.from_bytes(part[140:GROUP_LENGTH_END], "little")
    return hashlib.sha256(part[GROUP_LENGTH_END + meta :]).hexdigest()


def _data_set(said: Mapping[str, list[dict[str, int | str]]]) -> dict[str, Any]:
    def element(value: int | str) -> dict[str, Any]:
        return {"vr": "US" if isinstance(value, int) else "UI", "Value": [value]}

    return {
        tag: {"vr": "SQ", "Value": [{t: element(v) for t, v in one.items()} for one in items]}
        for tag, items in said.items()
        if items
    }


def _json(status: int, content: object) -> Reply:
    kind = {"Content-Type": "application/dicom+json"}
    return Reply(status, json.dumps(content).encode(), kind)


def _xml(status: int, said: Mapping[str, list[dict[str, int | str]]]) -> Reply:
    """The Native DICOM Model (PS3.19 A)."""

    def attribute(tag: str, vr: str, content: str) -> str:
        return f'<DicomAttribute tag="{tag}" vr="{vr}">{content}</DicomAttribute>'

    def item(number: int, values: Mapping[str, int | str]) -> str:
        inside = "".join(
            attribute(
                tag,
                "US" if isinstance(value, int) else "UI",
                f'<Value number="1">{value}</Value>',
            )
            for tag, value in values.items()
        )
        return f'<Item number="{number}">{inside}</Item>'

    sequences = "".join(
        attribute(tag, "SQ", "".join(item(at, one) for at, one in enumerate(items, 1)))
        for tag, items in said.items()
        if items
    )
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">{sequences}'
        "</NativeDicomModel>"
    )
    return Reply(status, body.encode(), {"Content-Type": "application/dicom+xml"})
