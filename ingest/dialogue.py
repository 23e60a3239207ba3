"""The DIMSE messages of one association, read straight from its socket.

C-STORE data sets go from the socket's buffer to the spool file without another copy; C-ECHO and
reports on commitments are answered here too, and what we do not offer is answered as such. The
dialogue begins after negotiation and ends at the first PDU that is not P-DATA, which is handed
back. It refuses to know pynetdicom and the rules of storage.
"""

import time
from collections.abc import Callable
from typing import Protocol

from ingest.handlers import Incoming, Session, StoreRequest
from ingest.reports import ReportMessage
from ingest.status import Status
from ingest.wire import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    MOST_COMMAND,
    N_EVENT_REPORT_RQ,
    P_DATA,
    REQUESTS,
    Command,
    Fragment,
    Pace,
    Progress,
    ProtocolError,
    Reader,
    decode_command,
    encode_response,
    unrecognized,
)

MOST_FOREIGN = 1 << 20
# Longer than this and a step of ours is not the peer's slowness.
OUR_SECONDS = 0.5


class Message(Protocol):
    """A request whose data set is arriving."""

    def write(self, data: memoryview) -> None:
        """Take some bytes of the data set; they are only good during the call."""

    def finish(self) -> bytes:
        """The PDU that answers."""

    def discard(self) -> None:
        """The rest will not come."""


class StoreMessage:
    """A C-STORE request (PS3.7 9.3.1)."""

    def __init__(self, incoming: Incoming, command: Command, context_id: int) -> None:
        self._incoming = incoming
        self._command = command
        self._context_id = context_id
        self.write = incoming.write
        self.discard = incoming.discard

    def finish(self) -> bytes:
        answer = self._incoming.finish()
        return encode_response(
            self._command, self._context_id, status=answer.status, comment=answer.comment
        )


class ForeignMessage:
    """A request with a data set for an operation that we do not offer: read past, answered."""

    def __init__(self, command: Command, context_id: int) -> None:
        self._answer = unrecognized(command, context_id)
        self._size = 0

    def write(self, data: memoryview) -> None:
        self._size += len(data)
        if self._size > MOST_FOREIGN:
            raise ProtocolError("data set of an operation that is not offered is too long")

    def finish(self) -> bytes:
        return self._answer

    def discard(self) -> None:
        """Nothing was kept."""


class Dialogue:
    """Reads messages, sends answers, one at a time (PS3.7 D.3.3.3: one operation)."""

    def __init__(
        self,
        reader: Reader,
        session: Session,
        *,
        send: Callable[[bytes], None],
        pace: Pace = Pace(),  # noqa: B008  frozen
        on_rest: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`on_rest` is told when we begin and cease to wait for a message."""
        self._reader = reader
        self._progress = Progress(pace)
        self._is_midway = False
        self._session = session
        self._send = send
        self._on_rest = on_rest
        self._command = bytearray()
        self._context_id = 0
        self._message: Message | None = None
        reader.before_reading = self._write_held

    def run(self) -> bytes:
        """Serve until a PDU that is not P-DATA arrives, and return that one whole.

        Raises what the reader raises; an object that was arriving is dropped then.
        """
        try:
            while True:
                kind, length = self._next_pdu()
                if kind != P_DATA:
                    return self._reader.pdu_body(kind, length)
                for fragment in self._reader.fragments(length):
                    self._take(fragment)
        finally:
            if self._message is not None:
                self._message.discard()

    def _next_pdu(self) -> tuple[int, int]:
        if self._is_midway:
            return self._reader.pdu_header(within=self._progress.left())
        self._on_rest(True)  # noqa: FBT003  the one thing it is told
        try:
            return self._reader.pdu_header()
        finally:
            self._on_rest(False)  # noqa: FBT003

    def _take(self, fragment: Fragment) -> None:
        if fragment.context_id not in self._session.contexts:
            raise ProtocolError(f"presentation context {fragment.context_id} is not accepted")
        if not self._is_midway:
            self._is_midway = True
            self._progress.begin()
        self._progress.note(fragment.length)
        if fragment.is_command:
            self._take_command(fragment)
        else:
            self._take_data(fragment)

    def _take_command(self, fragment: Fragment) -> None:
        if self._message is not None or len(self._command) + fragment.length > MOST_COMMAND:
            raise ProtocolError("command fragment out of place or command set too long")
        if self._command and fragment.context_id != self._context_id:
            raise ProtocolError("presentation context changes within a command set")
        self._context_id = fragment.context_id
        self._command += self._reader.take(fragment.length)
        if fragment.is_last:
            command = decode_command(bytes(self._command))
            self._command.clear()
            self._begin(command)
            self._is_midway = self._message is not None

    def _take_data(self, fragment: Fragment) -> None:
        message = self._message
        if message is None or fragment.context_id != self._context_id:
            raise ProtocolError("data set fragment without its command")
        left = fragment.length
        while left:
            left -= self._reader.hold(left)
        if fragment.is_last:
            self._write_held()
            self._message = None
            self._is_midway = False
            began = time.monotonic()
            self._send(message.finish())
            self._forgive(time.monotonic() - began)

    def _write_held(self) -> None:
        """Give the message what has come of it: as late as the buffer allows, in one piece."""
        data = self._reader.held()
        if self._message is not None and data:
            began = time.monotonic()
            self._message.write(data)
            self._forgive(time.monotonic() - began)

    def _forgive(self, seconds: float) -> None:
        """A disk that stalls is not the peer's fault."""
        if seconds > OUR_SECONDS:
            self._reader.forgive(seconds)
            self._progress.forgive(seconds)

    def _begin(self, command: Command) -> None:
        """Start a request; one without a data set is answered at once (PS3.7 9.3)."""
        if command.field == C_CANCEL_RQ:
            return  # of an operation that has ended: no answer (PS3.7 9.3.2.3)
        if command.field not in REQUESTS:
            raise ProtocolError(f"command field {command.field:#06x}")
        message = self._open(command)
        if command.has_data_set:
            self._message = message
        else:
            self._send(self._without_data_set(command, message))

    def _open(self, command: Command) -> Message:
        context = self._session.contexts[self._context_id]
        if command.field == N_EVENT_REPORT_RQ and context.service == "commit":
            return ReportMessage(self._session, command, context)
        if command.field != C_STORE_RQ or context.service != "store":
            return ForeignMessage(command, self._context_id)
        request = StoreRequest(
            abstract_syntax=context.abstract_syntax,
            transfer_syntax=context.transfer_syntax,
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
        )
        return StoreMessage(self._session.begin(request), command, self._context_id)

    def _without_data_set(self, command: Command, message: Message) -> bytes:
        context = self._session.contexts[self._context_id]
        if command.field == C_ECHO_RQ and context.service == "echo":
            is_right = command.sop_class_uid == context.abstract_syntax
            status = Status.SUCCESS if is_right else Status.SOP_CLASS_NOT_SUPPORTED
            return encode_response(command, self._context_id, status=status)
        return message.finish()
