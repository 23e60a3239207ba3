"""A data set as a stream: element headers and values, read in order and counted (PS3.5 7.1).

Holds one element header or one chunk of a value at a time. Knows no sequences: what an element
means to the structure is for who reads.
"""

import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from router.dicom.errors import DicomError

CHUNK_BYTES = 1 << 18
MOST_INFLATED_BYTES = 2 << 30
SUSPECT_INFLATED_BYTES = 256 << 20
SUSPECT_RATIO = 100

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
KNOWN_VRS = LONG_VRS | frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
ARRAY_CODES = {2: "H", 4: "I", 8: "Q"}


class TranscodeError(DicomError):
    """The data set cannot be re-encoded; the text says why and where, without its values."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Element:
    """The header of one element or delimiter: `vr` is empty where the encoding names none."""

    tag: int
    vr: bytes
    length: int


class Inflated:
    """A raw deflate stream (PS3.5 A.5) read as what it inflates to, within limits."""

    def __init__(self, source: Readable) -> None:
        self._source, self._inflate = source, zlib.decompressobj(-zlib.MAX_WBITS)
        self._taken, self._given = 0, 0

    def read(self, size: int, /) -> bytes:
        """Return up to `size` inflated bytes, none at the end."""
        got = b""
        while not got and size and not self._inflate.eof:
            held = self._inflate.unconsumed_tail
            more = held or self._source.read(CHUNK_BYTES)
            got = self._step(more, size)
            if not more and not got and not self._inflate.eof:
                raise TranscodeError("the deflated data set ends too soon")
            self._taken += 0 if held else len(more)
        self._given += len(got)
        self._limit()
        return got

    def _step(self, more: bytes, size: int) -> bytes:
        try:
            return self._inflate.decompress(more, size)
        except zlib.error as error:
            raise TranscodeError("the deflated data set cannot be inflated") from error

    def _limit(self) -> None:
        too_dense = self._given > SUSPECT_RATIO * max(1, self._taken)
        if self._given > MOST_INFLATED_BYTES or (
            self._given > SUSPECT_INFLATED_BYTES and too_dense
        ):
            raise TranscodeError("the deflated data set inflates beyond what is allowed")


class Reader:
    """Reads element headers and values, counting where it is."""

    def __init__(self, source: Readable, *, is_little: bool, is_explicit: bool) -> None:
        self._source, self.is_little, self.is_explicit = source, is_little, is_explicit
        self.at = 0
        order = "<" if is_little else ">"
        self._tag, self._long, self._short = (struct.Struct(order + f) for f in ("HH", "I", "H"))

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        got = self.some(size)
        while len(got) < size:
            more = self.some(size - len(got))
            if not more:
                raise TranscodeError(f"the data set ends too soon, at byte {self.at}")
            got += more
        return got

    def some(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end."""
        got = self._source.read(size)
        self.at += len(got)
        return got

    def header(self) -> Element | None:
        """Return the next element header, None at the end of the data."""
        first = self.some(1)
        if not first:
            return None
        group, element = self._tag.unpack(first + self.take(3))
        tag = group << 16 | element
        if group == 0xFFFE or not self.is_explicit:
            return Element(tag, b"", self._number(self._long))
        return self._explicit(tag)

    def _explicit(self, tag: int) -> Element:
        vr = self.take(2)
        if vr not in KNOWN_VRS:
            raise TranscodeError(f"the value representation of {name_of(tag)} is unknown")
        if vr not in LONG_VRS:
            return Element(tag, vr, self._number(self._short))
        self.take(2)
        return Element(tag, vr, self._number(self._long))

    def _number(self, form: struct.Struct) -> int:
        return int(form.unpack(self.take(form.size))[0])

    def value(self, length: int, *, unit: int) -> Iterator[bytes]:
        """Yield `length` bytes of a value; units of `unit` bytes become little endian."""
        while length:
            part = self.take(min(length, CHUNK_BYTES))
            length -= len(part)
            yield part if self.is_little or unit == 1 else _turned(part, unit)


class Rest:
    """What a reader has still to read, as a stream, so that its count stays right."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        return self._reader.some(size)


def _turned(part: bytes, unit: int) -> bytes:
    if len(part) % unit:
        raise TranscodeError("a number is cut short")
    numbers = array(ARRAY_CODES[unit], part)
    numbers.byteswap()
    return numbers.tobytes()


def name_of(tag: int) -> str:
    """Return a tag as the Standard writes it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
