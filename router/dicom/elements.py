"""The elements of a data set, or of an item of a sequence, decoded when asked for.

It answers in text what rules, layouts and pages ask, and packs a header so that nobody reads the
file again. It walks no file, changes nothing, and never raises for the text that a value holds.
"""

import operator
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import Final, NamedTuple

from pydicom.datadict import DicomDictionary

from router.dicom import text as charset
from router.dicom import vr_lookup
from router.dicom.errors import MalformedDataSet
from router.dicom.limits import Limits
from router.dicom.walk import SEQUENCE, Raw, Walk
from router.dicom.window import PlainWindow

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
_NO_LIMITS = Limits(depth=1 << 30, elements=1 << 30, fragments=1 << 30)
_FORMAT = 1
_NO_VR = b"  "
_PACKED = struct.Struct("<BBHI")  # format, flags, length of the codecs' names, elements


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
        elements: Mapping[int, Raw],
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
        return unpack, (pack(self),)

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
        problem = "" if good else UNDECODABLE
        if "\\" not in decoded or vr in _SINGLE:
            return Field((decoded.rstrip(" \x00"),), vr, problem)
        return Field(tuple([part.rstrip(" \x00") for part in decoded.split("\\")]), vr, problem)

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


def pack(header: Header) -> bytes:
    """The whole header in a compact form of its own, for `unpack`; as long as its values, about.

    By columns: codecs, tags, lengths, VRs, whether the value was kept, values.
    """
    raws = header._elements.values()
    lengths = [raw.length for raw in raws]
    wide = any(length > 0xFFFFFFFF for length in lengths)
    flags = header.implicit | header.little << 1 | header._charset_known << 2 | wide << 3
    codecs = ",".join(header._charset).encode("ascii")
    return b"".join(
        (
            _PACKED.pack(_FORMAT, flags, len(codecs), len(raws)),
            codecs,
            _columns(len(raws), wide=wide).pack(*header._elements, *lengths),
            b"".join([raw.vr or _NO_VR for raw in raws]),
            bytes([raw.value is not None for raw in raws]),
            *[raw.value for raw in raws if raw.value is not None],
        )
    )


def unpack(data: bytes) -> Header:
    """The header that `pack` was given. Raises ValueError for anything else, or another format."""
    try:
        return _unpack(data)
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"no packed header: {error}") from error


def _unpack(data: bytes) -> Header:
    version, flags, named, number = _PACKED.unpack_from(data)
    if version != _FORMAT:
        raise ValueError(f"a packed header of format {version}, not {_FORMAT}")
    start = _PACKED.size + named
    codecs = data[_PACKED.size : start].decode("ascii")
    columns = _columns(number, wide=bool(flags & 8))
    numbers = columns.unpack_from(data, start)
    elements = _Packed(data, start + columns.size, numbers[:number], lengths=numbers[number:])
    header = Header(elements, implicit=bool(flags & 1), little=bool(flags & 2))
    header._charset, header._charset_known = tuple(codecs.split(",")), bool(flags & 4)
    return header


class _Packed(Mapping[int, Raw]):
    """Elements in the columns of a packed header; each is cut out when it is asked for."""

    __slots__ = ("_data", "_ends", "_kept", "_lengths", "_places", "_vrs")

    def __init__(
        self, data: bytes, start: int, tags: tuple[int, ...], *, lengths: tuple[int, ...]
    ) -> None:
        first = start + 3 * len(tags)
        self._data, self._vrs, self._lengths = data, start, lengths
        self._kept = data[start + 2 * len(tags) : first]
        sizes = lengths if all(self._kept) else map(operator.mul, lengths, self._kept)
        self._places = dict(zip(tags, range(len(tags)), strict=True))
        self._ends = list(accumulate(sizes, initial=first))
        if self._ends[-1] != len(data):
            raise ValueError(f"a packed header of {len(data)} bytes instead of {self._ends[-1]}")

    def __getitem__(self, tag: int) -> Raw:
        at = self._places[tag]
        vr = self._data[self._vrs + 2 * at : self._vrs + 2 * at + 2]
        value = self._data[self._ends[at] : self._ends[at + 1]] if self._kept[at] else None
        return Raw(b"" if vr == _NO_VR else vr, value, self._lengths[at])

    def __contains__(self, tag: object) -> bool:
        return tag in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _columns(number: int, *, wide: bool) -> struct.Struct:
    """Tags and lengths; these wide where an element is longer than 32 bits can say."""
    return struct.Struct(f"<{number}I{number}{'Q' if wide else 'I'}")


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
