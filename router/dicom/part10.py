"""DICOM Part 10 files: our own file meta, and reading that of others.

It reads what stands before a data set and never the data set itself, save for the one element that
tells how a bare data set is encoded.

A stored object may carry a seal: the length and SHA-256 of its data set, as the private
information of its file meta (PS3.10 7.1, 0002,0102). It is the last of what stands before the data
set, has a fixed length, and is written when all the rest has been: a file whose seal is empty is
not whole.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final

from router.dicom import uids
from router.dicom.errors import MalformedDataSet, TruncatedDataSet

IMPLEMENTATION_CLASS_UID: Final = "2.25.184537420911463906128837055174190265911"
IMPLEMENTATION_VERSION_NAME: Final = "DICOMROUTER_01"

SEAL_CREATOR_UID: Final = "2.25.93264517720881735490261875514028663941"
SEAL: Final = struct.Struct("<Q32s")
NO_SEAL: Final = bytes(SEAL.size)

_PREAMBLE = bytes(128) + b"DICM"
_VERSION = struct.pack("<HH2sHI2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01")
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHI")
_GROUP_LENGTH = struct.Struct("<HH2sHI")
_LONG_VRS = frozenset({b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF", b"OD", b"OL", b"OV", b"UC", b"UR"})
_META_LIMIT = 1 << 20


@dataclass(frozen=True)
class FileMeta:
    """What the file meta says; `offset` is where the data set starts. A UID not given is ''."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    offset: int
    seal: bytes = b""  # ours, `NO_SEAL` while the object is not whole; b"" when there is no room


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    return _SHORT.pack(0x0002, number, vr, len(value)) + value


def _uid(number: int, value: str) -> bytes:
    raw = value.encode("ascii")
    return _element(number, b"UI", raw + b"\x00" if len(raw) % 2 else raw)


_TAIL = _uid(0x0012, IMPLEMENTATION_CLASS_UID) + _element(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")
)


_CREATOR = _uid(0x0100, SEAL_CREATOR_UID)


def file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, seal: bytes = b""
) -> bytes:
    """Preamble of zeros, DICM and group 2 (PS3.10 7.1): all that stands before the data set.

    With a `seal` (`NO_SEAL` for the room it takes), that one is its end.
    """
    group = b"".join(
        (
            _VERSION,
            _uid(0x0002, sop_class_uid),
            _uid(0x0003, sop_instance_uid),
            _uid(0x0010, transfer_syntax),
            _TAIL,
            _sealed(seal),
        )
    )
    return _PREAMBLE + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(group)) + group


def _sealed(seal: bytes) -> bytes:
    if not seal:
        return b""
    return _CREATOR + _LONG.pack(0x0002, 0x0102, b"OB", 0, len(seal)) + seal


def read_meta(file: BinaryIO, *, ours: bool = False) -> FileMeta:
    """The file meta of any Part 10 file, also of one without preamble or without meta.

    Where no transfer syntax is given it is guessed from the first element of the data set. Of
    `ours` we know where it ends, even where the data set begins with elements of group 2 as well.
    Raises MalformedDataSet when the bytes are no DICOM.
    """
    file.seek(0)
    head = file.read(_META_LIMIT)
    start = 132 if head[128:132] == b"DICM" else 4 if head[:4] == b"DICM" else 0
    group = head[: _declared_end(head, start)] if ours else head
    found, offset = _read_group(group, start)
    sop_class_uid, sop_instance_uid, transfer_syntax, creator = (
        _text(found.get(number, b"")) for number in (0x0002, 0x0003, 0x0010, 0x0100)
    )
    seal = found.get(0x0102, b"") if creator == SEAL_CREATOR_UID else b""
    syntax = transfer_syntax or _guess(head, offset)
    return FileMeta(sop_class_uid, sop_instance_uid, syntax, offset, seal)


def _declared_end(head: bytes, start: int) -> int:
    """Where group 2 ends by its group length."""
    first = head[start : start + _GROUP_LENGTH.size]
    if len(first) < _GROUP_LENGTH.size:
        return len(head)
    return start + len(first) + int(_GROUP_LENGTH.unpack(first)[-1])


def _read_group(head: bytes, offset: int) -> tuple[dict[int, bytes], int]:
    """Walk group 2 by its tags: the declared group length of other writers may be wrong."""
    found: dict[int, bytes] = {}
    while head[offset : offset + 2] == b"\x02\x00":
        number, value, offset = _read_element(head, offset)
        found[number] = value
    return found, offset


def _text(value: bytes) -> str:
    return value.rstrip(b"\x00 ").decode("ascii", "replace")


def _read_element(head: bytes, offset: int) -> tuple[int, bytes, int]:
    if len(head) < offset + 8:
        raise TruncatedDataSet(offset, "the file ends inside the file meta information")
    _, number, vr, length = _SHORT.unpack_from(head, offset)
    start = offset + 8
    if vr in _LONG_VRS and len(head) >= offset + 12:
        length = _LONG.unpack_from(head, offset)[4]
        start = offset + 12
    elif not (vr.isalpha() and vr.isupper()):  # some old writers left group 2 implicit
        length = int.from_bytes(head[offset + 4 : offset + 8], "little")
    if start + length > len(head):
        raise TruncatedDataSet(offset, "the file ends inside the file meta information")
    return number, head[start : start + length], start + length


def _guess(head: bytes, offset: int) -> str:
    """Implicit or explicit, little or big endian, by the first element (it lies in group 0008)."""
    first = head[offset : offset + 8]
    if len(first) < 8:
        raise MalformedDataSet(offset, "no DICOM: no file meta information and no data element")
    little = int.from_bytes(first[:2], "little")
    big = int.from_bytes(first[:2], "big")
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    if explicit and _plausible(big) and not _plausible(little):
        return uids.EXPLICIT_BE
    if _plausible(little) and explicit:
        return uids.EXPLICIT_LE
    if _plausible(little) and int.from_bytes(first[4:8], "little") < len(head) - offset:
        return uids.IMPLICIT_LE
    return _guess_deflated(head, offset)


def _plausible(group: int) -> bool:
    return 0x0004 <= group <= 0x0020


def _guess_deflated(head: bytes, offset: int) -> str:
    """A data set without meta may still be deflated; accepted only when it inflates to group 8."""
    try:
        first = zlib.decompressobj(-15).decompress(head[offset : offset + 4096], 8)
    except zlib.error:
        first = b""
    if first[:2] == b"\x08\x00" and first[4:6].isalpha() and first[4:6].isupper():
        return uids.DEFLATED_LE
    raise MalformedDataSet(offset, "no DICOM: neither file meta information nor a data element")
