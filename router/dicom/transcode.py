"""Re-encoding of a data set between the uncompressed transfer syntaxes (PS3.5 Annex A, 7.1).

One pass over the stream, in constant memory: element headers are written anew, values are copied
or, from big endian, turned around. Sequences and items leave with undefined length, group lengths
are dropped (PS3.5 7.2, 7.5), so the output depends on the input alone. Pixels are never decoded:
a data set with encapsulated pixel data is refused.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from router.dicom.stream import (
    CHUNK_BYTES,
    LONG_VRS,
    Element,
    Inflated,
    Readable,
    Reader,
    Rest,
    TranscodeError,
    name_of,
)
from router.dicom.syntaxes import REENCODABLE, TARGETS

__all__ = ["Pixels", "Readable", "TranscodeError", "reencode"]

MOST_DEPTH = 64

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA, PIXEL_REPRESENTATION = 0x7FE00010, 0x00280103
OFFSET_TABLES = frozenset({0x7FE00001, 0x7FE00002})
UNIT_BYTES = {
    **dict.fromkeys((b"AT", b"OW", b"SS", b"US"), 2),
    **dict.fromkeys((b"FL", b"OF", b"OL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}


@dataclass(frozen=True, slots=True)
class Pixels:
    """What stands for the pixel data of the data set: its value in parts, with its VR and length
    (`UNDEFINED` when it is encapsulated, items and delimiter included), and the elements that
    change with it by tag, as VR and value."""

    parts: Iterable[bytes]
    length: int
    vr: bytes
    changes: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict)


def reencode(
    source: Readable, *, stored: str, wanted: str, pixels: Pixels | None = None
) -> Iterator[bytes]:
    """Yield the data set `source`, encoded in `stored`, in chunks encoded in `wanted`.

    With `pixels` its pixel data is left out and those stand in its place; then `stored` may be any
    encapsulated syntax and `wanted` too.

    Raises:
        TranscodeError: either syntax is not of those that can be turned, the pixel data is
            encapsulated and nothing stands for it, the structure is broken, or it inflates
            without bound.
    """
    if pixels is None and (stored not in REENCODABLE or wanted not in TARGETS):
        raise TranscodeError(f"no way from transfer syntax {stored} to {wanted}")
    if stored == DeflatedExplicitVRLittleEndian:
        source = Inflated(source)
    reader = Reader(
        source,
        is_little=stored != ExplicitVRBigEndian,
        is_explicit=stored != ImplicitVRLittleEndian,
    )
    writer = _Writer(reader, is_explicit=wanted != ImplicitVRLittleEndian, pixels=pixels)
    yield from _gathered(writer.data_set())


class _Writer:
    """Walks what a reader reads and yields it in the wanted encoding; no recursion, so that
    depth costs nothing but a list."""

    def __init__(self, reader: Reader, *, is_explicit: bool, pixels: Pixels | None = None) -> None:
        self._reader, self._is_explicit, self._pixels = reader, is_explicit, pixels
        self._changes = dict(sorted(pixels.changes.items())) if pixels is not None else {}
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
            if self._pixels is None or self._open:
                yield from self._one(element)
            else:
                yield from self._changed(element, self._pixels)

    def _changed(self, element: Element, pixels: Pixels) -> Iterator[bytes]:
        """Write a top-level element of a data set whose pixel data is replaced."""
        for tag in [tag for tag in self._changes if tag <= element.tag]:
            vr, value = self._changes.pop(tag)
            yield self._header(tag, vr, len(value)) + value
            if tag == element.tag:
                self._pass_over(element)
                return
        if element.tag in OFFSET_TABLES:
            self._pass_over(element)
        elif element.tag == PIXEL_DATA:
            self._pixels = None  # a second one would be an encapsulated element like any other
            self._pass_over(element)
            yield self._header(PIXEL_DATA, pixels.vr, pixels.length)
            yield from pixels.parts
        else:
            yield from self._one(element)

    def _pass_over(self, element: Element) -> None:
        """Read an element and write nothing of it; encapsulated pixel data fragment by fragment
        (PS3.5 A.4)."""
        if element.length != UNDEFINED:
            self._drop(element.length)
            return
        while (found := self._reader.header()) is not None and found.tag == ITEM:
            self._drop(found.length)
        if found is None or found.tag != SEQUENCE_END:
            raise TranscodeError("the encapsulated pixel data does not end")

    def _drop(self, length: int) -> None:
        if length == UNDEFINED:
            raise TranscodeError("a fragment of the pixel data has no length")
        for _part in self._reader.value(length, unit=1):
            continue

    def _one(self, element: Element) -> Iterator[bytes]:
        in_sequence = bool(self._open) and self._open[-1][1]
        if element.tag in (ITEM_END, SEQUENCE_END):
            yield self._close(element.tag)
        elif in_sequence != (element.tag == ITEM):
            raise TranscodeError(f"{name_of(element.tag)} stands where it may not")
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
            raise TranscodeError(f"{name_of(element.tag)} has no defined length")
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
        inner = Reader(Rest(self._reader), is_little=True, is_explicit=False)
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
            raise TranscodeError(f"{name_of(tag)} closes nothing")
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
            raise TranscodeError(f"{name_of(element.tag)} reaches beyond what holds it")


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


def _delimiter(tag: int, length: int) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)


def _dictionary_vr(tag: int) -> str:
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"
