"""multipart/related (RFC 2387, PS3.18 8.6.1): the framing of a body, and the first part of another.

A body is framed part by part as it is written, and read as it comes: none is ever held whole. It
chooses no boundary and opens nothing.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from router.dicom.errors import DicomError

MOST_HEAD_BYTES: Final = 1 << 16
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)


class MalformedMultipart(DicomError):
    """A body that is not what its content type says."""


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands around the parts of a body; `boundary` must occur in none of them."""

    boundary: str
    media_type: str = "application/dicom"

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header."""
        return f'multipart/related; type="{self.media_type}"; boundary={self.boundary}'

    @property
    def before(self) -> bytes:
        """What stands before each part."""
        return f"--{self.boundary}\r\nContent-Type: {self.media_type}\r\n\r\n".encode("ascii")

    @property
    def after(self) -> bytes:
        """What stands after each part."""
        return b"\r\n"

    @property
    def end(self) -> bytes:
        """What stands after the last part."""
        return f"--{self.boundary}--\r\n".encode("ascii")

    def length(self, sizes: Iterable[int]) -> int:
        """Return the length of a body whose parts have these `sizes`."""
        around = len(self.before) + len(self.after)
        return sum(around + size for size in sizes) + len(self.end)


def boundary_of(content_type: str) -> str | None:
    """Return the boundary that a Content-Type header names, None where it is no multipart."""
    if not content_type.lstrip().lower().startswith("multipart/"):
        return None
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]) if found else None


def first_part(pieces: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """Yield the content of the first part of a body that comes in `pieces` of any size.

    Raises:
        MalformedMultipart: there is no part, its head is too long, or it does not end.
    """
    coming = iter(pieces)
    delimiter = b"--" + boundary.encode("latin-1")
    rest = _past(delimiter, b"", coming)
    rest = _past(b"\r\n\r\n", rest, coming)
    yield from _until(b"\r\n" + delimiter, rest, coming)


def _past(mark: bytes, held: bytes, coming: Iterator[bytes]) -> bytes:
    """Return what is at hand behind `mark`."""
    while (at := held.find(mark)) < 0:
        piece = next(coming, None)
        if piece is None or len(held) > MOST_HEAD_BYTES:
            raise MalformedMultipart("the answer is no whole multipart body")
        held += piece
    return held[at + len(mark) :]


def _until(mark: bytes, held: bytes, coming: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what comes before `mark`; what may be its beginning is held back."""
    while (at := held.find(mark)) < 0:
        safe = len(held) - len(mark) + 1
        if safe > 0:
            yield held[:safe]
            held = held[safe:]
        piece = next(coming, None)
        if piece is None:
            raise MalformedMultipart("the answer ends inside a part")
        held += piece
    if at:
        yield held[:at]
