"""Connections before their association: no thread until a whole request lies there.

A connection waits in the accept loop until its A-ASSOCIATE-RQ (PS3.8 9.3.2) has arrived whole, or
on the TLS port its first handshake record (RFC 8446 5.1). Silent, dripping and chattering peers
cost a socket each and nothing else, and are sent away by one deadline. When too many wait the
oldest of them, or of those from one address, gives way to a newcomer.

What the bytes are is judged by the first of them; nothing is taken out of the socket before that.
It refuses to know associations and to parse the request.
"""

import select
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingest.wire import ABORT, ASSOCIATE_RQ, MOST_ASSOCIATE

SILENT = "no_association_request"
CUT = "ended_before_its_request"
EVICTED = "gave_way_to_others"
HTTP = "http_on_dicom_port"
TLS_ON_PLAIN = "tls_on_plain_port"
PLAIN_ON_TLS = "plain_dicom_on_tls_port"
NOT_A_REQUEST = "not_an_association_request"
NOT_DICOM = "not_dicom"
TOO_LONG = "association_request_too_long"

# A-ABORT of the service provider: unexpected PDU (PS3.8 9.3.8)
ABORT_UNEXPECTED = bytes.fromhex("0700 00000004 00 00 02 02")
LEAST_ASSOCIATE = 68
MOST_RECORD = 1 << 14
_HEADER = struct.Struct(">BxI")
_RECORD = struct.Struct(">BBBH")
_HANDSHAKE, _TLS_MAJOR = b"\x16", {b"", b"\x03"}
_METHODS = tuple(b"GET HEAD POST PUT DELETE OPTIONS CONNECT TRACE PATCH PRI".split())


class Unwelcome(Exception):
    """A peer that is to be sent away, with a reason for the log and perhaps a last word."""

    def __init__(self, reason: str, *, last_word: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.last_word = last_word


@dataclass(frozen=True, slots=True)
class Port:
    """A listening socket; with a context its peers speak TLS."""

    listener: socket.socket
    context: ssl.SSLContext | None = None

    def needs(self, head: bytes) -> int:
        """How many bytes make the request whole, by its first ones. Raises Unwelcome."""
        return _record(head) if self.context else _request(head)


@dataclass(eq=False, slots=True)
class Visitor:
    """A connection without an association yet; it has a slot when it is to get one."""

    socket: socket.socket
    host: str
    port: Port
    deadline: float
    remote_port: int = 0
    slot: int | None = None
    request: bytes = b""
    _needs: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_slot(self) -> int | None:
        """The slot, once: who gets it has to give it back."""
        with self._lock:
            slot, self.slot = self.slot, None
            return slot

    def is_complete(self) -> bool:
        """Look at what has arrived; takes the request out of the socket when it is whole.

        Raises Unwelcome for what is no request and for a peer that has gone.
        """
        head = self._peek(self._needs)
        if head is None:
            return False
        if not head:
            raise Unwelcome("")  # gone without a word, as monitors do
        needs = self.port.needs(head)
        if len(head) < needs:
            head = self._peek(needs) or b""
        if len(head) < needs:
            if _has_hung_up(self.socket):
                raise Unwelcome(CUT)
            self._wait_for(needs)
            return False
        self._wait_for(1)
        if self.port.context is None:
            self.request = self.socket.recv(needs)
        return True

    def _peek(self, size: int) -> bytes | None:
        try:
            return self.socket.recv(max(size, _HEADER.size), socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Unwelcome("") from error

    def _wait_for(self, size: int) -> None:
        """Be readable no sooner than `size` bytes are there (or the peer is gone)."""
        self._needs = size
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


class WaitingRoom:
    """Visitors and listeners under one selector. One thread uses it."""

    def __init__(self, ports: tuple[Port, ...], *, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._of_host: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._visitors: dict[Visitor, None] = {}  # in the order of their coming
        for port in ports:
            self._selector.register(port.listener, selectors.EVENT_READ, port)

    def __contains__(self, visitor: Visitor) -> bool:
        return visitor in self._visitors

    def everyone(self) -> list[Visitor]:
        return list(self._visitors)

    def enter(self, visitor: Visitor) -> None:
        self._selector.register(visitor.socket, selectors.EVENT_READ, visitor)
        self._visitors[visitor] = None
        self._of_host[visitor.host] += 1

    def leave(self, visitor: Visitor) -> None:
        self._selector.unregister(visitor.socket)
        del self._visitors[visitor]
        self._of_host[visitor.host] -= 1
        if not self._of_host[visitor.host]:
            del self._of_host[visitor.host]

    def wait(self, seconds: float) -> Iterator[Port | Visitor]:
        """The listeners with a newcomer and the visitors with news."""
        for key, _ in self._selector.select(seconds):
            yield key.data

    def late(self) -> list[Visitor]:
        """Those whose time is over."""
        now = time.monotonic()
        found = []
        for visitor in self._visitors:
            if visitor.deadline > now:
                break
            found.append(visitor)
        return found

    def too_many(self, host: str) -> list[Visitor]:
        """Who has to leave before one more from `host` may enter: at most one."""
        if self._of_host[host] >= self._most_per_address:
            return [next(visitor for visitor in self._visitors if visitor.host == host)]
        if len(self._visitors) >= self._most:
            return [next(iter(self._visitors))]
        return []

    def close(self) -> None:
        self._selector.close()


def _request(head: bytes) -> int:
    kind = head[0]
    if head[:1] == _HANDSHAKE and head[1:2] in _TLS_MAJOR:
        raise Unwelcome(TLS_ON_PLAIN)
    if not ASSOCIATE_RQ <= kind <= ABORT:
        raise Unwelcome(HTTP if _is_http(head) else NOT_DICOM)
    if kind != ASSOCIATE_RQ:
        raise Unwelcome(NOT_A_REQUEST, last_word=ABORT_UNEXPECTED)
    if len(head) < _HEADER.size:
        return _HEADER.size
    length: int = _HEADER.unpack_from(head)[1]
    if not LEAST_ASSOCIATE <= length <= MOST_ASSOCIATE:
        reason = TOO_LONG if length > MOST_ASSOCIATE else NOT_A_REQUEST
        raise Unwelcome(reason, last_word=ABORT_UNEXPECTED)
    return _HEADER.size + length


def _record(head: bytes) -> int:
    if head[0] == ASSOCIATE_RQ:
        raise Unwelcome(PLAIN_ON_TLS)
    if head[:1] != _HANDSHAKE or head[1:2] not in _TLS_MAJOR:
        raise Unwelcome(HTTP if _is_http(head) else NOT_DICOM)
    if len(head) < _RECORD.size:
        return _RECORD.size
    length: int = _RECORD.unpack_from(head)[3]
    if not 0 < length <= MOST_RECORD:
        raise Unwelcome(NOT_DICOM)
    return _RECORD.size + length


def _is_http(head: bytes) -> bool:
    word = head[:4].strip()
    return bool(word) and any(method.startswith(word) for method in _METHODS)


def _has_hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
