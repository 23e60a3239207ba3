"""Storage: what one association does with an object that arrives (PS3.4 Annex B).

A `Session` is one accepted association, an `Incoming` one C-STORE request while its data set
arrives. Both receive paths (the socket taken over, and pynetdicom's own) use them, so a rule is
written once. Refusals are answers, not exceptions: the bytes of a refused object are counted and
dropped, and the intake is told.

It refuses to know the network and the database: what is stored is handed to an `Intake`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from ingest.disk import DiskGate, DiskState
from ingest.negotiation import Context
from ingest.status import Status
from router import crashpoints
from router.dicom.commitment import Report
from router.dicom.errors import DicomError, TruncatedDataSet
from router.dicom.uids import valid_uid
from router.services import archive
from router.spool import (
    AssociationFacts,
    Counts,
    Inbox,
    Spool,
    Spooled,
    SpoolError,
    SpoolFile,
    SpoolFull,
)

log = logging.getLogger(__name__)

MOST_COMMENT = 64

Duplicate = Literal["no", "same", "other"]
DuplicateLookup = Callable[[str, str, str], Duplicate]


class LookupUnavailable(archive.Refused):
    """The database cannot say whether an instance is known."""


class KnownOtherwise(archive.Refused):
    """The UID stands for other bytes already, and the source's duplicates are refused."""


_REFUSALS: tuple[tuple[type[Exception], Status, str], ...] = (
    (TruncatedDataSet, Status.CANNOT_UNDERSTAND, "Data set is truncated"),
    (DicomError, Status.CANNOT_UNDERSTAND, "Data set is malformed"),
    (LookupUnavailable, Status.OUT_OF_RESOURCES, ""),
    (KnownOtherwise, Status.DUPLICATE, ""),
    (archive.Refused, Status.DATA_SET_MISMATCH, ""),
)


class Intake(Protocol):
    """Who takes over what was received. No method may wait for the database or raise."""

    def association_opened(self, facts: AssociationFacts, contexts: tuple[Context, ...]) -> None:
        """An association was accepted with these contexts (accepted and refused ones)."""

    def association_closed(self, facts: AssociationFacts, reason: str, counts: Counts) -> None:
        """It ended: `released`, `aborted`, `lost`, `timed_out`, `protocol_error`, `stopped` or,
        for another's sake after a rest, `gave_way`."""

    def stored(self, spooled: Spooled) -> None:
        """An object is durable in the inbox; Success goes out after this returns."""

    def refused(
        self,
        facts: AssociationFacts,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        status: int,
        reason: str,
        size: int,
    ) -> None:
        """An object was answered with a failure and its bytes were dropped."""

    def disk_state(self, state: DiskState, free: int) -> None:
        """Intake is `open`, `slow` or `refusing` from now on, with `free` bytes left."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ and its presentation context. UIDs as received, without padding."""

    abstract_syntax: str
    transfer_syntax: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Status (0000,0900) and Error Comment (0000,0902)."""

    status: Status
    comment: str = ""


SUCCESS = Answer(Status.SUCCESS)


@dataclass(frozen=True, slots=True)
class Storage:
    """What every session of a receiver shares; `take_report` as `ingest.reports` says."""

    spool: Spool
    intake: Intake
    disk: DiskGate
    is_duplicate: DuplicateLookup
    take_report: Callable[[Report, str], int]


class Session:
    """One accepted association. One thread uses it; `counts` may be read by any."""

    def __init__(
        self, facts: AssociationFacts, contexts: tuple[Context, ...], *, storage: Storage
    ) -> None:
        self.facts = facts
        self.contexts = {context.context_id: context for context in contexts if context.is_accepted}
        self.counts = Counts()
        self.storage = storage
        self.inbox: Inbox = storage.spool.open_inbox(facts)
        storage.intake.association_opened(facts, contexts)
        log.info("association.opened", extra=self._about() | {"contexts": len(self.contexts)})

    def begin(self, request: StoreRequest) -> "Incoming":
        """Take in one object. Never raises for what the peer or the disk did."""
        return Incoming(self, request)

    def close(self, reason: str) -> None:
        try:
            self.inbox.closed(datetime.now(UTC), reason, self.counts)
        except SpoolError as error:
            log.error("association.end_not_kept", extra=self._about() | {"error": str(error)})
        self.storage.intake.association_closed(self.facts, reason, self.counts)
        log.info(
            "association.closed",
            extra=self._about()
            | {
                "reason": reason,
                "objects": self.counts.objects,
                "bytes": self.counts.bytes,
                "refused": self.counts.refused,
            },
        )

    def _about(self) -> dict[str, object]:
        return {
            "association": self.facts.id,
            "calling_ae": self.facts.calling_ae,
            "remote": self.facts.remote_host,
            "source": self.facts.source,
        }


class Incoming:
    """One object between its command set and our answer."""

    def __init__(self, session: Session, request: StoreRequest) -> None:
        self._session = session
        self._request = request
        self._size = 0
        self._file: SpoolFile | None = None
        self._refusal = _unlawful(request) or self._admit()

    def write(self, data: memoryview) -> None:
        """Take in data set bytes; those of a refused object are counted and dropped."""
        self._size += len(data)
        if self._file is None:
            return
        try:
            self._file.write(data)
        except SpoolError as error:
            self._file = None
            self._refusal = self._no_room(error)

    def finish(self) -> Answer:
        """The answer to the request. Success means durable."""
        if self._file is None:
            return self._refuse(self._refusal or Answer(Status.PROCESSING_FAILURE))
        if not self._size:
            self._file.discard()
            return self._refuse(Answer(Status.CANNOT_UNDERSTAND, "Data set is missing or empty"))
        try:
            spooled = archive.receive(
                self._file,
                sop_class_uid=self._request.sop_class_uid,
                sop_instance_uid=self._request.sop_instance_uid,
                permit=self._permit,
            )
        except SpoolError as error:
            return self._refuse(self._no_room(error))
        except (DicomError, archive.Refused, OSError) as error:
            return self._refuse(_refusal(error))
        counts = self._session.counts
        counts.objects += 1
        counts.bytes += spooled.size
        self._session.storage.intake.stored(spooled)
        crashpoints.reach("receive.before_reply")
        return SUCCESS

    def discard(self) -> None:
        """The rest will not come: drop what did."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _admit(self) -> Answer | None:
        storage = self._session.storage
        delay = storage.disk.delay()
        if delay is None:
            return Answer(Status.OUT_OF_RESOURCES, "Free disk space is below the limit")
        if delay:
            time.sleep(delay)
        try:
            self._file = self._session.inbox.create(
                sop_class_uid=self._request.sop_class_uid,
                sop_instance_uid=self._request.sop_instance_uid,
                transfer_syntax=self._request.transfer_syntax,
            )
        except SpoolError as error:
            return self._no_room(error)
        return None

    def _no_room(self, error: SpoolError) -> Answer:
        log.error("spool.failed", extra={"error": str(error.__cause__ or error)})
        if isinstance(error, SpoolFull):
            self._session.storage.disk.overflowed()
            return Answer(Status.OUT_OF_RESOURCES, "Spool is full")
        return Answer(Status.OUT_OF_RESOURCES, "Spool cannot be written")

    def _permit(self, file: SpoolFile) -> None:
        """Look the UID up for sources whose duplicates we refuse."""
        if self._session.facts.duplicates != "refuse":
            return
        request = self._request
        found = self._session.storage.is_duplicate(
            request.sop_instance_uid, request.transfer_syntax, file.sha256
        )
        if found == "other":
            raise KnownOtherwise("SOP Instance UID is known with other content")

    def _refuse(self, answer: Answer) -> Answer:
        self._session.counts.refused += 1
        self._session.storage.intake.refused(
            self._session.facts,
            sop_class_uid=self._request.sop_class_uid,
            sop_instance_uid=self._request.sop_instance_uid,
            transfer_syntax=self._request.transfer_syntax,
            status=answer.status,
            reason=answer.comment,
            size=self._size,
        )
        log.warning(
            "object.refused",
            extra={
                "association": self._session.facts.id,
                "status": str(answer.status),
                "reason": answer.comment,
            },
        )
        return answer


def _unlawful(request: StoreRequest) -> Answer | None:
    """What is wrong with the command itself (PS3.7 9.1.1.1.9)."""
    if request.sop_class_uid != request.abstract_syntax:
        return Answer(
            Status.SOP_CLASS_NOT_SUPPORTED, "SOP Class is not the one of its presentation context"
        )
    if not request.sop_instance_uid:
        return Answer(Status.INVALID_SOP_INSTANCE, "Affected SOP Instance UID is empty")
    if not valid_uid(request.sop_instance_uid):
        return Answer(Status.INVALID_SOP_INSTANCE, "Affected SOP Instance UID is not a UID")
    return None


def _refusal(error: Exception) -> Answer:
    """The answer for an object that the archive did not take."""
    for kind, status, what in _REFUSALS:
        if isinstance(error, kind):
            return Answer(status, _comment(what, error))
    return Answer(Status.PROCESSING_FAILURE, _comment("Spool cannot be read", error))


def _comment(what: str, error: Exception) -> str:
    """At most 64 characters (PS3.7 E.2, LO): what, then as much detail as fits."""
    text = f"{what}: {error}" if what else str(error)
    return text.encode("ascii", errors="replace")[:MOST_COMMENT].decode("ascii")
