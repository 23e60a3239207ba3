"""Bytes of the network: PDUs read within limits, command sets decoded and encoded.

PS3.8 9.3 (PDUs), PS3.8 Annex E (fragments), PS3.7 6.3 and Annex E (command sets). Every length a
peer claims is checked before anything is allocated for it, and every PDU has a deadline. It
refuses to know services and files.
"""

import mmap
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ingest.status import Status

ASSOCIATE_RQ, P_DATA, RELEASE_RQ, ABORT = 0x01, 0x04, 0x05, 0x07
MAXIMUM_PDU = 131072
# Some senders do not count the headers of a PDU's items against the negotiated maximum.
PDU_SLACK = 64
MOST_ASSOCIATE = 64 << 10
MOST_CONTROL = 64
MOST_COMMAND = 64 << 10
PDU_SECONDS = 30.0
ASSOCIATE_SECONDS = 10.0
TICK = 1.0
BUFFER = 1 << 20
MUCH_HELD = 128 << 10
# While a message is arriving, this much of it has to come in each window.
WINDOW_SECONDS = 30.0
WINDOW_BYTES = 1024

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ = 0x0100
RESPONSE = 0x8000
REQUESTS = frozenset(
    {0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150}
)
NO_DATA_SET = 0x0101
MOST_COMMENT = 64
MOST_UID = 64

_PDU_HEADER = struct.Struct(">BxI")
_PDV_HEADER = struct.Struct(">IBB")
_ELEMENT = struct.Struct("<HHI")
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class ProtocolError(ValueError):
    """The peer broke PS3.8 or PS3.7 in a way that ends the association."""


class PeerGone(OSError):
    """The connection ended or failed."""


class DeadlinePassed(Exception):
    """The peer was silent, or a PDU took too long."""


class StopRequested(Exception):
    """We are to stop, and the time to finish is over."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """The header of one presentation data value (PS3.8 9.3.5.1, Annex E.2)."""

    length: int
    context_id: int
    is_command: bool
    is_last: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command set as far as any service needs it (PS3.7 6.3.1, E.1)."""

    field: int
    message_id: int
    has_data_set: bool
    elements: Mapping[int, bytes]

    @property
    def sop_class_uid(self) -> str:
        return self.uid(0x0002) or self.uid(0x0003)

    @property
    def sop_instance_uid(self) -> str:
        return self.uid(0x1000) or self.uid(0x1001)

    def number(self, element: int) -> int | None:
        """The US in (0000,`element`), None when it is not there as one."""
        value = self.elements.get(element, b"")
        return int.from_bytes(value, "little") if len(value) == 2 else None

    def uid(self, element: int) -> str:
        """The UID in (0000,`element`) without its padding; any bytes are possible."""
        return self.elements.get(element, b"").decode("latin-1").rstrip("\0 ")


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a peer may send: seconds for a PDU, bytes of a message in each window."""

    pdu_seconds: float = PDU_SECONDS
    window_seconds: float = WINDOW_SECONDS
    window_bytes: int = WINDOW_BYTES


class Progress:
    """Whether a message keeps the pace. A peer between messages may rest; one within may not."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._until = 0.0
        self._bytes = 0

    def begin(self) -> None:
        """A message, or the next part of it, begins."""
        self._until = time.monotonic() + self._pace.window_seconds
        self._bytes = 0

    def note(self, size: int) -> None:
        """`size` bytes of it came. Raises DeadlinePassed when the window saw too few."""
        self._bytes += size
        if self._bytes >= self._pace.window_bytes:
            self.begin()
        elif time.monotonic() > self._until:
            raise DeadlinePassed

    def left(self) -> float:
        """Seconds until the window is over."""
        return max(0.0, self._until - time.monotonic())

    def forgive(self, seconds: float) -> None:
        """Time that was ours and not the peer's."""
        self._until += seconds


def pdu_limit(kind: int) -> int:
    """How long the body of a PDU of this type may be."""
    if kind == P_DATA:
        return MAXIMUM_PDU + PDU_SLACK
    return MOST_ASSOCIATE if kind <= P_DATA else MOST_CONTROL


class Reader:
    """What a peer sends, through one buffer.

    `is_stopping` is asked at least once a tick. What `take`, `some` and `held` return is only good
    until the next call. Without `reads_ahead` nothing beyond what was asked for leaves the socket.

    Bytes that were `hold` lie in the buffer as one run, however many fragments they came in, so
    that they are hashed and written in few steps (TLS brings 16 KiB at a time). `before_reading`
    is called before a wait when that has become much, or its room is needed: it has to take it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        idle_seconds: float,
        is_stopping: Callable[[], bool] = lambda: False,
        pdu_seconds: float = PDU_SECONDS,
        buffer: int = BUFFER,
        reads_ahead: bool = True,
    ) -> None:
        self._socket = sock
        self._idle_seconds = idle_seconds
        self._is_stopping = is_stopping
        # Mapped, not allocated: it goes back to the system with its association.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._view = memoryview(mmap.mmap(-1, buffer, flags=flags))
        self._reads_ahead = reads_ahead
        self._start = 0
        self._end = 0
        self._held_start = 0
        self._held_end = 0
        self.before_reading: Callable[[], None] = lambda: None
        self._pdu_seconds = pdu_seconds
        self._deadline = 0.0

    def pdu_header(self, *, within: float | None = None) -> tuple[int, int]:
        """Wait for a PDU; its type and length, the latter within the type's limit.

        Raises DeadlinePassed when none begins in time (`within` seconds, or else while the
        association may be idle), PeerGone, ProtocolError, StopRequested.
        """
        if self._start == self._end:
            rest = self._idle_seconds if within is None else within
            self._deadline = time.monotonic() + rest
            self._fill(1)
        self._deadline = time.monotonic() + self._pdu_seconds
        kind, length = _PDU_HEADER.unpack(self.take(_PDU_HEADER.size))
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise ProtocolError(f"PDU type {kind:#04x}")
        if length > pdu_limit(kind):
            raise ProtocolError(f"PDU of type {kind} with {length} bytes")
        return kind, length

    def pdu_body(self, kind: int, length: int) -> bytes:
        """The whole PDU whose header was just read, header included."""
        return _PDU_HEADER.pack(kind, length) + bytes(self.take(length))

    def forgive(self, seconds: float) -> None:
        """Time within a PDU that was ours and not the peer's."""
        self._deadline += seconds

    def fragments(self, length: int) -> Iterator[Fragment]:
        """The headers of the fragments in a P-DATA PDU; each body is read before the next."""
        if not length:
            raise ProtocolError("P-DATA without an item")
        while length:
            if length < _PDV_HEADER.size:
                raise ProtocolError("P-DATA item cut short")
            size, context_id, control = _PDV_HEADER.unpack(self.take(_PDV_HEADER.size))
            length -= size + 4
            if size < 2 or length < 0:
                raise ProtocolError(f"P-DATA item of {size} bytes does not fit its PDU")
            yield Fragment(size - 2, context_id, bool(control & 1), bool(control & 2))

    def take(self, length: int) -> memoryview:
        """Exactly `length` bytes, which must fit the buffer."""
        if self._end - self._start < length:
            self._fill(length)
        self._start += length
        return self._view[self._start - length : self._start]

    def some(self, most: int) -> memoryview:
        """Between one and `most` bytes, as many as are there."""
        if self._start == self._end:
            self._fill(1)
        length = min(most, self._end - self._start)
        self._start += length
        return self._view[self._start - length : self._start]

    def hold(self, most: int) -> int:
        """Keep between one and `most` bytes, as many as are there, behind those kept before."""
        if self._start == self._end:
            self._fill(1)
        length = min(most, self._end - self._start)
        if self._held_start == self._held_end:
            self._held_start = self._held_end = self._start
        until = self._held_end + length
        if self._held_end != self._start:
            self._view[self._held_end : until] = self._view[self._start : self._start + length]
        self._held_end = until
        self._start += length
        return length

    def held(self) -> memoryview:
        """What was kept since the last call; it is forgotten with this one."""
        held = self._view[self._held_start : self._held_end]
        self._held_start = self._held_end = 0
        return held

    def _fill(self, need: int) -> None:
        have = self._end - self._start
        is_full = self._start + need > len(self._view) or (not have and self._is_nearly_full())
        if is_full or self._held_end - self._held_start >= MUCH_HELD:
            self.before_reading()
        if is_full or not (have or self._held_end):
            self._view[:have] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, have
        while self._end - self._start < need:
            most = len(self._view) if self._reads_ahead else self._start + need
            self._end += self._receive(most)

    def _is_nearly_full(self) -> bool:
        return len(self._view) - self._end < len(self._view) // 4

    def _receive(self, most: int) -> int:
        while True:
            if self._is_stopping():
                raise StopRequested
            if time.monotonic() > self._deadline:
                raise DeadlinePassed
            try:
                # Linux forgets TCP_QUICKACK after use. A peer that left Nagle on waits 40 ms
                # for our acknowledgement otherwise.
                if _QUICKACK is not None:
                    self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                count = self._socket.recv_into(self._view[self._end : most])
            except TimeoutError:
                continue
            except OSError as error:
                raise PeerGone(error.errno, error.strerror) from error
            if not count:
                raise PeerGone("the peer closed the connection")
            return count


def read_request(sock: socket.socket, *, deadline: float) -> bytes:
    """The first PDU of a connection whole, which must be an A-ASSOCIATE-RQ (PS3.8 9.3.2).

    Raises what a Reader raises; ProtocolError for any other PDU.
    """
    left = deadline - time.monotonic()
    sock.settimeout(TICK)
    size = _PDU_HEADER.size + MOST_ASSOCIATE
    reader = Reader(sock, idle_seconds=left, pdu_seconds=left, buffer=size, reads_ahead=False)
    kind, length = reader.pdu_header()
    if kind != ASSOCIATE_RQ:
        raise ProtocolError(f"PDU type {kind} before an association")
    return reader.pdu_body(kind, length)


def decode_command(data: bytes) -> Command:
    """A command set, Implicit VR Little Endian (PS3.7 6.3). Raises ProtocolError."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if len(data) - at < _ELEMENT.size:
            raise ProtocolError("command element cut short")
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group or length > len(data) - at:
            raise ProtocolError(f"command element ({group:04x},{element:04x}), {length} bytes")
        elements[element] = data[at : at + length]
        at += length
    field = _unsigned(elements, 0x0100)
    if field & RESPONSE or field == C_CANCEL_RQ:
        return Command(field, _unsigned(elements, 0x0120), has_data_set=False, elements=elements)
    has_data_set = _unsigned(elements, 0x0800) != NO_DATA_SET
    return Command(field, _unsigned(elements, 0x0110), has_data_set, elements)


def encode_response(
    command: Command,
    context_id: int,
    *,
    status: int,
    comment: str = "",
    type_id: int | None = None,
) -> bytes:
    """One P-DATA-TF PDU that answers `command` (PS3.7 9.3, 10.3, E.1).

    UIDs go back as they came when they are UID-sized, so that the peer knows its own request.
    `type_id` is the Event Type ID of the event that is answered.
    """
    body = b"".join(
        (
            _uid_element(0x0002, command.elements.get(0x0002) or command.elements.get(0x0003)),
            _number_element(0x0100, command.field | RESPONSE),
            _number_element(0x0120, command.message_id),
            _number_element(0x0800, NO_DATA_SET),
            _number_element(0x0900, status),
            _text_element(0x0902, comment),
            _uid_element(0x1000, command.elements.get(0x1000) or command.elements.get(0x1001)),
            b"" if type_id is None else _number_element(0x1002, type_id),
        )
    )
    message = _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body
    item = _PDV_HEADER.pack(len(message) + 2, context_id, 3) + message
    return _PDU_HEADER.pack(P_DATA, len(item)) + item


def unrecognized(command: Command, context_id: int) -> bytes:
    """The answer to a request whose operation we do not offer (PS3.7 C.5.22)."""
    return encode_response(command, context_id, status=Status.UNRECOGNIZED_OPERATION)


def _unsigned(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise ProtocolError(f"command element (0000,{element:04x}) is not one US")
    return int.from_bytes(value, "little")


def _number_element(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + value.to_bytes(2, "little")


def _uid_element(element: int, value: bytes | None) -> bytes:
    if not value or len(value) > MOST_UID:
        return b""
    padded = value + b"\0" * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(padded)) + padded


def _text_element(element: int, text: str) -> bytes:
    if not text:
        return b""
    value = text.encode("ascii", errors="replace")[:MOST_COMMENT]
    padded = value + b" " * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(padded)) + padded
