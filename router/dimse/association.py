"""One association that we requested: echo, store, find, release, abort (PS3.7 9.1.1 to 9.1.5).

The data set leaves as it is read, cut into the P-DATA PDUs that the peer takes, and is hashed on
the way; the last block is held back until the hash of the whole is known to be right. While an
answer is awaited the beginning of the next parcel is read and hashed. Decides nothing about
retries.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

from router.dimse import acse, commands
from router.dimse.commands import Message, Response
from router.dimse.contexts import Proposal
from router.dimse.errors import (
    Aborted,
    DimseError,
    Lost,
    Malformed,
    Rejected,
    Released,
    Untrusted,
)
from router.dimse.pace import Pace
from router.dimse.parcel import Damaged, Parcel, Readable, Reading, Sent, fill
from router.dimse.pdata import COMMAND, LAST, PDV_HEADER_BYTES, fragments, pdvs, refuse_unexpected
from router.dimse.secure import Tls
from router.dimse.wire import (
    ABORT,
    ABORT_PDU,
    RELEASE_RP,
    RELEASE_RP_PDU,
    RELEASE_RQ_PDU,
    Buffer,
    Pdu,
    Wire,
)

BLOCK_BYTES = 1 << 20
LARGEST_PDU = 1 << 20
"""What we send to a peer that sets no limit."""
MOST_COMMAND_BYTES = 64 * 1024
MOST_DATA_BYTES = 1 << 20
"""The longest data set that an answer of the peer may carry."""
RELEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a C-FIND gave: the identifiers as encoded, and the final status."""

    status: int
    identifiers: tuple[bytes, ...]


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
    tls: Tls | None = None


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
        self._begun: Reading | None = None
        self._heard: deque[tuple[int, int, bytes]] = deque()

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
        message_id = self.next_message_id()
        self.say(context_id, commands.echo_request(message_id=message_id))
        heard = self.hear(context_id)
        return self.judged(heard, field=commands.C_ECHO_RSP, message_id=message_id)

    def find(self, context_id: int, identifier: bytes, *, sop_class_uid: str, most: int) -> Found:
        """Ask with an encoded `identifier` (PS3.4 C.4.1) and return at most `most` matches.

        Raises:
            DimseError: no final answer, or more matches. The association is over.
        """
        message_id = self.next_message_id()
        command = commands.find_request(sop_class_uid, message_id=message_id)
        self.say(context_id, command, identifier)
        matches: list[bytes] = []
        while True:
            heard = self.hear(context_id)
            answer = self.judged(heard, field=commands.C_FIND_RSP, message_id=message_id)
            if answer.status not in commands.PENDING:
                return Found(answer.status, tuple(matches))
            matches.append(heard.data or b"")
            if len(matches) > most:
                self.refuse("the peer found more than it was asked for")

    def say(self, context_id: int, command: bytes, data: bytes | None = None) -> None:
        """Send a message: a command set, and the data set that belongs to it.

        Raises:
            DimseError: why it could not be sent. The association is over.
        """
        buffers = [*self._fragments(memoryview(command), context_id, COMMAND | LAST)]
        if data is not None:
            buffers += self._fragments(memoryview(data), context_id, LAST)
        try:
            self._wire.send(buffers)
        except DimseError as error:
            self._end(error)
            raise

    def hear(self, context_id: int) -> Message:
        """Return the next message of the peer, waiting as long as for an answer.

        Raises:
            DimseError: there is none, and why. The association is over.
        """
        end = time.monotonic() + self._peer.response_timeout
        try:
            command = commands.parse(self._whole(context_id, COMMAND, end, most=MOST_COMMAND_BYTES))
            if not commands.has_data(command):
                return Message(command, None)
            return Message(command, self._whole(context_id, 0, end, most=MOST_DATA_BYTES))
        except DimseError as error:
            self._end(error)
            raise

    def is_spoken_to(self, seconds: float) -> bool:
        """Wait until the peer says something, for so many seconds; tell whether it did.

        Raises:
            Stopped: asked to stop. The association is over.
        """
        try:
            return bool(self._heard) or self._wire.is_spoken_to(seconds)
        except DimseError as error:
            self._end(error)
            raise

    def _whole(self, context_id: int, kind: int, end: float, *, most: int) -> bytes:
        """Return the fragments of one command or data set, put together."""
        whole = bytearray()
        while True:
            found, control, data = self._next_pdv(end)
            if found != context_id or control & COMMAND != kind:
                what = "a data set" if kind else "a command"
                raise Malformed(f"the peer sent {what} where an answer is due")
            whole += data
            if len(whole) > most:
                raise Malformed("the peer's answer does not end")
            if control & LAST:
                return bytes(whole)

    def _next_pdv(self, end: float) -> tuple[int, int, bytes]:
        while not self._heard:
            pdu = self._read(end - time.monotonic())
            refuse_unexpected(pdu)
            self._heard.extend(pdvs(pdu.body))
        return self._heard.popleft()

    def judged(self, heard: Message, *, field: int, message_id: int) -> Response:
        """Read what was heard as the answer to a message of ours.

        Raises:
            Malformed: it is none. The association is over.
        """
        try:
            return commands.response(heard, field=field, message_id=message_id)
        except DimseError as error:
            self._end(error)
            raise

    def refuse(self, what: str) -> NoReturn:
        """End the association because of what the peer sent.

        Raises:
            Malformed: with `what`.
        """
        error = Malformed(what)
        self._end(error)
        raise error

    def begin(self, parcel: Parcel) -> None:
        """Read the beginning of `parcel`, which is stored next; for `meanwhile` of `store`.

        Raises:
            Damaged, Unreadable: nothing of it has left; the association is as it was.
        """
        reading = Reading(parcel, self._blocks(parcel.stream))
        reading.begin()
        self._begun = reading

    def store(self, parcel: Parcel, *, meanwhile: Callable[[], None] | None = None) -> Sent:
        """Send a parcel and wait for the answer; `meanwhile` is called once all of it has left.

        Raises:
            Damaged, Unreadable: the association is aborted if a byte of the parcel had left.
        """
        message_id = self.next_message_id()
        self._wire.until = time.monotonic() + self._pace.deadline(parcel.size)
        reading, moved, begun, complete = self._reading(parcel), 0, False, False
        response: Response | None = None
        failure: DimseError | None = None
        head = self._command(parcel, message_id)
        try:
            for block, last in reading:
                if last and not parcel.intact(reading.sha256()):
                    raise Damaged("its bytes are not those that were received; run verify_ledger")
                tail = self._fragments(block, parcel.context_id, LAST if last else 0)
                self._wire.listen()
                begun = True
                self._wire.send([*head, *tail])
                head, moved, complete = [], moved + len(block), last
            self._spend(meanwhile)
            heard = self.hear(parcel.context_id)
            response = self.judged(heard, field=commands.C_STORE_RSP, message_id=message_id)
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

    def _reading(self, parcel: Parcel) -> Reading:
        begun, self._begun = self._begun, None
        if begun is not None and begun.parcel is parcel:
            return begun
        return Reading(parcel, self._blocks(parcel.stream))

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
        """Leave the association as is due after `error`, once."""
        if not self.is_open:
            return
        if isinstance(error, Released):
            self._wire.say(RELEASE_RP_PDU)
            self._close()
        elif isinstance(error, Aborted | Lost | Untrusted):
            self._close()
        else:
            self.abort()

    def _close(self) -> None:
        self.is_open = False
        self._wire.close()

    def next_message_id(self) -> int:
        """Return the id of the next message that we send."""
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
        block = fill(stream, self._block)
        while len(block) == full:
            if not self._spare:
                self._spare = bytearray(full)
            following = fill(stream, self._spare)
            yield block, not following
            if not following:
                return
            self._block, self._spare = self._spare, self._block
            block = following
        yield block, True

    def _fragments(self, data: memoryview, context_id: int, control: int) -> Iterator[Buffer]:
        return fragments(data, context_id, control, most=self._fragment)

    def _read(self, seconds: float) -> Pdu:
        return self._wire.read_pdu(
            timeout=seconds,
            most=self._peer.most_pdu,
            otherwise=f"no answer came within {self._peer.response_timeout:g} seconds",
        )


def associate(peer: Peer, proposals: Sequence[Proposal], *, pace: Pace) -> Association:
    """Connect, propose `proposals` and return the association; some contexts may be refused.

    Raises:
        Unreachable, Untrusted, Rejected, Aborted, Lost, Stalled, Malformed, Stopped.
    """
    request = acse.request(
        calling_ae=peer.calling_ae,
        called_ae=peer.ae_title,
        most_pdu=peer.most_pdu,
        implementation=peer.implementation,
        proposals=proposals,
    )
    wire = Wire.connect(peer.host, peer.port, timeout=peer.connect_timeout, pace=pace, tls=peer.tls)
    try:
        wire.send([request])
        pdu = wire.read_pdu(
            timeout=peer.response_timeout,
            most=acse.MOST_ASSOCIATE_BYTES,
            otherwise=f"no answer to the association request in {peer.response_timeout:g} seconds",
        )
        return Association(wire, peer, acse.answer(pdu, proposals), pace)
    except DimseError as error:
        if not isinstance(error, Rejected | Aborted | Lost | Untrusted):
            wire.say(ABORT_PDU)
        wire.close()
        raise
