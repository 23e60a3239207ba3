"""Runs of plain elements, in one loop: what makes up nearly all of a header.

Little endian only. A run ends before the first element that is anything but a short value of a
known VR that lies wholly inside the buffer and its parent: `walk` looks at that one with all its
rules, so that nothing passes here which would not pass there. It judges and refuses nothing.
"""

import struct
from typing import Final, NamedTuple

from pydicom.datadict import DicomDictionary

SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SEQUENCES: Final = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")

_HEADS = dict.fromkeys(SHORT_VRS, 8) | dict.fromkeys(LONG_VRS - {b"SQ"}, 12)
_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHI").unpack_from
_LENGTH = struct.Struct("<I").unpack_from
_new = tuple.__new__


class Raw(NamedTuple):
    """A top-level element: `vr` b'' when none was written, `value` None when it was not kept."""

    vr: bytes
    value: bytes | None
    length: int


class Run(NamedTuple):
    """How far a run came in the buffer, over how many elements and bytes of value."""

    reached: int
    elements: int
    bytes: int


def explicit(
    buffer: bytes, index: int, *, room: int, ceiling: int, into: dict[int, Raw] | None
) -> Run:
    """Pass over explicit VR elements (PS3.5 7.1.2) of groups below `ceiling`, up to `room`.

    Their values go into `into`; `room` is where the parent or the buffer ends.
    """
    last = len(buffer) - 12
    count = size = 0
    while index <= last:
        group, number, vr, length = _EXPLICIT(buffer, index)
        head = _HEADS.get(vr)
        if head is None or group >= ceiling:
            break
        if head == 12:
            length = _LENGTH(buffer, index + 8)[0]
        start = index + head
        stop = start + length
        tag = group << 16 | number
        if stop > room or not tag:
            break
        if into is not None:
            into[tag] = _new(Raw, (vr, buffer[start:stop], length))
        size += length
        count += 1
        index = stop
    return Run(index, count, size)


def implicit(
    buffer: bytes, index: int, *, room: int, ceiling: int, into: dict[int, Raw] | None
) -> Run:
    """Pass over implicit VR elements (PS3.5 7.1.3), otherwise as `explicit` does."""
    last = len(buffer) - 12
    count = size = 0
    while index <= last:
        group, number, length = _IMPLICIT(buffer, index)
        tag = group << 16 | number
        start = index + 8
        stop = start + length
        if stop > room or group >= ceiling or not tag or tag in SEQUENCES:
            break
        if into is not None:
            into[tag] = _new(Raw, (b"", buffer[start:stop], length))
        size += length
        count += 1
        index = stop
    return Run(index, count, size)
