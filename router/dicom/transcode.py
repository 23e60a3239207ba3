"""Re-encoding of a data set between the uncompressed transfer syntaxes (PS3.5 Annex A, 7.1).

One pass over the stream, in constant memory: element headers are written anew, values are copied
or, from big endian, turned around. Sequences and items leave with undefined length, group lengths
are dropped (PS3.5 7.2, 7.5), so the output depends on the input alone. Pixels are never decoded:
a data set with encapsulated pixel data is refused.
"""

import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from router.dicom.errors import DicomError

CHUNK_BYTES = 1 << 18
MOST_DEPTH = 64
MOST_INFLATED_BYTES = 2 << 30
SUSPECT_INFLATED_BYTES = 256 << 20
SUSPECT_RATIO = 100

SOURCES = frozenset(
    {
        str(ImplicitVRLittleEndian),
        str(ExplicitVRLittleEndian),
        str(ExplicitVRBigEndian),
        str(DeflatedExplicitVRLittleEndian),
    }
)
TARGETS = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA, PIXEL_REPRESENTATION = 0x7FE00010, 0x00280103
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
KNOWN_VRS = LONG_VRS | frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
UNIT_BYTES = {
    **dict.fromkeys((b"AT", b"OW", b"SS", b"US"), 2),
    **dict.fromkeys((b"FL", b"OF", b"OL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}
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


def reencode(source: Readable, *, stored: str, wanted: str) -> Iterator[bytes]:
    """Yield the data set `source`, encoded in `stored`, in chunks encoded in `wanted`.

    Raises:
        TranscodeError: either syntax is not of `SOURCES` and `TARGETS`, the pixel data is
            encapsulated, the structure is broken, or it inflates without bound.
    """
    if stored not in SOURCES or wanted not in TARGETS:
        raise TranscodeError(f"no way from transfer syntax {stored} to {wanted}")
    if stored == DeflatedExplicitVRLittleEndian:
        source = _Inflated(source)
    reader = _Reader(
        source,
        is_little=stored != ExplicitVRBigEndian,
        is_explicit=stored != ImplicitVRLittleEndian,
    )
    writer = _Writer(reader, is_explicit=wanted == ExplicitVRLittleEndian)
    yield from _gathered(writer.data_set())


class _Inflated:
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


class _Reader:
    """Reads element headers and values, counting where it is."""

    def __init__(self, source: Readable, *, is_little: bool, is_explicit: bool) -> None:
        self._source, self.is_little, self.is_explicit = source, is_little, is_explicit
        self.at = 0
        order = "<" if is_little else ">"
        self._tag, self._long, self._short = (struct.Struct(order + f) for f in ("HH", "I", "H"))

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        got = self._some(size)
        while len(got) < size:
            more = self._some(size - len(got))
            if not more:
                raise TranscodeError(f"the data set ends too soon, at byte {self.at}")
            got += more
        return got

    def _some(self, size: int) -> bytes:
        got = self._source.read(size)
        self.at += len(got)
        return got

    def header(self) -> Element | None:
        """Return the next element header, None at the end of the data."""
        first = self._some(1)
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
            raise TranscodeError(f"the value representation of {_name(tag)} is unknown")
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


class _Writer:
    """Walks what a reader reads and yields it in the wanted encoding; no recursion, so that
    depth costs nothing but a list."""

    def __init__(self, reader: _Reader, *, is_explicit: bool) -> None:
        self._reader, self._is_explicit = reader, is_explicit
        # One entry an open sequence or item: where it ends, and whether it is a sequence.
        self._open: list[tuple[int | None, bool]] = []
        self._is_signed = [False]

    def data_set(self) -> Iterator[bytes]:
        """Yield the whole data set."""
        while True:
            yield from self._close_finished()
            element = self._reader.header()
            if element is None:
                if self._open:
                    raise TranscodeError("the data set ends within a sequence")
                return
            self._check_end(element)
            yield from self._one(element)

    def _one(self, element: Element) -> Iterator[bytes]:
        in_sequence = bool(self._open) and self._open[-1][1]
        if element.tag in (ITEM_END, SEQUENCE_END):
            yield self._close(element.tag)
        elif in_sequence != (element.tag == ITEM):
            raise TranscodeError(f"{_name(element.tag)} stands where it may not")
        elif element.tag == ITEM:
            yield self._enter(element, is_sequence=False)
        elif self._is_sequence(element):
            yield self._header(element.tag, b"SQ", UNDEFINED)
            self._enter(element, is_sequence=True)
        elif element.vr == b"UN" and element.length == UNDEFINED:
            yield from self._unknown_sequence(element)
        else:
            yield from self._plain(element)

    def _is_sequence(self, element: Element) -> bool:
        if element.tag == PIXEL_DATA and element.length == UNDEFINED:
            raise TranscodeError("the pixel data is encapsulated")
        if element.vr:
            return element.vr == b"SQ"
        return element.length == UNDEFINED or _dictionary_vr(element.tag) == "SQ"

    def _plain(self, element: Element) -> Iterator[bytes]:
        if element.length == UNDEFINED:
            raise TranscodeError(f"{_name(element.tag)} has no defined length")
        if element.tag & 0xFFFF == 0:
            self._reader.take(element.length)
            return
        vr = element.vr or self._implied_vr(element.tag)
        yield self._header(element.tag, vr, element.length)
        for part in self._reader.value(element.length, unit=UNIT_BYTES.get(vr, 1)):
            if element.tag == PIXEL_REPRESENTATION:
                self._is_signed[-1] = part[:2] == b"\x01\x00"
            yield part

    def _unknown_sequence(self, element: Element) -> Iterator[bytes]:
        """UN of undefined length is a sequence in implicit little endian, whatever the data set
        is (PS3.5 6.2.2): walked as such and written as a sequence."""
        inner = _Reader(_Rest(self._reader), is_little=True, is_explicit=False)
        nested = _Writer(inner, is_explicit=self._is_explicit)
        nested._open = [(None, True)]
        nested._is_signed = [self._is_signed[-1]]
        if len(self._open) >= MOST_DEPTH:
            raise TranscodeError(f"sequences are nested deeper than {MOST_DEPTH}")
        yield self._header(element.tag, b"SQ", UNDEFINED)
        while nested._open:
            yield from nested._close_finished()
            found = inner.header()
            if found is None:
                raise TranscodeError("the data set ends within a sequence")
            nested._check_end(found)
            yield from nested._one(found)

    def _implied_vr(self, tag: int) -> bytes:
        named = _dictionary_vr(tag)
        if named in ("US or SS", "US or SS or OW", "US or OW"):
            if named != "US or SS":
                return b"OW"
            return b"SS" if self._is_signed[-1] else b"US"
        return b"OW" if named == "OB or OW" else named.encode()

    def _header(self, tag: int, vr: bytes, length: int) -> bytes:
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if not self._is_explicit:
            return head + struct.pack("<I", length)
        if vr not in LONG_VRS and length > 0xFFFF:
            vr = b"UN"  # PS3.5 6.2.2: too long for the sixteen bits of its own
        if vr in LONG_VRS:
            return head + vr + struct.pack("<HI", 0, length)
        return head + vr + struct.pack("<H", length)

    def _enter(self, element: Element, *, is_sequence: bool) -> bytes:
        if len(self._open) >= 2 * MOST_DEPTH:
            raise TranscodeError(f"sequences are nested deeper than {MOST_DEPTH}")
        end = None if element.length == UNDEFINED else self._reader.at + element.length
        self._open.append((end, is_sequence))
        if not is_sequence:
            self._is_signed.append(self._is_signed[-1])
        return _delimiter(ITEM, UNDEFINED)

    def _close(self, tag: int) -> bytes:
        is_sequence = tag == SEQUENCE_END
        if not self._open or self._open[-1] != (None, is_sequence):
            raise TranscodeError(f"{_name(tag)} closes nothing")
        return self._pop()

    def _pop(self) -> bytes:
        _, is_sequence = self._open.pop()
        if not is_sequence:
            self._is_signed.pop()
        return _delimiter(SEQUENCE_END if is_sequence else ITEM_END, 0)

    def _close_finished(self) -> Iterator[bytes]:
        while self._open and self._open[-1][0] == self._reader.at:
            yield self._pop()

    def _check_end(self, element: Element) -> None:
        """A value may not reach beyond the innermost sequence or item of defined length."""
        length = 0 if element.length == UNDEFINED else element.length
        end = next((end for end, _ in reversed(self._open) if end is not None), None)
        if end is not None and self._reader.at + length > end:
            raise TranscodeError(f"{_name(element.tag)} reaches beyond what holds it")


class _Rest:
    """What a reader has still to read, as a stream, so that its count stays right."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        return self._reader._some(size)


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Join small parts, so that what follows does not work byte by byte."""
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= CHUNK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _turned(part: bytes, unit: int) -> bytes:
    if len(part) % unit:
        raise TranscodeError("a number is cut short")
    numbers = array(ARRAY_CODES[unit], part)
    numbers.byteswap()
    return numbers.tobytes()


def _delimiter(tag: int, length: int) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)


def _dictionary_vr(tag: int) -> str:
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
