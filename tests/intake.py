"""An archive of a test's own: spool and storage in a temporary folder, and objects to put there.

Objects come in as through any door: spooled, examined, durable in the inbox. Nothing is replaced.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from router.dicom import part10
from router.services import archive
from router.spool import AssociationFacts, Inbox, Spool, Spooled
from tests.receivers import CT, EXPLICIT_LITTLE
from tests.senders import RawObject

ROOT = "1.2.826.0.1.3680043.10.77"
_LONG = frozenset({"OB", "OW", "SQ", "UN", "UT", "UC", "UR"})


@dataclass(frozen=True)
class Site:
    """Where objects come in and where they end."""

    spool: Spool
    objects: Path

    def inbox(self, **facts: Any) -> Inbox:  # Any: the fields of AssociationFacts
        """Return the inbox of a new association."""
        return self.spool.open_inbox(make_facts(**facts))

    def take(
        self, *objects: RawObject, inbox: Inbox | None = None, **facts: Any
    ) -> list[Spooled]:  # Any: as above
        """Acknowledge objects: they lie in an inbox and are not indexed yet."""
        into = inbox or self.inbox(**facts)
        return [acknowledge(into, item) for item in objects]

    def stored(self) -> list[Path]:
        """Return the files in their final place."""
        return sorted(self.objects.rglob("*.dcm"))

    def waiting(self) -> list[Path]:
        """Return the files of all inboxes."""
        return sorted((self.spool.root / "inbox").glob("*/*.dcm"))


def make_facts(**fields: Any) -> AssociationFacts:  # Any: as above
    """Return the facts of a new association of CT1."""
    usual = {
        "id": uuid.uuid4().hex,
        "origin": "dimse",
        "calling_ae": "CT1",
        "called_ae": "DICOMROUTER",
        "remote_host": "127.0.0.1",
        "remote_port": 40000,
        "source": "ct-1",
        "duplicates": "quarantine",
        "started_at": datetime.now(UTC),
    }
    return AssociationFacts(**{**usual, **fields})


def acknowledge(inbox: Inbox, item: RawObject) -> Spooled:
    """Bring one object into an inbox through the one door."""
    incoming = inbox.create(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    incoming.write(memoryview(item.data))
    return archive.receive(
        incoming, sop_class_uid=item.sop_class_uid, sop_instance_uid=item.sop_instance_uid
    )


def image(
    number: int = 1, *, study: int = 1, series: int = 1, salt: int = 0, **values: Any
) -> RawObject:  # Any: text, bytes or None
    """Return a small CT object in Explicit VR Little Endian.

    Args:
        number: the last part of its SOP Instance UID.
        study: the last part of its Study Instance UID.
        series: the last part of its Series Instance UID.
        salt: another one gives other pixels.
        values: further elements by keyword, as text or as the very bytes; ``None`` leaves out.
    """
    uid = f"{ROOT}.3.{number}"
    elements: dict[str, str | bytes | None] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": uid,
        "Modality": "CT",
        "StudyInstanceUID": f"{ROOT}.1.{study}",
        "SeriesInstanceUID": f"{ROOT}.2.{study}.{series}",
        "InstanceNumber": str(number),
        "Rows": (4).to_bytes(2, "little"),
        "Columns": (4).to_bytes(2, "little"),
        "BitsAllocated": (16).to_bytes(2, "little"),
        "PixelData": bytes([salt]) * 32,
        **values,
    }
    tagged = {_tag(name): (name, value) for name, value in elements.items() if value is not None}
    data = b"".join(_element(tag, *tagged[tag]) for tag in sorted(tagged))
    return RawObject(data, CT, uid, EXPLICIT_LITTLE)


def part10_file(path: Path, item: RawObject, *, with_meta: bool = True) -> Path:
    """Write an object as a file, as another product would."""
    meta = part10.file_meta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((meta if with_meta else b"") + item.data)
    return path


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


def _element(tag: int, keyword: str, value: str | bytes) -> bytes:
    vr = "OW" if keyword == "PixelData" else dictionary_VR(tag).split(" ")[0]
    raw = value if isinstance(value, bytes) else value.encode("latin-1")
    raw += (b"\0" if vr in {"UI", "OB", "OW"} else b" ") * (len(raw) % 2)
    head = tag.to_bytes(4, "little")
    head = head[2:] + head[:2] + vr.encode()
    if vr in _LONG:
        return head + b"\0\0" + len(raw).to_bytes(4, "little") + raw
    return head + len(raw).to_bytes(2, "little") + raw
