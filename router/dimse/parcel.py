"""One data set on its way out: what it is, how it is read and hashed, and what became of it.

Reads what it is given and sends nothing. What is wrong with it is said as `Damaged` (for good) or
`Unreadable` (for now).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from router.dicom.errors import DicomError
from router.dimse.commands import Response
from router.dimse.errors import DimseError


class Readable(Protocol):
    """Anything that fills a buffer: a file, or bytes made on the way."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` as far as possible and return how many bytes that were; 0 at the end."""
        ...


class Damaged(Exception):
    """The parcel is not what it should be; nothing of it counts as sent."""


class Unreadable(Exception):
    """The parcel could not be read to its end, which is our storage's fault (`__cause__`)."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One data set to store. `intact` is asked with the SHA-256 of what leaves, before its last
    block leaves."""

    sop_class_uid: str
    sop_instance_uid: str
    context_id: int
    size: int
    stream: Readable
    intact: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a parcel: an answer, or why there is none.

    `begun` tells whether a byte may have left, `complete` whether the last one had. After a
    `failure` the association is over.
    """

    response: Response | None
    failure: DimseError | None
    begun: bool
    complete: bool
    bytes_sent: int
    egress_sha256: str | None


class Reading:
    """A parcel as it is read: its blocks in order, each hashed before it is given out."""

    def __init__(self, parcel: Parcel, blocks: Iterator[tuple[memoryview, bool]]) -> None:
        self.parcel, self._blocks, self._digest = parcel, blocks, hashlib.sha256()
        self._ahead: list[tuple[memoryview, bool]] = []

    def begin(self) -> None:
        """Read the first block ahead of its turn."""
        self._ahead.append(self._next())

    def __iter__(self) -> Iterator[tuple[memoryview, bool]]:
        last = False
        while not last:
            block, last = self._ahead.pop() if self._ahead else self._next()
            yield block, last

    def _next(self) -> tuple[memoryview, bool]:
        block, last = next(self._blocks)
        self._digest.update(block)
        return block, last

    def sha256(self) -> str:
        """Return the hash of what was given out."""
        return self._digest.hexdigest()


def fill(stream: Readable, buffer: bytearray) -> memoryview:
    """Return `buffer` filled from `stream` as far as that goes.

    Raises:
        Damaged, Unreadable.
    """
    view, got = memoryview(buffer), 0
    while got < len(view):
        try:
            more = stream.readinto(view[got:])
        except OSError as error:
            raise Unreadable(error.strerror or "input error") from error
        except DicomError as error:
            raise Damaged(str(error)) from error
        if not more:
            break
        got += more
    return view[:got]
