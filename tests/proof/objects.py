"""Made objects for the proofs: small, lawful and all different, in Explicit VR Little Endian."""

import hashlib
from collections.abc import Sequence
from itertools import count
from uuid import uuid4

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.senders import RawObject

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"

_numbers = count(1)


def new_uid() -> str:
    """Return a UID that nothing else has."""
    return f"2.25.{uuid4().int}"


def dataset(*, study: str = "", series: str = "", pixels: int = 2048, **values: object) -> Dataset:
    """Return a CT image whose bytes are like no other's; `values` by keyword."""
    number = next(_numbers)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, new_uid()
    ds.StudyInstanceUID = study or new_uid()
    ds.SeriesInstanceUID = series or new_uid()
    ds.StudyDate, ds.Modality, ds.PatientID = "20260102", "CT", f"P{ds.StudyInstanceUID[-12:]}"
    ds.InstanceNumber = number
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, pixels // 64, 16, 12, 11
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds.add_new("PixelData", "OW", number.to_bytes(4, "little") * (pixels // 4))
    return ds


def raw(ds: Dataset) -> RawObject:
    """Return a data set as the bytes that leave."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    data = bytes(buffer.getvalue())
    return RawObject(data, str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT_LITTLE)


def study_of(size: int, *, pixels: int = 2048, study: str = "") -> list[RawObject]:
    """Return the objects of one study in one series."""
    study, series = study or new_uid(), new_uid()
    return [raw(dataset(study=study, series=series, pixels=pixels)) for _ in range(size)]


def hashes(objects: Sequence[RawObject]) -> dict[str, str]:
    """Return SHA-256 of the data set by SOP Instance UID."""
    return {one.sop_instance_uid: hashlib.sha256(one.data).hexdigest() for one in objects}
