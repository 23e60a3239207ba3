"""Reports on storage commitments that a far end brings: N-EVENT-REPORT (PS3.4 J.3.3).

The report is read here and handed over with the caller's AE title, to be stored; what comes back is
the status that answers it. It refuses to know the database and what a report means.
"""

import logging

from ingest.handlers import Session
from ingest.negotiation import Context
from ingest.status import Status
from ingest.wire import Command, ProtocolError, encode_response
from router.dicom import commitment

log = logging.getLogger(__name__)

EVENT_TYPE = 0x1002


class Unstored(Exception):
    """A report cannot be stored at the moment; who brings it may do so again."""


class ReportMessage:
    """An N-EVENT-REPORT request (PS3.7 10.3.1) of the storage commitment class."""

    def __init__(self, session: Session, command: Command, context: Context) -> None:
        self._session, self._command, self._context = session, command, context
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        """Take some bytes of the Event Information."""
        if len(self._data) + len(data) > commitment.MOST_BYTES:
            raise ProtocolError("the event information of a report is too long")
        self._data += data

    def finish(self) -> bytes:
        """The PDU that answers."""
        status = self._taken()
        facts = self._session.facts
        log.info("commitment.reported", extra={"association": facts.id, "status": f"{status:04X}"})
        return encode_response(
            self._command,
            self._context.context_id,
            status=status,
            type_id=self._command.number(EVENT_TYPE),
        )

    def discard(self) -> None:
        """The rest will not come."""
        self._data.clear()

    def _taken(self) -> int:
        try:
            report = commitment.read_event(
                bytes(self._data),
                transfer_syntax=self._context.transfer_syntax,
                sop_instance_uid=self._command.sop_instance_uid,
                type_id=self._command.number(EVENT_TYPE) or 0,
            )
            return self._session.storage.take_report(report, self._session.facts.calling_ae)
        except commitment.RefusedEvent as refused:
            return refused.status
        except Unstored:
            return Status.PROCESSING_FAILURE
