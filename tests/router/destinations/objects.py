"""Stored objects for the tests of senders: Part 10 files of ours, from real files or made."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from router.destinations.base import Outgoing
from router.dicom import header, part10
from router.dicom.errors import DicomError

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
J2K = "1.2.840.10008.1.2.4.90"
RECEIVED = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SHIPPED = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "JPEG2000.dcm",
    "JPEG-lossy.dcm",
    "image_dfl.dcm",
    "reportsi.dcm",
    "rtplan.dcm",
    "nested_priv_SQ.dcm",
)


def _project() -> Path:
    return Path(__file__).resolve().parents[3]


@cache
def real_files() -> tuple[Path, ...]:
    """Files with a SOP Instance UID, one for each UID: the folder of real data, else pydicom's."""
    folder = Path(os.environ.get("ROUTER_TEST_DATA", _project().parent / "shared/data/real"))
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    found += [Path(str(get_testdata_file(name, download=False))) for name in SHIPPED]
    by_uid: dict[str, Path] = {}
    for path in found:
        uid = _uid(path)
        if uid:
            by_uid.setdefault(uid, path)
    return tuple(by_uid.values())


def _uid(path: Path) -> str:
    """Return the SOP Instance UID of the file meta, nothing where a part of it is missing."""
    try:
        with path.open("rb") as file:
            meta = part10.read_meta(file)
    except DicomError:
        return ""
    whole = meta.sop_instance_uid and meta.sop_class_uid and meta.transfer_syntax
    return meta.sop_instance_uid if whole else ""


def stored(path: Path, folder: Path, *, item_id: int = 1) -> Outgoing:
    """Store the file `path` below `folder` as the router would, and return it as an item."""
    with path.open("rb") as file:
        meta = part10.read_meta(file)
        file.seek(meta.offset)
        data = file.read()
    uids = meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax
    return kept(data, folder, uids=uids, item_id=item_id)


def made(folder: Path, *, item_id: int = 1, syntax: str = EXPLICIT, **values: object) -> Outgoing:
    """Make a small CT object with `values` by keyword, and store it."""
    ds = Dataset()
    ds.SOPClassUID = CT
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.77.{item_id}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    ds.StudyDate, ds.Modality, ds.PatientID = "20260102", "CT", "P1"
    ds.PixelData = bytes(256)
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax
    with warnings.catch_warnings(action="ignore"):  # pydicom's, about what a test does on purpose
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        return kept(encoded(ds, syntax), folder, uids=uids, item_id=item_id)


def encoded(ds: Dataset, syntax: str) -> bytes:
    """Return `ds` as bytes in a transfer syntax without deflation."""
    ds["PixelData"].VR = "OW"
    buffer = DicomBytesIO()
    buffer.is_little_endian = UID(syntax).is_little_endian
    buffer.is_implicit_VR = UID(syntax).is_implicit_VR
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def kept(
    data: bytes,
    folder: Path,
    *,
    uids: tuple[str, str, str],
    item_id: int,
    sha256: str = "",
    opener: Callable[[], io.BufferedReader] | None = None,
) -> Outgoing:
    """Store `data` and return it as an item; `sha256` may claim another hash."""
    sop_class_uid, sop_instance_uid, syntax = uids
    meta = part10.file_meta(
        sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, transfer_syntax=syntax
    )
    path = folder / f"{item_id}.stored"
    path.write_bytes(meta + data)

    def read() -> header.Header:
        with path.open("rb") as file:
            return header.read_header(
                file, offset=len(meta), size=len(data), transfer_syntax=syntax
            )

    return Outgoing(
        item_id=item_id,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax=syntax,
        sha256=sha256 or hashlib.sha256(data).hexdigest(),
        size=len(data),
        offset=len(meta),
        open=opener or (lambda: path.open("rb")),
        header=read,
        received_at=RECEIVED,
        source="ct-1",
    )


def pixels_of(data: bytes, syntax: str) -> Dataset:
    """Read data set bytes with pydicom."""
    meta = part10.file_meta(sop_class_uid=CT, sop_instance_uid="1.2", transfer_syntax=syntax)
    return pydicom.dcmread(io.BytesIO(meta + data))
