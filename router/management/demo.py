"""The demo: synthetic studies from four modalities, and a PACS on loopback that takes them.

Nothing here is a patient: names, ids and images are made up. Refuses to touch an installation
that has a configuration already.
"""

import hashlib
import io
import math
import random
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router.destinations import KINDS
from router.destinations.base import Context, Outgoing
from router.dicom import part10
from router.dicom.header import Header, read_header
from router.dicom.uids import EXPLICIT_LE

SIDE = 96
STUDIES_AT_START = 8
STUDIES_IN_ALL = 60
PAUSE_SECONDS = 20.0

CONFIGURATION = """\
version: 1
defaults: {{unmatched: hold, quiet: 10s, quiet_cap: 5m}}
sources:
  - {{name: ct-1, ae_title: CT1, hosts: [127.0.0.0/8]}}
  - {{name: mr-2, ae_title: MR2, hosts: [127.0.0.0/8]}}
  - {{name: us-3, ae_title: US3, hosts: [127.0.0.0/8]}}
  - {{name: xa-4, ae_title: XA4, hosts: [127.0.0.0/8]}}
  - {{name: anything-local, ae_title: "*", hosts: [127.0.0.0/8]}}
destinations:
  - {{name: demo-pacs, kind: dicom, host: 127.0.0.1, port: {port}, ae_title: DEMOPACS}}
  - name: demo-folder
    kind: folder
    path: "{folder}"
    layout: "{{StudyDate}}/{{StudyInstanceUID}}/{{SOPInstanceUID}}.dcm"
rules:
  - name: slices-to-pacs
    priority: 10
    state: live
    when: {{field: Modality, op: in, value: [CT, MR]}}
    send: [demo-pacs]
  - name: whole-ct-studies-to-folder
    priority: 20
    state: live
    on: study
    quiet: 10s
    when: {{field: Modality, op: equals, value: CT}}
    send: [demo-folder]
  - name: ultrasound-to-folder
    priority: 30
    state: live
    when:
      all:
        - {{field: Modality, op: equals, value: US}}
        - {{field: calling_ae, op: matches, value: "US*"}}
    send: [demo-folder]
  - name: everything-to-pacs-soon
    priority: 90
    state: shadow
    send: [demo-pacs]
"""

MODALITIES = {
    "CT1": ("CT", "1.2.840.10008.5.1.4.1.1.2", "Thorax", 20),
    "MR2": ("MR", "1.2.840.10008.5.1.4.1.1.4", "Knee", 16),
    "US3": ("US", "1.2.840.10008.5.1.4.1.1.6.1", "Abdomen", 3),
    "XA4": ("XA", "1.2.840.10008.5.1.4.1.1.12.1", "Coronary", 4),
}
FAMILY = ("Sample", "Phantom", "Example", "Specimen", "Demo", "Model")
GIVEN = ("Ada", "Grace", "Alan", "Marie", "Niels", "Rosalind")


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(port: int) -> str:
    """Return the demo's configuration for a PACS at ``port``; its folder is made."""
    folder = Path(settings.DATA_DIR) / "demo-out"
    folder.mkdir(parents=True, exist_ok=True)
    return CONFIGURATION.format(port=port, folder=folder)


def send_studies(stop: Callable[[float], bool]) -> None:
    """Send studies as modalities would: some at once, then one every 20 s, 60 at most."""
    chance = random.Random(20)  # noqa: S311 - made-up data
    for number in range(STUDIES_IN_ALL):
        calling_ae = list(MODALITIES)[number % len(MODALITIES)]
        _send(calling_ae, list(study(calling_ae, number, chance)))
        if stop(0.0 if number < STUDIES_AT_START else PAUSE_SECONDS):
            return


def study(calling_ae: str, number: int, chance: random.Random) -> Iterator[Dataset]:
    """Yield the instances of one made-up study."""
    modality, sop_class, region, count = MODALITIES[calling_ae]
    day = date.today() - timedelta(days=chance.randrange(3))  # noqa: DTZ011 - a made-up date
    common = {
        "StudyInstanceUID": _uid(),
        "SeriesInstanceUID": _uid(),
        "Modality": modality,
        "PatientName": f"{chance.choice(FAMILY)}^{chance.choice(GIVEN)}",
        "PatientID": f"DEMO{number:04d}",
        "PatientBirthDate": f"19{chance.randrange(30, 99)}0101",
        "PatientSex": chance.choice("FMO"),
        "AccessionNumber": f"A{10_000 + number}",
        "StudyDescription": f"{region} (synthetic)",
        "SeriesDescription": "Series 1",
        "StudyDate": f"{day:%Y%m%d}",
        "StudyTime": f"{chance.randrange(7, 19):02d}{chance.randrange(60):02d}00",
        "StudyID": str(number),
        "SeriesNumber": 1,
        "SOPClassUID": sop_class,
    }
    for index in range(count):
        ds = Dataset()
        for keyword, value in common.items():
            setattr(ds, keyword, value)
        ds.SOPInstanceUID = _uid()
        ds.InstanceNumber = index + 1
        _draw(ds, phase=index / count)
        yield ds


def _uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def _draw(ds: Dataset, *, phase: float) -> None:
    """Paint a ring that moves from image to image."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = SIDE
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    radius = SIDE * (0.2 + 0.25 * phase)
    middle = SIDE / 2
    ds.PixelData = bytes(
        max(0, 255 - int(12 * abs(math.hypot(x - middle, y - middle) - radius)))
        for y in range(SIDE)
        for x in range(SIDE)
    )


def _send(calling_ae: str, instances: list[Dataset]) -> None:
    form = KINDS["dicom"].form(
        {
            "host": "127.0.0.1",
            "port": settings.DIMSE_PORT,
            "ae_title": settings.AE_TITLE,
            "calling_ae": calling_ae,
        }
    )
    if not form.is_valid():
        raise ValueError(form.errors.as_text())
    items = [outgoing(number, ds) for number, ds in enumerate(instances)]
    for _result in KINDS["dicom"].sender(form.cleaned_data).send(items, Context()):
        pass


def outgoing(number: int, ds: Dataset) -> Outgoing:
    """Return a made-up instance in the form that senders take."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    data = buffer.getvalue()
    meta = part10.file_meta(
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax=EXPLICIT_LE,
    )
    return Outgoing(
        item_id=number,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        transfer_syntax=EXPLICIT_LE,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        offset=len(meta),
        open=partial(_file, meta + data),
        header=partial(_header, data),
        received_at=datetime.now(UTC),
        source="demo",
    )


def _file(content: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the sender, who closes it
    file.write(content)
    file.seek(0)
    return file


def _header(data: bytes) -> Header:
    return read_header(io.BytesIO(data), offset=0, size=len(data), transfer_syntax=EXPLICIT_LE)
