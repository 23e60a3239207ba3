"""Storage commitment as data sets: read back what was written, and never more than was said."""

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router.dicom import commitment
from router.dicom.commitment import Reference, UnreadableReport
from router.dicom.errors import DicomError

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
UIDS = st.integers(1, 10**30).map(lambda number: f"2.25.{number}")
REFERENCES = st.lists(st.tuples(st.just(CT), UIDS), max_size=6, unique=True)


def encoded(ds: Dataset, syntax: str = EXPLICIT, *, undefined: bool = False) -> bytes:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def report(
    committed: list[Reference], failed: dict[Reference, int | None] | None = None, **values: object
) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = "2.25.1"
    ds.ReferencedSOPSequence = [item(one) for one in committed]
    if failed is not None:
        ds.FailedSOPSequence = [item(one, reason) for one, reason in failed.items()]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def item(reference: Reference, reason: int | None = None) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = reference
    if reason is not None:
        ds.FailureReason = reason
    return ds


@SYNTAXES
def test_a_request_names_the_transaction_and_each_object(syntax: str) -> None:
    data = commitment.request("2.25.7", [(CT, "1.2.3"), (CT, "1.2.4")], transfer_syntax=syntax)
    found = pydicom.filereader.read_dataset(
        DicomBytesIO(data), is_implicit_VR=syntax == IMPLICIT, is_little_endian=syntax != BIG
    )
    assert found.TransactionUID == "2.25.7"
    uids = [
        (one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID)
        for one in found.ReferencedSOPSequence
    ]
    assert uids == [(CT, "1.2.3"), (CT, "1.2.4")]
    assert len(found) == 2


@SYNTAXES
@pytest.mark.parametrize("undefined", [True, False])
@given(committed=REFERENCES, failed=REFERENCES, reason=st.integers(0, 0xFFFF))
def test_a_report_says_what_was_written(
    committed: list[Reference], failed: list[Reference], reason: int, syntax: str, undefined: bool
) -> None:
    ds = report(committed, dict.fromkeys(failed, reason))
    read = commitment.read_report(encoded(ds, syntax, undefined=undefined), transfer_syntax=syntax)
    assert read.transaction_uid == "2.25.1"
    assert read.committed == set(committed) - set(failed)
    assert read.failed == dict.fromkeys(failed, reason)


def test_what_is_named_as_committed_and_as_failed_has_failed() -> None:
    both = (CT, "1.2.3")
    read = commitment.read_report(
        encoded(report([both, (CT, "1.2.4")], {both: 0x0112})), transfer_syntax=EXPLICIT
    )
    assert read.committed == {(CT, "1.2.4")}
    assert read.failed == {both: 0x0112}


def test_a_failure_without_a_reason_is_a_failure() -> None:
    data = encoded(report([], {(CT, "1.2.3"): None}))
    assert commitment.read_report(data, transfer_syntax=EXPLICIT).failed == {(CT, "1.2.3"): 0x0110}


def test_a_report_without_sequences_commits_to_nothing() -> None:
    ds = Dataset()
    ds.TransactionUID = "2.25.1"
    read = commitment.read_report(encoded(ds), transfer_syntax=EXPLICIT)
    assert not read.committed
    assert not read.failed


@pytest.mark.parametrize(
    "ds",
    [
        report([], TransactionUID=""),
        report([(CT, "")]),
        report([("", "1.2.3")]),
        report([], {(CT, ""): 0x0112}),
    ],
)
def test_what_is_not_whole_is_no_report(ds: Dataset) -> None:
    with pytest.raises(UnreadableReport):
        commitment.read_report(encoded(ds), transfer_syntax=EXPLICIT)


def test_a_sequence_that_cannot_be_read_is_no_empty_one() -> None:
    data = bytearray(encoded(report([(CT, "1.2.3")], {(CT, "1.2.4"): 0x0112})))
    at = data.index(b"\x08\x00\x98\x11SQ") + 12
    data[at : at + 4] = b"\x08\x00\x50\x11"  # an element where an item is due
    with pytest.raises(DicomError):
        commitment.read_report(bytes(data), transfer_syntax=EXPLICIT)


@given(st.binary(max_size=400))
def test_noise_raises_nothing_but_our_own_error(data: bytes) -> None:
    try:
        commitment.read_report(data, transfer_syntax=EXPLICIT)
    except DicomError:
        return


@given(st.data())
def test_a_cut_report_never_says_more(data: st.DataObject) -> None:
    committed, failed = [(CT, "1.2.3"), (CT, "1.2.4")], {(CT, "1.2.5"): 0x0112}
    whole = encoded(report(committed, dict(failed)))
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        read = commitment.read_report(whole[:cut], transfer_syntax=EXPLICIT)
    except DicomError:
        return
    assert read.committed <= set(committed)
    assert read.failed.items() <= failed.items()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"sop_instance_uid": "1.2.3"}, 0x0112),
        ({"type_id": 3}, 0x0113),
        ({"type_id": 0}, 0x0113),
        ({"data": b"noise"}, 0x0115),
        ({"data": b""}, 0x0115),
    ],
)
def test_an_event_that_cannot_be_taken_has_a_status(change: dict[str, object], status: int) -> None:
    usual = {
        "data": encoded(report([(CT, "1.2.3")])),
        "sop_instance_uid": commitment.SOP_INSTANCE,
        "type_id": 1,
    }
    assert commitment.read_event(**usual, transfer_syntax=EXPLICIT).committed  # type: ignore[arg-type]
    with pytest.raises(commitment.RefusedEvent) as refused:
        commitment.read_event(**usual | change, transfer_syntax=EXPLICIT)  # type: ignore[arg-type]
    assert refused.value.status == status


def test_reasons_are_worded() -> None:
    assert commitment.reason_words(0x0112) == "0112, no such object instance"
    assert commitment.reason_words(0x1234).startswith("1234, a reason that the Standard")
