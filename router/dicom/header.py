"""The header of an object: `examine` proves its structure, `read_header` reads what rules see.

It answers questions about elements and sequences before the pixel data. It decodes no pixels,
changes nothing, and never raises for the text that a value holds.
"""

import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final, NamedTuple

from pydicom.datadict import DicomDictionary

from router.dicom import text as charset
from router.dicom import uids, vr_lookup
from router.dicom.errors import DeflateBomb, MalformedDataSet, TruncatedDataSet
from router.dicom.limits import Limits
from router.dicom.walk import SEQUENCE, Raw, Walk
from router.dicom.window import InflatedWindow, PlainWindow, Window

Key = str | int | tuple[int, int, str]

ABSENT: Final = "absent"
EMPTY: Final = "empty"
UNDECODABLE: Final = "character set undecodable"
TOO_LONG: Final = "value too long"
NOT_TEXT: Final = "not text"
WRONG_LENGTH: Final = "wrong length for its VR"

TAGS: Final[dict[str, int]] = {entry[4]: tag for tag, entry in DicomDictionary.items() if entry[4]}

_NUMBERS = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q",
}  # fmt: skip
_LOCALIZED = frozenset({"SH", "LO", "ST", "PN", "LT", "UC", "UT"})
_TEXT = _LOCALIZED | frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_SINGLE = frozenset({"ST", "LT", "UT", "UR"})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_CHARACTER_SET = 0x00080005
_PIXEL_REPRESENTATION = 0x00280103
_ROWS, _COLUMNS, _BITS, _PIXEL_URL = 0x00280010, 0x00280011, 0x00280100, 0x00287FE0
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_LIMITS = Limits()
_NO_LIMITS = Limits(depth=1 << 30, elements=1 << 30, fragments=1 << 30)


@dataclass(frozen=True)
class RawElement:
    """An element as it was written; `vr` None where none was, `value` None when it was not kept."""

    tag: int
    vr: str | None
    value: bytes | None
    length: int
    little_endian: bool


class Field(NamedTuple):
    """The decoded values of an element; `problem` says why there are none, or what is wrong."""

    values: tuple[str, ...]
    vr: str
    problem: str


_ABSENT = Field((), "", ABSENT)


class Header:
    """Top-level elements of a data set, or of one item of a sequence, decoded when asked for."""

    __slots__ = (
        "_charset",
        "_charset_known",
        "_elements",
        "_fields",
        "_items",
        "implicit",
        "little",
    )

    def __init__(
        self,
        elements: dict[int, Raw],
        *,
        implicit: bool = False,
        little: bool = True,
        outer: "Header | None" = None,
    ) -> None:
        self._elements = elements
        self.implicit = implicit
        self.little = little
        self._fields: dict[int, Field] = {}
        self._items: dict[int, list[Header]] = {}
        self._charset, self._charset_known = self._character_set(outer)

    def __reduce__(self) -> tuple[object, ...]:
        state = (self._elements, self.implicit, self.little, self._charset, self._charset_known)
        return _restore, state

    def __contains__(self, key: Key) -> bool:
        return self.tag(key) in self._elements

    def tag(self, key: Key) -> int | None:
        """The tag a keyword, a tag or (group, element xx, creator) means in this very header."""
        if isinstance(key, int):
            return key
        if isinstance(key, str):
            return TAGS.get(key)
        group, element, creator = key
        for block in range(0x10, 0x100):
            if creator in self.field(group << 16 | block).values:
                return group << 16 | block << 8 | element
        return None

    def tags(self) -> list[int]:
        """The tags that are there, in the order of the data set."""
        return list(self._elements)

    def raw(self, key: Key) -> RawElement | None:
        """The bytes of an element, or None when it is absent."""
        tag = self.tag(key)
        raw = self._elements.get(tag) if tag is not None else None
        if raw is None or tag is None:
            return None
        vr = raw.vr.decode("ascii") or None
        return RawElement(tag, vr, raw.value, raw.length, self.little)

    def field(self, key: Key) -> Field:
        """Decoded values and what is wrong with them; decoded once a header."""
        tag = key if isinstance(key, int) else self.tag(key)
        if tag is None or tag not in self._elements:
            return _ABSENT
        found = self._fields.get(tag)
        if found is None:
            found = self._fields[tag] = self._decode(tag, self._elements[tag])
        return found

    def values(self, key: Key) -> list[str]:
        """Every value as text without trailing spaces and NULs; [] when there is none."""
        return list(self.field(key).values)

    def text(self, key: Key) -> str:
        """All values joined by a backslash; '' when the element is absent, empty or no text."""
        return "\\".join(self.field(key).values)

    def integer(self, key: Key) -> int | None:
        """The first value as an integer, or None when it is not one."""
        values = self.field(key).values
        try:
            return int(values[0]) if values else None
        except ValueError:
            return None

    def sequence(self, key: Key) -> list["Header"]:
        """The items of a sequence; [] when it is absent, empty, too long or no sequence."""
        tag = self.tag(key)
        if tag is None or tag not in self._elements:
            return []
        items = self._items.get(tag)
        if items is None:
            items = self._items[tag] = self._parse_items(self._elements[tag])
        return items

    @property
    def character_problem(self) -> bool:
        """Whether the character set is unknown or a text read so far could not be decoded."""
        return not self._charset_known or any(
            field.problem == UNDECODABLE for field in self._fields.values()
        )

    def _character_set(self, outer: "Header | None") -> tuple[tuple[str, ...], bool]:
        """An item without (0008,0005) inherits that of its data set (PS3.5 7.5.3)."""
        raw = self._elements.get(_CHARACTER_SET)
        if raw is not None and raw.value:
            return charset.encodings(raw.value)
        if outer is not None:
            return outer._charset, outer._charset_known
        return charset.DEFAULT, True

    def _decode(self, tag: int, raw: Raw) -> Field:
        vr = self._vr(tag, raw)
        if vr == "SQ":
            return Field((), vr, "" if raw.length else EMPTY)
        if raw.value is None:
            return Field((), vr, TOO_LONG)
        if not raw.value.strip(b" \x00") and (vr in _TEXT or not raw.value):
            return Field((), vr, EMPTY)
        if vr in _NUMBERS or vr == "AT":
            return _numbers(vr, raw.value, little=self._little(raw))
        if vr in _TEXT:
            return self._text(vr, raw.value)
        return self._unknown(vr, raw.value)

    def _text(self, vr: str, value: bytes) -> Field:
        codecs = self._charset if vr in _LOCALIZED else charset.DEFAULT
        decoded, good = charset.decode(value, codecs, person_name=vr == "PN")
        parts = [decoded] if vr in _SINGLE else decoded.split("\\")
        values = tuple(part.rstrip(" \x00") for part in parts)
        return Field(values, vr, "" if good else UNDECODABLE)

    def _unknown(self, vr: str, value: bytes) -> Field:
        """UN of a private element: text when it reads as text, otherwise bytes we do not show."""
        if vr != "UN":
            return Field((), vr, NOT_TEXT)
        field = self._text("UN", value)
        if field.problem or any(_CONTROL.search(part) for part in field.values):
            return Field((), vr, NOT_TEXT)
        return field

    def _vr(self, tag: int, raw: Raw) -> str:
        written = raw.vr.decode("ascii")
        if written not in {"", "UN"}:
            return written
        if tag >> 16 & 1:
            return self._private_vr(tag)
        known = vr_lookup.public(tag)
        if known == "US or SS":
            signed = self.field(_PIXEL_REPRESENTATION).values
            return "SS" if signed == ("1",) else "US"
        return known

    def _private_vr(self, tag: int) -> str:
        if tag & 0xFFFF < 0x1000:
            return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
        creator = self.text(tag & 0xFFFF0000 | tag >> 8 & 0xFF)
        return vr_lookup.private(tag, creator) if creator else "UN"

    def _little(self, raw: Raw) -> bool:
        return True if raw.vr == b"UN" else self.little

    def _parse_items(self, raw: Raw) -> list["Header"]:
        if raw.value is None or raw.vr not in {b"SQ", b"UN", b""}:
            return []
        unknown = raw.vr == b"UN"
        implicit, little = self.implicit or unknown, self.little or unknown
        try:
            return self._read_items(raw.value, implicit=implicit, little=little)
        except MalformedDataSet:
            return []  # UN or private bytes that are no sequence after all

    def _read_items(self, value: bytes, *, implicit: bool, little: bool) -> list["Header"]:
        borders = Walk(
            PlainWindow(BytesIO(value), 0, len(value)),
            _NO_LIMITS,
            implicit=implicit,
            little=little,
            kind=SEQUENCE,
        )
        items = []
        for start, end in borders.run().items:
            window = PlainWindow(BytesIO(value[start:end]), 0, end - start)
            walk = Walk(window, _NO_LIMITS, implicit=implicit, little=little, nested=True).run()
            items.append(Header(walk.elements, implicit=implicit, little=little, outer=self))
        return items


@dataclass(frozen=True)
class Structure:
    """What `examine` found.

    `opaque` is the reason why not all of it was looked at (R31), else None. `quarantine` is the
    reason why the object must be kept apart until a person decides, else None: a data set that
    inflates beyond the limits, known as far as it was inflated. `pixel_data` is
    (tag, where its value starts in the file, length or None when encapsulated); in a deflated
    data set the start counts in the inflated bytes.
    """

    header: Header
    opaque: str | None
    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    pixel_data: tuple[int, int, int | None] | None
    elements: int
    depth: int
    quarantine: str | None = None


def examine(
    file: BinaryIO, *, offset: int, size: int, transfer_syntax: str, limits: Limits = _LIMITS
) -> Structure:
    """Walk the data set of `size` bytes at `offset` to its very end.

    Raises TruncatedDataSet or MalformedDataSet; an object too deep or too rich for the limits is
    no error but `opaque`, one that inflates beyond them is `quarantine`. A cut exactly between two
    top-level elements leaves a lawful data set: it is found only where an image announces pixels
    that are not there.
    """
    walk = _walk(file, offset, size, transfer_syntax=transfer_syntax, limits=limits)
    quarantine = None
    try:
        walk.run()
    except DeflateBomb as bomb:
        quarantine = str(bomb)
    header = _header(walk, transfer_syntax)
    if walk.opaque is None and walk.pixel_data is None and quarantine is None:
        _refuse_missing_pixels(header, size)
    pixels = walk.pixel_data
    if pixels is not None and not uids.is_deflated(transfer_syntax):
        pixels = (pixels[0], offset + pixels[1], pixels[2])
    return Structure(
        header=header,
        opaque=walk.opaque,
        sop_class_uid=header.text(_SOP_CLASS) or None,
        sop_instance_uid=header.text(_SOP_INSTANCE) or None,
        study_instance_uid=header.text(_STUDY) or None,
        series_instance_uid=header.text(_SERIES) or None,
        pixel_data=pixels,
        elements=walk.count,
        depth=walk.deepest,
        quarantine=quarantine,
    )


def read_header(
    file: BinaryIO, *, offset: int, size: int, transfer_syntax: str, limits: Limits = _LIMITS
) -> Header:
    """The elements before the pixel data; nothing after them is read.

    Raises as `examine` does, and DeflateBomb.
    """
    walk = _walk(
        file, offset, size, transfer_syntax=transfer_syntax, limits=limits, stop_at_pixels=True
    ).run()
    return _header(walk, transfer_syntax)


def _walk(
    file: BinaryIO,
    offset: int,
    size: int,
    *,
    transfer_syntax: str,
    limits: Limits,
    stop_at_pixels: bool = False,
) -> Walk:
    window: Window
    if uids.is_deflated(transfer_syntax):
        window = InflatedWindow(file, offset, size, limits=limits)
    else:
        window = PlainWindow(file, offset, size)
    return Walk(
        window,
        limits,
        implicit=uids.is_implicit(transfer_syntax),
        little=not uids.is_big_endian(transfer_syntax),
        stop_at_pixels=stop_at_pixels,
    )


def _header(walk: Walk, transfer_syntax: str) -> Header:
    return Header(
        walk.elements,
        implicit=uids.is_implicit(transfer_syntax),
        little=not uids.is_big_endian(transfer_syntax),
    )


def _refuse_missing_pixels(header: Header, size: int) -> None:
    """An image with rows, columns and bits but no pixels was cut between two elements.

    Not so when a Pixel Data Provider URL stands for them (PS3.3 C.7.6.3), or for a class that is
    no image storage.
    """
    announced = _ROWS in header and _COLUMNS in header and _BITS in header
    if announced and _PIXEL_URL not in header and uids.is_image_storage(header.text(_SOP_CLASS)):
        raise TruncatedDataSet(size, "the pixel data that Rows and Columns announce is missing")


def _restore(
    elements: dict[int, Raw],
    implicit: bool,  # noqa: FBT001 - the shape pickle asks for
    little: bool,  # noqa: FBT001
    codecs: tuple[str, ...],
    known: bool,  # noqa: FBT001
) -> Header:
    header = Header(elements, implicit=implicit, little=little)
    header._charset, header._charset_known = codecs, known
    return header


def _numbers(vr: str, value: bytes, *, little: bool) -> Field:
    order = "<" if little else ">"
    code = _NUMBERS.get(vr, "HH")
    width = struct.calcsize(order + code)
    if len(value) % width:
        return Field((), vr, WRONG_LENGTH)
    rows = struct.iter_unpack(order + code, value)
    if vr == "AT":
        return Field(tuple(f"({group:04X},{element:04X})" for group, element in rows), vr, "")
    return Field(tuple(str(row[0]) for row in rows), vr, "")
