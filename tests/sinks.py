"""A storage SCP that records what it got and misbehaves on demand; for every test that sends.

`Sink` is pynetdicom's server with a script. `RawSink` speaks no DICOM of its own: a test gives it
the bytes to answer with. Both listen on a free port of the loopback and are used in a `with`.
"""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from socketserver import BaseServer
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, _config, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid

ALL_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93)),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (100, 102, 103, 201, 202, 203)),
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.8.1",
)
RETIRED = ("1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3")
"""Ultrasound storage classes that old files still have."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as it arrived; `sha256` is of the data set bytes alone."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    sha256: str
    size: int
    association: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Script:
    """How a sink behaves. Numbers count objects from 1 over the life of the sink.

    `statuses` gives an answer other than 0000 by object; `reject` is result, source and reason for
    every association; `abort_at` and `close_at` end the association, the latter without a word,
    when that object has arrived whole and before the answer; `delay` is waited before each
    answer.
    """

    ae_title: str = "SINK"
    transfer_syntaxes: Sequence[str] = ALL_TRANSFER_SYNTAXES
    sop_classes: Sequence[str] = ()
    statuses: Mapping[int, int] = field(default_factory=dict)
    reject: tuple[int, int, int] | None = None
    abort_at: int | None = None
    close_at: int | None = None
    delay: float = 0.0
    most_pdu: int = 16382
    keep_data: bool = True
    echo: bool = True
    tls: ssl.SSLContext | None = None


class Sink:
    """A storage SCP on a free port: `with Sink(Script(...)) as sink: ... sink.objects`."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.objects: list[Stored] = []
        self.associations = 0
        self.echoes = 0
        self._lock = threading.Lock()
        self._server: Any = None  # pynetdicom is untyped
        self.host, self.port = "127.0.0.1", 0

    def __enter__(self) -> Self:
        _config.LOG_HANDLER_LEVEL = "none"
        ae = AE(ae_title=self.script.ae_title)
        ae.maximum_pdu_size = self.script.most_pdu
        ae.maximum_associations = 100
        ae.supported_contexts = self._contexts()
        self._server = ae.make_server(
            (self.host, self.port), evt_handlers=self._handlers(), ssl_context=self.script.tls
        )
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            # pynetdicom's own shutdown wants a server that it started itself, and polls slower.
            BaseServer.shutdown(self._server)
            self._server.server_close()

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of a `dicom` destination that leads here."""
        return {"host": self.host, "port": self.port, "ae_title": self.script.ae_title}

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the data set by SOP Instance UID; of several, the last."""
        return {stored.sop_instance_uid: stored.sha256 for stored in self.objects}

    def wait_for(self, count: int, seconds: float = 10.0) -> bool:
        """Wait until `count` objects have arrived; return whether they did."""
        end = time.monotonic() + seconds
        while len(self.objects) < count and time.monotonic() < end:
            time.sleep(0.01)
        return len(self.objects) >= count

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, self._on_echo),
        ]

    def _contexts(self) -> list[Any]:
        syntaxes = list(self.script.transfer_syntaxes)
        standard = [str(cx.abstract_syntax) for cx in AllStoragePresentationContexts]
        classes = [*(self.script.sop_classes or (*standard, *RETIRED))]
        for uid in classes:
            if uid not in standard:  # private or retired: pynetdicom knows it only when told
                register_uid(uid, f"Private{uid.replace('.', '_')}", StorageServiceClass)
        contexts = [build_context(uid, syntaxes) for uid in classes]
        if self.script.echo:
            contexts.append(build_context("1.2.840.10008.1.1"))
        return contexts

    def _on_requested(self, event: evt.Event) -> None:
        if self.script.reject is not None:
            result, source, reason = self.script.reject
            event.assoc.acse.send_reject(result, source, reason)
            time.sleep(0.05)  # pynetdicom kills the connection at once otherwise
            event.assoc.kill()

    def _on_established(self, _event: evt.Event) -> None:
        with self._lock:
            self.associations += 1

    def _on_echo(self, _event: evt.Event) -> int:
        self.echoes += 1
        return 0x0000

    def _on_store(self, event: evt.Event) -> int:
        data = event.request.DataSet.getvalue()
        with self._lock:
            self.objects.append(self._stored(event, data))
            number = len(self.objects)
        time.sleep(self.script.delay)
        if number == self.script.close_at:
            with suppress(OSError):
                event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        if number == self.script.abort_at:
            event.assoc.abort()
        return self.script.statuses.get(number, 0x0000)

    def _stored(self, event: evt.Event, data: bytes) -> Stored:
        request = event.request
        return Stored(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax=str(event.context.transfer_syntax),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            association=self.associations,
            data=data if self.script.keep_data else b"",
        )


class RawSink:
    """A listener whose connections are given to `answer`, each in a thread, and closed after it."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self.connections = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of a `dicom` destination that leads here."""
        return {"host": self.host, "port": self.port, "ae_title": "RAW"}

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._answer(connection)
            connection.shutdown(socket.SHUT_RDWR)


def receive_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Read one PDU; return its type and body, type 0 when the connection has ended."""
    head = _exactly(connection, 6)
    if len(head) < 6:
        return 0, b""
    return head[0], _exactly(connection, int.from_bytes(head[2:], "big"))


def accept_association(
    connection: socket.socket,
    *,
    transfer_syntax: str = "1.2.840.10008.1.2.1",
    most_pdu: int = 16384,
) -> None:
    """Read an A-ASSOCIATE-RQ and accept every context in `transfer_syntax`."""
    _, body = receive_pdu(connection)
    at, items = 68, [_item(0x10, b"1.2.840.10008.3.1.1.1")]
    while at < len(body):
        kind, length = body[at], int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == 0x20:
            answer = bytes([body[at + 4], 0, 0, 0]) + _item(0x40, transfer_syntax.encode())
            items.append(_item(0x21, answer))
        at += 4 + length
    user = _item(0x51, most_pdu.to_bytes(4, "big")) + _item(0x52, b"1.2.3.4")
    items.append(_item(0x50, user))
    accepted = body[:68] + b"".join(items)
    connection.sendall(b"\x02\x00" + len(accepted).to_bytes(4, "big") + accepted)


def receive_message(connection: socket.socket) -> tuple[int, bytes, int]:
    """Read PDUs until a data set is whole; return context id, its bytes and the PDUs it took."""
    data, pdus = b"", 0
    while True:
        kind, body = receive_pdu(connection)
        if kind != 4:
            return 0, data, pdus
        at = 0
        while at < len(body):
            length = int.from_bytes(body[at : at + 4], "big")
            context_id, control = body[at + 4], body[at + 5]
            if not control & 1:
                data, pdus = data + body[at + 6 : at + 4 + length], pdus + 1
                if control & 2:
                    return context_id, data, pdus
            at += 4 + length


def store_response(context_id: int, status: int, *, message_id: int = 1) -> bytes:
    """Return the P-DATA PDU of a C-STORE-RSP."""
    elements = ((0x0100, 0x8001), (0x0120, message_id), (0x0800, 0x0101), (0x0900, status))
    body = b"".join(_short(element, value) for element, value in elements)
    command = b"\0\0\0\0\x04\0\0\0" + len(body).to_bytes(4, "little") + body
    pdv = (len(command) + 2).to_bytes(4, "big") + bytes([context_id, 3]) + command
    return b"\x04\x00" + len(pdv).to_bytes(4, "big") + pdv


def _short(element: int, value: int) -> bytes:
    head = b"\0\0" + element.to_bytes(2, "little") + b"\x02\0\0\0"
    return head + value.to_bytes(2, "little")


def _item(kind: int, value: bytes) -> bytes:
    return bytes([kind, 0]) + len(value).to_bytes(2, "big") + value


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            break
        got += more
    return got
