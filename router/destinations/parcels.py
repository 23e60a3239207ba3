"""A stored object made ready for one association: as it is, or re-encoded on the way out.

Opens, reads and hashes; sends nothing. What is wrong with the stored file is said as `Damaged` (for
good) or `Unreadable` (for now).
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, cast

from router import dimse
from router.destinations.base import Outgoing
from router.dicom.transcode import Readable, reencode

READ_BYTES = 1 << 16


@contextmanager
def parcel(
    item: Outgoing, context_id: int, transfer_syntax: str, *, padded: bool = False
) -> Iterator[dimse.Parcel]:
    """Open `item` and give it as a parcel that leaves in `transfer_syntax`; close it at the end.

    With `padded` it leaves as stored and with one zero byte more.

    Raises:
        dimse.Damaged: the file is missing. dimse.Unreadable: it cannot be opened.
    """
    with _opened(item) as file:
        stream: dimse.Readable
        copy: _Copy | None
        if padded:
            stream = copy = _Copy(file, _with_zero)
        elif transfer_syntax == item.transfer_syntax:
            # Every binary file has readinto; typing.BinaryIO does not say so.
            stream, copy = cast(dimse.Readable, file), None
        else:
            turn = partial(reencode, stored=item.transfer_syntax, wanted=transfer_syntax)
            stream = copy = _Copy(file, turn)

        def is_intact(egress_sha256: str) -> bool:
            stored_sha256 = egress_sha256 if copy is None else copy.stored_sha256()
            return stored_sha256 == item.sha256

        yield dimse.Parcel(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            context_id=context_id,
            size=item.size,
            stream=stream,
            intact=is_intact,
        )


def _opened(item: Outgoing) -> BinaryIO:
    try:
        file = item.open()
        file.seek(item.offset)
    except FileNotFoundError as error:
        raise dimse.Damaged("it is missing from the storage") from error
    except OSError as error:
        raise dimse.Unreadable(error.strerror or "input error") from error
    return file


def _with_zero(source: Readable) -> Iterator[bytes]:
    while part := source.read(READ_BYTES):
        yield part
    yield b"\0"


class _Copy:
    """A stored data set, read and hashed as it is stored and given out as `turn` makes it."""

    def __init__(self, file: BinaryIO, turn: Callable[[Readable], Iterator[bytes]]) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._parts, self._rest = turn(self), memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Return up to `size` stored bytes."""
        try:
            got = self._file.read(size)
        except OSError as error:
            raise dimse.Unreadable(error.strerror or "input error") from error
        self._digest.update(got)
        return got

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with what `turn` made."""
        if not self._rest:
            self._rest = memoryview(next(self._parts, b""))
        moved = min(len(buffer), len(self._rest))
        buffer[:moved] = self._rest[:moved]
        self._rest = self._rest[moved:]
        return moved

    def stored_sha256(self) -> str:
        """Return the hash of all that is stored, once everything was given out."""
        while self.read(READ_BYTES):
            continue
        return self._digest.hexdigest()
