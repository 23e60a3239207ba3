"""A synthetic Secondary Capture that nobody can mistake for a patient's (PS3.3 A.8.1).

Made anew each time under one study and one series of its own, so that all of them are found, and
removed, together.
"""

import hashlib
import io
from datetime import UTC, datetime
from uuid import uuid4

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from router import dimse
from router.dicom.transcode import reencode

STUDY = "2.25.184537420911463906128837055174190265912"
SERIES = "2.25.184537420911463906128837055174190265913"
SIDE = 64
SOP_CLASS = str(SecondaryCaptureImageStorage)


def parcel(context_id: int, transfer_syntax: str) -> dimse.Parcel:
    """Return a new test object as a parcel in one of the uncompressed little endian syntaxes."""
    uid = f"2.25.{uuid4().int}"
    data = _encoded(_data_set(uid), transfer_syntax)
    digest = hashlib.sha256(data).hexdigest()
    return dimse.Parcel(
        SOP_CLASS, uid, context_id, len(data), io.BytesIO(data), lambda sha256: sha256 == digest
    )


def _data_set(uid: str) -> Dataset:
    now = datetime.now(UTC)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASS, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.PatientName, ds.PatientID = "TEST^DICOM ROUTER^^^", "ROUTER-TEST"
    ds.PatientBirthDate, ds.PatientSex = "", ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = f"{now:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = f"{now:%H%M%S}"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "ROUTER-TEST", "TEST", ""
    ds.StudyDescription = ds.SeriesDescription = "TEST OBJECT - NO PATIENT"
    ds.Modality, ds.ConversionType, ds.SeriesNumber, ds.InstanceNumber = "OT", "SYN", "1", "1"
    ds.Manufacturer, ds.ImageType = "DICOM Router", ["DERIVED", "SECONDARY", "TEST"]
    ds.BurnedInAnnotation, ds.PatientOrientation = "NO", ""
    _draw(ds)
    return ds


def _draw(ds: Dataset) -> None:
    """A chessboard."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = SIDE
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes(
        255 * ((row // 8 + column // 8) % 2) for row in range(SIDE) for column in range(SIDE)
    )
    ds["PixelData"].VR = "OB"


def _encoded(ds: Dataset, transfer_syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    explicit = buffer.getvalue()
    if transfer_syntax == ExplicitVRLittleEndian:
        return bytes(explicit)
    stored = str(ExplicitVRLittleEndian)
    return b"".join(reencode(io.BytesIO(explicit), stored=stored, wanted=UID(transfer_syntax)))
