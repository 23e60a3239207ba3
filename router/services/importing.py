"""Import files: through the same door as C-STORE, resumable, with a reason for each refusal."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from router.dicom import part10
from router.dicom.errors import DicomError
from router.dicom.header import read_header
from router.dicom.part10 import FileMeta
from router.dicom.uids import valid_uid
from router.models import Instance
from router.services import archive, associations, audit, indexer
from router.services.actors import Actor
from router.spool import AssociationFacts, Counts, Inbox, Spooled, SpoolFull

CHUNK = 1 << 20
BATCH = 200
MOST_SHOWN = 80


@dataclass
class ImportReport:
    """What became of the files of one import."""

    stored: int = 0
    known: int = 0
    refused: list[tuple[Path, str]] = field(default_factory=list)


class NotTaken(Exception):
    """A file that is not imported, with the reason."""


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield every file named or below a named folder, in a fixed order.

    DICOMDIR is left out, and a link to a folder is not followed: it may lead in circles.
    """
    for path in paths:
        if path.is_dir():
            yield from _entries(path)
        elif path.name.upper() != "DICOMDIR":
            yield path


def _entries(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        yield folder  # opening it fails in the same way, and that is the reason reported
    else:
        yield from files_below(e for e in entries if not (e.is_symlink() and e.is_dir()))


def run(
    paths: Iterable[Path], *, calling_ae: str, actor: Actor
) -> Iterator[tuple[Path, ImportReport]]:
    """Import files, yielding after each with the report so far.

    What is stored already with the same bytes is passed over, so an import that was cut may simply
    be run again.

    Args:
        paths: files.
        calling_ae: the AE title that rules see.
        actor: who imports.
    """
    facts = AssociationFacts(
        id=uuid.uuid4().hex,
        origin="import",
        calling_ae=calling_ae,
        called_ae=settings.AE_TITLE,
        remote_host="",
        remote_port=0,
        source=None,
        duplicates="quarantine",
        started_at=datetime.now(UTC),
        user=actor.name,
    )
    inbox, report, chunk = archive.spool().open_inbox(facts), ImportReport(), []
    try:
        for path in paths:
            spooled = _take(inbox, path, report)
            if spooled is not None:
                chunk.append(spooled)
                report.stored += 1
            if len(chunk) >= BATCH:
                indexer.index_all(chunk)
                chunk = []
            yield path, report
    finally:
        indexer.index_all(chunk)
        _finish(inbox, facts, report, actor)


def _finish(inbox: Inbox, facts: AssociationFacts, report: ImportReport, actor: Actor) -> None:
    inbox.closed(datetime.now(UTC), "imported", Counts(objects=report.stored))
    associations.end_association(associations.Closed(facts, "imported", datetime.now(UTC), 0))
    inbox.remove_if_empty()
    audit.record(
        "import",
        actor=actor,
        code="import",
        details={
            "stored": report.stored,
            "known": report.known,
            "refused": len(report.refused),
        },
    )


def _take(inbox: Inbox, path: Path, report: ImportReport) -> Spooled | None:
    try:
        if not path.is_file():
            raise NotTaken("not a regular file, or not readable")
        with path.open("rb") as file:
            meta = _meta(file)
            if _is_known(file, meta):
                report.known += 1
                return None
            return _receive(inbox, file, meta)
    except SpoolFull:
        raise
    except (DicomError, archive.Refused, NotTaken, OSError) as error:
        report.refused.append((path, str(error)))
        return None


def _meta(file: BinaryIO) -> FileMeta:
    """Return the file meta, completed from the data set when the file has none."""
    meta = part10.read_meta(file)
    size = file.seek(0, 2) - meta.offset
    if not meta.sop_instance_uid or not meta.sop_class_uid:
        header = read_header(
            file, offset=meta.offset, size=size, transfer_syntax=meta.transfer_syntax
        )
        meta = replace(
            meta,
            sop_class_uid=meta.sop_class_uid or header.text("SOPClassUID"),
            sop_instance_uid=meta.sop_instance_uid or header.text("SOPInstanceUID"),
        )
    for name, uid in (("SOP Class", meta.sop_class_uid), ("SOP Instance", meta.sop_instance_uid)):
        if not valid_uid(uid):
            raise NotTaken(_wrong(name, uid))
    return meta


def _wrong(name: str, uid: str) -> str:
    """Say what is wrong with a UID, and what one is (PS3.5 9.1)."""
    if not uid:
        return f"it has no {name} UID, neither in its file meta nor in its data set"
    shown = uid if len(uid) <= MOST_SHOWN else f"{uid[:MOST_SHOWN]}…"
    return f"its {name} UID {shown!a} is not a UID: numbers between dots, 64 characters at most"


def _is_known(file: BinaryIO, meta: FileMeta) -> bool:
    stood = Instance.objects.kept().filter(
        sop_instance_uid=meta.sop_instance_uid, transfer_syntax_uid=meta.transfer_syntax
    )
    hashes = set(stood.values_list("sha256", flat=True))
    return bool(hashes) and _digest(file, meta.offset) in hashes


def _digest(file: BinaryIO, offset: int) -> str:
    found = hashlib.sha256()
    file.seek(offset)
    while chunk := file.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def _receive(inbox: Inbox, file: BinaryIO, meta: FileMeta) -> Spooled:
    incoming = inbox.create(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax=meta.transfer_syntax,
    )
    file.seek(meta.offset)
    while chunk := file.read(CHUNK):
        incoming.write(memoryview(chunk))
    return archive.receive(
        incoming, sop_class_uid=meta.sop_class_uid, sop_instance_uid=meta.sop_instance_uid
    )
