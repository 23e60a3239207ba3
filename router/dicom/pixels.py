"""What the image attributes say the pixels are (PS3.3 C.7.6.3), and pixel data as bytes to write.

Computes sizes and cuts; no pixel is decoded here, and nothing a data set claims is believed beyond
the limits.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router.dicom.header import Header
from router.dicom.syntaxes import TARGETS
from router.dicom.transcode import ITEM, SEQUENCE_END, UNDEFINED, Pixels, TranscodeError

MOST_PIXEL_BYTES: Final = 1 << 30
"""The most that pixels may come to when decoded."""
MOST_FACTS_BYTES: Final = 4096
FRAME: Final = struct.Struct(">Q")
"""What stands before each frame, and before the facts that come last, in the answer of a codec."""

PHOTOMETRIC, PLANAR = 0x00280004, 0x00280006
PHOTOMETRICS: Final = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_RCT"}
)
_MOST_FRAMES = 1 << 20
_CUT = 1 << 18


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows, columns, samples and frames of an image, and how many bits a sample takes."""

    rows: int
    columns: int
    samples: int
    bits: int
    frames: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame without compression."""
        return self.rows * self.columns * self.samples * self.bits // 8

    @property
    def total_bytes(self) -> int:
        """Bytes of all frames without compression."""
        return self.frame_bytes * self.frames

    @property
    def most_answer_bytes(self) -> int:
        """The longest answer that a codec may give: compressed noise grows a little."""
        return self.total_bytes * 5 // 4 + self.frames * (FRAME.size + 4096) + MOST_FACTS_BYTES


def has_pixels(header: Header) -> bool:
    """Tell whether the header announces an image."""
    return all(keyword in header for keyword in ("Rows", "Columns", "BitsAllocated"))


def shape_of(header: Header) -> Shape:
    """Return the shape that the header announces.

    Raises:
        TranscodeError: it is none that can be decoded, or more than may be.
    """
    shape = Shape(
        rows=_number(header, "Rows"),
        columns=_number(header, "Columns"),
        samples=_number(header, "SamplesPerPixel", usual=1),
        bits=_number(header, "BitsAllocated"),
        frames=_number(header, "NumberOfFrames", usual=1),
    )
    if shape.bits not in (8, 16, 32) or shape.samples not in (1, 3):
        raise TranscodeError(
            f"its pixels of {shape.samples} times {shape.bits} bits cannot be decoded"
        )
    if not 1 <= shape.frames <= _MOST_FRAMES or not shape.frame_bytes:
        raise TranscodeError("its Rows, Columns and NumberOfFrames describe no image")
    if shape.total_bytes > MOST_PIXEL_BYTES:
        raise TranscodeError(
            f"its pixels come to {shape.total_bytes} bytes where {MOST_PIXEL_BYTES} are allowed"
        )
    return shape


def _number(header: Header, keyword: str, *, usual: int | None = None) -> int:
    values = header.field(keyword).values
    if not values and usual is not None:
        return usual
    if len(values) != 1 or not values[0].strip().isdecimal():
        raise TranscodeError(f"its {keyword} is missing or no number")
    return int(values[0])


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of an answer: where each lies and how long it is, and what they are like."""

    places: Sequence[tuple[int, int]]
    photometric: str


Read = Callable[[int, int], bytes]
"""Return so many bytes at that place of the answer, fewer at its end."""


def cut(read: Read, shape: Shape, *, wanted: str) -> Frames:
    """Find the frames of an answer, and check that it holds what the image announces.

    Raises:
        TranscodeError: another number of frames, a frame of another length, or no sound answer.
    """
    places: list[tuple[int, int]] = []
    at = 0
    for _ in range(shape.frames):
        length = _length(read, at)
        if wanted in TARGETS and length != shape.frame_bytes:
            raise TranscodeError(
                f"a decoded frame has {length} bytes where {shape.frame_bytes} are due"
            )
        places.append((at + FRAME.size, length))
        at += FRAME.size + length
    length = _length(read, at)
    facts = read(at + FRAME.size, length) if length <= MOST_FACTS_BYTES else b""
    end = read(at + FRAME.size + length, 1)
    return Frames(places, _photometric(facts, is_at_end=not end))


def _length(read: Read, at: int) -> int:
    head = read(at, FRAME.size)
    if len(head) != FRAME.size:
        raise TranscodeError("the codec gave fewer frames than the image has")
    return int(FRAME.unpack(head)[0])


def _photometric(facts: bytes, *, is_at_end: bool) -> str:
    try:
        said = json.loads(facts)
    except ValueError:
        said = None
    found = said.get("photometric") if isinstance(said, dict) else None
    if found not in PHOTOMETRICS or not is_at_end:
        raise TranscodeError("the codec gave more frames than the image has, or no sound answer")
    return str(found)


def pixels(read: Read, frames: Frames, shape: Shape, *, wanted: str) -> Pixels:
    """Return the frames as pixel data to be written in `wanted`."""
    padded = frames.photometric.encode()
    padded += b" " * (len(padded) % 2)
    changes: Mapping[int, tuple[bytes, bytes]] = {PHOTOMETRIC: (b"CS", padded)}
    if shape.samples > 1:
        changes = {**changes, PLANAR: (b"US", b"\0\0")}
    if wanted in TARGETS:
        is_wide = shape.bits > 8 or wanted != TARGETS[0]
        length = shape.total_bytes + shape.total_bytes % 2
        parts = _native(read, frames, is_odd=length != shape.total_bytes)
        return Pixels(parts, length, b"OW" if is_wide else b"OB", changes)
    return Pixels(_encapsulated(read, frames), UNDEFINED, b"OB", changes)


def _native(read: Read, frames: Frames, *, is_odd: bool) -> Iterator[bytes]:
    for at, length in frames.places:
        yield from _piece(read, at, length)
    if is_odd:
        yield b"\0"


def _encapsulated(read: Read, frames: Frames) -> Iterator[bytes]:
    """One fragment a frame behind an empty Basic Offset Table (PS3.5 A.4)."""
    yield _item(ITEM, 0)
    for at, length in frames.places:
        yield _item(ITEM, length + length % 2)
        yield from _piece(read, at, length)
        yield b"\0" * (length % 2)
    yield _item(SEQUENCE_END, 0)


def _piece(read: Read, at: int, length: int) -> Iterator[bytes]:
    for start in range(at, at + length, _CUT):
        size = min(_CUT, at + length - start)
        part = read(start, size)
        if len(part) != size:
            raise TranscodeError("the decoded pixels end too soon")
        yield part


def _item(tag: int, length: int) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)
