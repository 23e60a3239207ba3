"""Reading back what was written to a folder: is the file there, with the same data set?

Looks at files and makes none. What a file holds is its data set and transfer syntax; our file meta
does not count.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from router.destinations import placing
from router.destinations.base import Confirmation, Context, Outgoing, Presence
from router.dicom import part10
from router.dicom.errors import DicomError

BLOCK_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Stopped(Exception):
    """We are to stop."""


def look_up(item: Outgoing, path: PurePosixPath, context: Context, *, root: Path) -> Confirmation:
    """Say whether `item` lies at `path` below `root`, or under a number beside it."""
    try:
        with placing.existing(root, path.parts[:-1]) as opened:
            state, detail = _found(item, opened, path.name, context)
    except FileNotFoundError:
        state, detail = _nothing_at(root)
    except placing.Outside as error:
        state, detail = "unknown", f"Its path is not below {root} any more: {error}."
    except OSError as error:
        # The path of the file stays out of the sentence: it may hold the patient's id.
        state, detail = "unknown", f"{root} cannot be read: {error.strerror or 'input error'}."
    except _Stopped:
        state, detail = "unknown", "The reading was stopped on our side."
    return Confirmation(item.item_id, state, detail)


def _nothing_at(root: Path) -> tuple[Presence, str]:
    """A folder that is gone as a whole may be a volume that is not mounted."""
    if root.is_dir():
        return "absent", "There is no file at its path."
    return "unknown", f"{root} is not there."


def _found(item: Outgoing, opened: int, name: str, context: Context) -> tuple[Presence, str]:
    others = 0
    for version in placing.versions(name):
        try:
            descriptor = os.open(version, _READ, dir_fd=opened)
        except FileNotFoundError:
            break
        with os.fdopen(descriptor, "rb") as file:
            if holds(item, file, look_up=lambda: _heed(context)):
                return "present", "It was read back unchanged."
        others += 1
    if others:
        return "different", "Its path holds another object."
    return "absent", "There is no file at its path."


def _heed(context: Context) -> None:
    context.progress(0)
    if context.abort():
        raise _Stopped


def holds(item: Outgoing, file: BinaryIO, *, look_up: Callable[[], None] = lambda: None) -> bool:
    """Tell whether an open file holds the same data set in the same syntax; `look_up` is called
    between blocks."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return False
    try:
        meta = part10.read_meta(file)
    except DicomError:
        return False
    if meta.transfer_syntax != item.transfer_syntax:
        return False
    file.seek(meta.offset)
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        look_up()
        digest.update(block)
    return digest.hexdigest() == item.sha256
