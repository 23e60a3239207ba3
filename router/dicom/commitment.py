"""Storage commitment as data sets: what is asked for, and what is reported (PS3.4 Annex J.3).

The Push Model alone. It encodes the Action Information of an N-ACTION and reads the Event
Information of an N-EVENT-REPORT, whoever sends it. It judges nothing: an object that a report does
not name is neither committed nor failed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router.dicom import uids
from router.dicom.errors import DicomError
from router.dicom.header import Header, read_header
from router.dicom.limits import Limits

SOP_CLASS: Final = "1.2.840.10008.1.20.1"
SOP_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known instance, of which requests and reports are (PS3.4 J.3.5)."""
REQUEST: Final = 1
"""Action Type ID of a request for commitment (PS3.4 J.3.2.1)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs of a report (PS3.4 J.3.3.1)."""
NO_SUCH_INSTANCE, NO_SUCH_EVENT, INVALID_ARGUMENT = 0x0112, 0x0113, 0x0115
"""Statuses that answer an event which is not taken (PS3.7 10.1.1.1.8)."""
NO_REASON: Final = 0x0110
"""Taken where a failed object comes without a Failure Reason: processing failure."""

MOST_BYTES: Final = 4 << 20
"""The longest report that is read; one of 2,000 objects has some 300,000."""

_TRANSACTION, _REFERENCED, _FAILED = 0x00081195, 0x00081199, 0x00081198
_CLASS, _INSTANCE, _REASON = 0x00081150, 0x00081155, 0x00081197

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID of an object."""

REASONS: Final[Mapping[int, str]] = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "the object is of another SOP class there",
    0x0122: "its SOP class is not supported",
    0x0131: "the Transaction UID is in use already",
    0x0213: "resource limitation",
}
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""


class UnreadableReport(DicomError):
    """Event Information that is none."""


class RefusedEvent(DicomError):
    """An event that is not taken; `status` says so to who reports it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Report:
    """What a far end reports of one transaction: what it committed to, and why not to the rest."""

    transaction_uid: str
    committed: frozenset[Reference] = frozenset()
    failed: Mapping[Reference, int] = field(default_factory=dict)


def request(
    transaction_uid: str, references: Sequence[Reference], *, transfer_syntax: str
) -> bytes:
    """Return the Action Information that asks for commitment to `references` (Table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_item(*reference) for reference in references]
    buffer = DicomBytesIO()
    buffer.is_little_endian = not uids.is_big_endian(transfer_syntax)
    buffer.is_implicit_VR = uids.is_implicit(transfer_syntax)
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def read_event(data: bytes, *, transfer_syntax: str, sop_instance_uid: str, type_id: int) -> Report:
    """Read an N-EVENT-REPORT of the well-known instance.

    Raises:
        RefusedEvent: it is none that can be taken, with the status to answer it with.
    """
    if sop_instance_uid != SOP_INSTANCE:
        raise RefusedEvent(NO_SUCH_INSTANCE, "it is of another SOP instance")
    if type_id not in (ALL_COMMITTED, SOME_FAILED):
        raise RefusedEvent(NO_SUCH_EVENT, f"there is no event of type {type_id}")
    try:
        return read_report(data, transfer_syntax=transfer_syntax)
    except DicomError as error:
        raise RefusedEvent(INVALID_ARGUMENT, str(error)) from error


def read_report(data: bytes, *, transfer_syntax: str) -> Report:
    """Read Event Information (Table J.3-2). An object that is named as committed and as failed
    counts as failed.

    Raises:
        UnreadableReport: it has no Transaction UID, or names objects without their UIDs.
        DicomError: it is no data set.
    """
    header = read_header(
        BytesIO(data),
        offset=0,
        size=len(data),
        transfer_syntax=transfer_syntax,
        limits=Limits(sequence_bytes=MOST_BYTES),
    )
    transaction_uid = header.text(_TRANSACTION)
    if not uids.valid_uid(transaction_uid):
        raise UnreadableReport("the report has no Transaction UID")
    failed = dict(_failures(_items(header, _FAILED)))
    committed = frozenset(_reference(item) for item in _items(header, _REFERENCED))
    return Report(transaction_uid, committed - failed.keys(), failed)


def _items(header: Header, tag: int) -> Sequence[Header]:
    """Return the items of a sequence; one that cannot be read must not pass for an empty one."""
    items, raw = header.sequence(tag), header.raw(tag)
    if not items and raw is not None and raw.length:
        raise UnreadableReport("the report has a sequence that cannot be read")
    return items


def _failures(items: Iterable[Header]) -> Iterable[tuple[Reference, int]]:
    for item in items:
        reason = item.integer(_REASON)
        yield _reference(item), NO_REASON if reason is None else reason


def _reference(item: Header) -> Reference:
    reference = item.text(_CLASS), item.text(_INSTANCE)
    if not all(map(uids.valid_uid, reference)):
        raise UnreadableReport("the report names an object without its UIDs")
    return reference


def reason_words(reason: int) -> str:
    """Return a Failure Reason as four digits and in words."""
    return f"{reason:04X}, {REASONS.get(reason, 'a reason that the Standard does not define')}"
