"""File meta: ours against pydicom's reader, theirs against ours."""

import io
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom import part10, uids
from router.dicom.errors import DicomError, MalformedDataSet
from tests.corpus import whole_files

UIDS = st.from_regex(r"[1-9]{1,5}(\.[1-9][0-9]{0,5}){1,8}", fullmatch=True)


@given(UIDS, UIDS, st.sampled_from([uids.IMPLICIT_LE, uids.EXPLICIT_LE, uids.EXPLICIT_BE]))
def test_pydicom_reads_our_file_meta(sop_class: str, instance: str, syntax: str) -> None:
    head = part10.file_meta(
        sop_class_uid=sop_class, sop_instance_uid=instance, transfer_syntax=syntax
    )
    assert head[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(io.BytesIO(head)).file_meta
    assert meta.FileMetaInformationGroupLength == len(head) - 144
    assert meta.MediaStorageSOPClassUID == sop_class
    assert meta.MediaStorageSOPInstanceUID == instance
    assert meta.TransferSyntaxUID == syntax
    assert meta.ImplementationVersionName == "DICOMROUTER_01"
    assert meta.ImplementationClassUID == part10.IMPLEMENTATION_CLASS_UID
    assert uids.conformant_uid(part10.IMPLEMENTATION_CLASS_UID)
    assert part10.read_meta(io.BytesIO(head)) == part10.FileMeta(
        sop_class, instance, syntax, len(head)
    )


@pytest.mark.parametrize("path", whole_files(), ids=lambda path: path.name)
def test_reads_the_meta_of_every_real_file(path: Path) -> None:
    meta = part10.read_meta(io.BytesIO(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, force=True)
    named = ds.file_meta.get("TransferSyntaxUID")
    if named is not None:
        assert meta.transfer_syntax == named
    assert meta.sop_instance_uid == ds.file_meta.get("MediaStorageSOPInstanceUID", "")


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (b"\x08\x00\x16\x00UI\x02\x001\x00", uids.EXPLICIT_LE),
        (b"\x00\x08\x00\x16UI\x00\x021\x00", uids.EXPLICIT_BE),
        (b"\x08\x00\x16\x00\x02\x00\x00\x001\x00", uids.IMPLICIT_LE),
    ],
)
def test_guesses_the_syntax_of_a_bare_data_set(data: bytes, syntax: str) -> None:
    assert part10.read_meta(io.BytesIO(data)) == part10.FileMeta("", "", syntax, 0)


@pytest.mark.parametrize("data", [b"", b"DICM", b"GIF89a" * 40, b"%PDF-1.7 and more", bytes(300)])
def test_what_is_no_dicom_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedDataSet):
        part10.read_meta(io.BytesIO(data))


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    try:
        offset = part10.read_meta(io.BytesIO(data)).offset
    except DicomError:
        return
    assert offset <= len(data)
