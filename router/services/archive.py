"""The one door in: receive an object, index it, and find its bytes again.

``receive`` makes an object durable in the inbox; ``index`` takes it into the ledger; ``opened``
reads it wherever it lies. Every entry point uses these, so routing, audit and policy cannot be
bypassed.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from router import storage
from router.dicom.header import Header, Structure, read_header
from router.models import Instance, Receipt
from router.services.indexing import index
from router.spool import Spool, Spooled, SpoolFile

__all__ = ["Refused", "header_of", "index", "opened", "receive", "settled", "spool"]

SETTLE_SECONDS = 2.0


class Refused(Exception):
    """An object whose data set is not what the sender claimed it to be."""


def spool() -> Spool:
    """Return the spool of this installation."""
    return Spool(settings.SPOOL_DIR)


def receive(
    incoming: SpoolFile,
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    permit: Callable[[SpoolFile], None] | None = None,
) -> Spooled:
    """Check an object that has arrived whole and make it durable in the inbox.

    Only after this returns may the sender be told Success.

    Args:
        incoming: the spooled data set, still under its temporary name.
        sop_class_uid: Affected SOP Class UID the sender claimed.
        sop_instance_uid: Affected SOP Instance UID the sender claimed.
        permit: asked last; raises ``Refused`` (or a kind of it) to turn the object away.

    Raises:
        MalformedDataSet: the structure ends early or its lengths lie; the bytes are dropped.
        Refused: the UIDs differ from the claim, or ``permit`` said no; the bytes are dropped.
        SpoolError: the disk could not take it; the bytes are dropped.
    """
    try:
        structure = incoming.examine()
        _compare(structure, sop_class_uid, sop_instance_uid)
        if permit is not None:
            permit(incoming)
        return incoming.commit()
    except BaseException:
        incoming.discard()
        raise


def _compare(structure: Structure, sop_class_uid: str, sop_instance_uid: str) -> None:
    """What is kept apart may not have been looked at as far as its UIDs."""
    unread = {None} if structure.quarantine else set()
    if structure.sop_class_uid not in unread | {sop_class_uid}:
        raise Refused("SOP Class UID differs between command and data set")
    if structure.sop_instance_uid not in unread | {sop_instance_uid}:
        raise Refused("SOP Instance UID differs between command and data set")


def opened(instance: Instance) -> BinaryIO:
    """Open an object's Part 10 file: in its final place, else in the inbox.

    Files move on meanwhile and never back, so the looks follow their way: first name, which one
    has again after a power cut until its inbox is adopted; name in the inbox; final place.

    Raises:
        FileNotFoundError: the bytes are in neither place.
    """
    with suppress(FileNotFoundError):
        return storage.objects().open(instance.location)
    for path in _inbox_paths(instance):
        with suppress(FileNotFoundError):
            return path.open("rb")
    return storage.objects().open(instance.location)


def stored_size(instance: Instance) -> int:
    """Return the length of an object's Part 10 file, wherever it is now; it looks as `opened` does.

    Raises:
        FileNotFoundError: the bytes are in neither place.
    """
    with suppress(FileNotFoundError):
        return storage.objects().size(instance.location)
    for path in _inbox_paths(instance):
        with suppress(FileNotFoundError):
            return path.stat().st_size
    return storage.objects().size(instance.location)


def _inbox_paths(instance: Instance) -> list[Path]:
    """Return the names under which an object's file may lie where it was received."""
    receipts = Receipt.objects.filter(uid=instance.file_id)
    folders = [
        Path(settings.SPOOL_DIR) / "inbox" / str(uid)
        for uid in receipts.values_list("association__uid", flat=True)
    ]
    names = (f"{instance.file_id}.part", f"{instance.file_id}.{instance.sha256}.dcm")
    return [folder / name for folder in folders for name in names]


def header_of(instance: Instance) -> Header:
    """Read the header of a stored object (up to its pixel data)."""
    with opened(instance) as file:
        return read_header(
            file,
            offset=instance.offset,
            size=instance.size,
            transfer_syntax=instance.transfer_syntax_uid,
        )


def settled(timeout: float = SETTLE_SECONDS) -> bool:
    """Wait until what was acknowledged before this call is indexed.

    Args:
        timeout: seconds to wait at most.

    Returns:
        False when time ran out first (the database is away, or a backlog is large).
    """
    waiting = acknowledged()
    limit = time.monotonic() + timeout
    while waiting:
        waiting = {path for path in waiting if path.exists()}
        if waiting and time.monotonic() > limit:
            return False
        if waiting:
            time.sleep(0.02)
    return True


def acknowledged() -> set[Path]:
    """Return the files of the inbox: acknowledged and not yet in their final place.

    An association's folder may go away while it is looked at; it was empty then.
    """
    inbox = Path(settings.SPOOL_DIR) / "inbox"
    return {
        Path(folder) / name
        for folder, _folders, names in os.walk(inbox)
        for name in names
        if name.endswith(".dcm")
    }
