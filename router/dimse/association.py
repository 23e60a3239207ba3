"""One association that we requested: echo, store, release, abort (PS3.7 9.1.1 and 9.1.5).

The data set leaves as it is read, cut into the P-DATA PDUs that the peer takes, and is hashed on
the way; the last block is held back until the hash of the whole is known to be right. While an
answer is awaited the beginning of the next parcel is read and hashed. Decides nothing about
retries.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from router.dicom.errors import DicomError
from router.dimse import acse, commands
from router.dimse.commands import Response
from router.dimse.contexts import Proposal
from router.dimse.errors import Aborted, DimseError, Lost, Malformed, Rejected, Released
from router.dimse.pace import Pace
from router.dimse.wire import (
    ABORT,
    ABORT_PDU,
    HEADER,
    P_DATA,
    RELEASE_RP,
    RELEASE_RP_PDU,
    RELEASE_RQ,
    RELEASE_RQ_PDU,
    Buffer,
    Pdu,
    Wire,
)

BLOCK_BYTES = 1 << 20
LARGEST_PDU = 1 << 20
"""What we send to a peer that sets no limit."""
MOST_COMMAND_BYTES = 64 * 1024
PDV_HEADER_BYTES = 6
RELEASE_SECONDS = 2.0
COMMAND, LAST = 1, 2


class Readable(Protocol):
    """Anything that fills a buffer: a file, or bytes made on the way."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` as far as possible and return how many bytes that were; 0 at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Where and who the far end is and who we say we are; times in seconds, sizes in bytes.

    `most_pdu` is the longest P-DATA that we send or take, `implementation` our implementation class
    UID and version name.
    """

    host: str
    port: int
    ae_title: str
    calling_ae: str
    implementation: tuple[str, str]
    connect_timeout: float = 10.0
    response_timeout: float = 60.0
    most_pdu: int = 131072


class Damaged(Exception):
    """The parcel is not what it should be; nothing of it counts as sent."""


class Unreadable(Exception):
    """The parcel could not be read to its end, which is our storage's fault (`__cause__`)."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One data set to store. `intact` is asked with the SHA-256 of what leaves, before its last
    block leaves."""

    sop_class_uid: str
    sop_instance_uid: str
    context_id: int
    size: int
    stream: Readable
    intact: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a parcel: an answer, or why there is none.

    `begun` tells whether a byte may have left, `complete` whether the last one had. After a
    `failure` the association is over.
    """

    response: Response | None
    failure: DimseError | None
    begun: bool
    complete: bool
    bytes_sent: int
    egress_sha256: str | None


class _Reading:
    """A parcel as it is read: its blocks in order, each hashed before it is given out."""

    def __init__(self, parcel: Parcel, blocks: Iterator[tuple[memoryview, bool]]) -> None:
        self.parcel, self._blocks, self._digest = parcel, blocks, hashlib.sha256()
        self._ahead: list[tuple[memoryview, bool]] = []

    def begin(self) -> None:
        """Read the first block ahead of its turn."""
        self._ahead.append(self._next())

    def __iter__(self) -> Iterator[tuple[memoryview, bool]]:
        last = False
        while not last:
            block, last = self._ahead.pop() if self._ahead else self._next()
            yield block, last

    def _next(self) -> tuple[memoryview, bool]:
        block, last = next(self._blocks)
        self._digest.update(block)
        return block, last

    def sha256(self) -> str:
        """Return the hash of what was given out."""
        return self._digest.hexdigest()


class Association:
    """An association in data transfer (PS3.8 Sta6). Use it in a `with`: it is released at the end,
    aborted when an exception ends it."""

    def __init__(self, wire: Wire, peer: Peer, accepted: acse.Accepted, pace: Pace) -> None:
        self._wire, self._peer, self._pace = wire, peer, pace
        self.contexts: Mapping[int, str] = accepted.contexts
        self.most_pdu = min(accepted.most_pdu or LARGEST_PDU, peer.most_pdu)
        self.is_open = True
        self.answered = 0
        self._message_id = 0
        self._fragment = (self.most_pdu - PDV_HEADER_BYTES) & ~1
        block = max(1, BLOCK_BYTES // self._fragment) * self._fragment
        self._block, self._spare = bytearray(block), bytearray()
        self._begun: _Reading | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release() if error is None else self.abort()

    def echo(self, context_id: int) -> Response:
        """Send a C-ECHO and return the answer.

        Raises:
            DimseError: no answer, and why. The association is over.
        """
        message_id = self._next_message_id()
        command = commands.echo_request(message_id=message_id)
        try:
            self._wire.send([*self._fragments(memoryview(command), context_id, COMMAND | LAST)])
            return self._response(context_id, message_id, commands.C_ECHO_RSP)
        except DimseError as error:
            self._end(error)
            raise

    def begin(self, parcel: Parcel) -> None:
        """Read the beginning of `parcel`, which is stored next; for `meanwhile` of `store`.

        Raises:
            Damaged, Unreadable: nothing of it has left; the association is as it was.
        """
        reading = _Reading(parcel, self._blocks(parcel.stream))
        reading.begin()
        self._begun = reading

    def store(self, parcel: Parcel, *, meanwhile: Callable[[], None] | None = None) -> Sent:
        """Send a parcel and wait for the answer; `meanwhile` is called once all of it has left.

        Raises:
            Damaged, Unreadable: the association is aborted if a byte of the parcel had left.
        """
        message_id = self._next_message_id()
        self._wire.until = time.monotonic() + self._pace.deadline(parcel.size)
        reading, moved, begun, complete = self._reading(parcel), 0, False, False
        response: Response | None = None
        failure: DimseError | None = None
        head = self._command(parcel, message_id)
        try:
            for block, last in reading:
                if last and not parcel.intact(reading.sha256()):
                    raise Damaged("its bytes are not those that were received")
                tail = self._fragments(block, parcel.context_id, LAST if last else 0)
                self._wire.listen()
                begun = True
                self._wire.send([*head, *tail])
                head, moved, complete = [], moved + len(block), last
            self._spend(meanwhile)
            response = self._response(parcel.context_id, message_id, commands.C_STORE_RSP)
        except DimseError as error:
            failure = error
            self._end(error)
        except BaseException:
            if begun:
                self.abort()
            raise
        finally:
            self._wire.until = float("inf")
        self.answered += response is not None
        egress_sha256 = reading.sha256() if complete else None
        return Sent(response, failure, begun, complete, moved, egress_sha256)

    def _reading(self, parcel: Parcel) -> _Reading:
        begun, self._begun = self._begun, None
        if begun is not None and begun.parcel is parcel:
            return begun
        return _Reading(parcel, self._blocks(parcel.stream))

    def _spend(self, meanwhile: Callable[[], None] | None) -> None:
        """Call `meanwhile`; the time it takes is not the peer's."""
        if meanwhile is not None:
            started = time.monotonic()
            meanwhile()
            self._wire.until += time.monotonic() - started

    def release(self) -> None:
        """Release the association if it is still there (PS3.8 7.2); never raises."""
        if not self.is_open:
            return
        self._wire.pace = Pace()
        self._wire.say(RELEASE_RQ_PDU)
        with suppress(DimseError):
            end = time.monotonic() + RELEASE_SECONDS
            while self._read(end - time.monotonic()).kind not in (RELEASE_RP, ABORT):
                continue
        self._close()

    def abort(self) -> None:
        """Abort the association if it is still there (PS3.8 7.3); never raises."""
        if self.is_open:
            self._wire.say(ABORT_PDU)
            self._close()

    def _end(self, error: DimseError) -> None:
        """Leave the association as is due after `error`."""
        if isinstance(error, Released):
            self._wire.say(RELEASE_RP_PDU)
            self._close()
        elif isinstance(error, Aborted | Lost):
            self._close()
        else:
            self.abort()

    def _close(self) -> None:
        self.is_open = False
        self._wire.close()

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _command(self, parcel: Parcel, message_id: int) -> list[Buffer]:
        command = commands.store_request(
            parcel.sop_class_uid, parcel.sop_instance_uid, message_id=message_id
        )
        return [*self._fragments(memoryview(command), parcel.context_id, COMMAND | LAST)]

    def _blocks(self, stream: Readable) -> Iterator[tuple[memoryview, bool]]:
        """Yield the data set in blocks and whether each is the last; a block is good until the
        next but one is asked for."""
        full = len(self._block)
        block = _fill(stream, self._block)
        while len(block) == full:
            if not self._spare:
                self._spare = bytearray(full)
            following = _fill(stream, self._spare)
            yield block, not following
            if not following:
                return
            self._block, self._spare = self._spare, self._block
            block = following
        yield block, True

    def _fragments(self, data: memoryview, context_id: int, control: int) -> Iterator[Buffer]:
        """Yield `data` as P-DATA PDUs of one PDV each (PS3.8 9.3.5); `LAST` goes on the last."""
        kind = control & COMMAND
        whole = _pdv_header(self._fragment, context_id, kind)
        end = max(0, len(data) - 1) // self._fragment * self._fragment
        for at in range(0, end, self._fragment):
            yield whole
            yield data[at : at + self._fragment]
        yield _pdv_header(len(data) - end, context_id, control)
        yield data[end:]

    def _response(self, context_id: int, message_id: int, field: int) -> Response:
        end = time.monotonic() + self._peer.response_timeout
        command = bytearray()
        while True:
            pdu = self._read(end - time.monotonic())
            _refuse_unexpected(pdu)
            for found, control, data in _pdvs(pdu.body):
                if found != context_id or not control & COMMAND:
                    raise Malformed("the peer sent a data set where an answer is due")
                command += data
                if len(command) > MOST_COMMAND_BYTES:
                    raise Malformed("the peer's answer does not end")
                if control & LAST:
                    return commands.response(bytes(command), field=field, message_id=message_id)

    def _read(self, seconds: float) -> Pdu:
        return self._wire.read_pdu(
            timeout=seconds,
            most=self._peer.most_pdu,
            otherwise=f"no answer came within {self._peer.response_timeout:g} seconds",
        )


def associate(peer: Peer, proposals: Sequence[Proposal], *, pace: Pace) -> Association:
    """Connect, propose `proposals` and return the association; some contexts may be refused.

    Raises:
        Unreachable, Rejected, Aborted, Lost, Stalled, Malformed, Stopped.
    """
    request = acse.request(
        calling_ae=peer.calling_ae,
        called_ae=peer.ae_title,
        most_pdu=peer.most_pdu,
        implementation=peer.implementation,
        proposals=proposals,
    )
    wire = Wire.connect(peer.host, peer.port, timeout=peer.connect_timeout, pace=pace)
    try:
        wire.send([request])
        pdu = wire.read_pdu(
            timeout=peer.response_timeout,
            most=acse.MOST_ASSOCIATE_BYTES,
            otherwise=f"no answer to the association request in {peer.response_timeout:g} seconds",
        )
        return Association(wire, peer, acse.answer(pdu, proposals), pace)
    except DimseError as error:
        if not isinstance(error, Rejected | Aborted | Lost):
            wire.say(ABORT_PDU)
        wire.close()
        raise


def _fill(stream: Readable, buffer: bytearray) -> memoryview:
    view, got = memoryview(buffer), 0
    while got < len(view):
        try:
            more = stream.readinto(view[got:])
        except OSError as error:
            raise Unreadable(error.strerror or "input error") from error
        except DicomError as error:
            raise Damaged(str(error)) from error
        if not more:
            break
        got += more
    return view[:got]


def _pdv_header(length: int, context_id: int, control: int) -> bytes:
    return HEADER.pack(P_DATA, length + PDV_HEADER_BYTES) + bytes(
        [*(length + 2).to_bytes(4, "big"), context_id, control]
    )


def _pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        if length < 2 or at + 4 + length > len(body):
            raise Malformed("the peer's P-DATA does not add up")
        yield body[at + 4], body[at + 5], body[at + PDV_HEADER_BYTES : at + 4 + length]
        at += 4 + length


def _refuse_unexpected(pdu: Pdu) -> None:
    if pdu.kind == ABORT and len(pdu.body) == 4:
        raise Aborted(*pdu.body[2:4])
    if pdu.kind == RELEASE_RQ:
        raise Released
    if pdu.kind != P_DATA:
        raise Malformed(f"the peer sent PDU type {pdu.kind} where an answer is due")
