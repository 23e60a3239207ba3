"""Walks a data set element by element to its end, without recursion or reading bulk values.

It proves that every declared length lies inside its parent and that every delimiter is there
(PS3.5 7). It hands out the raw top-level values and interprets none of them.

Chosen where the Standard or the field leaves room:
- An unknown VR of two capitals has a 32-bit length (PS3.5 7.1.2) when the two bytes before it are
  zero, otherwise a 16-bit one. Where no VR stands at all the element is read as implicit VR:
  explicit files hold such items. In an implicit file an item may likewise hold explicit elements.
- UN of undefined length holds an implicit VR little endian sequence (PS3.5 6.2.2, CP-246).
- Odd lengths, order and repetition of tags, group lengths and trailing padding are not judged.
- At the end at least eight NUL bytes in a row are padding; fewer cannot be told from a cut tag
  and are refused.
"""

import struct
from typing import Final, NamedTuple

from router.dicom import runs
from router.dicom.errors import MalformedDataSet, TruncatedDataSet
from router.dicom.limits import Limits
from router.dicom.runs import LONG_VRS, SEQUENCES, SHORT_VRS, Raw
from router.dicom.window import FAR, Window

__all__ = ["DATA_SET", "FRAGMENTS", "ITEM", "PIXEL_DATA", "SEQUENCE", "Raw", "Walk"]

UNDEFINED: Final = 0xFFFFFFFF
PIXEL_GROUP: Final = 0x7FE00000
PIXEL_DATA: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

DATA_SET, ITEM, SEQUENCE, FRAGMENTS = range(4)
_ITEM_TAG, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_BULK_VRS = frozenset(b"OB OD OF OL OV OW".split())
_TAG = {True: struct.Struct("<HH"), False: struct.Struct(">HH")}
_U16 = {True: struct.Struct("<H"), False: struct.Struct(">H")}
_U32 = {True: struct.Struct("<I"), False: struct.Struct(">I")}
_ENDS = {_ITEM_END: "item", _SEQUENCE_END: "sequence"}


class Frame(NamedTuple):
    """One open container; `end` is None while only a delimiter can end it."""

    kind: int
    end: int | None
    limit: int
    implicit: bool
    little: bool
    tag: int
    start: int


class Walk:
    """One pass over a data set (or, with kind SEQUENCE, over a sequence's value)."""

    def __init__(
        self,
        window: Window,
        limits: Limits,
        *,
        implicit: bool,
        little: bool = True,
        kind: int = DATA_SET,
        stop_at_pixels: bool = False,
        nested: bool = False,
        by_runs: bool = True,
    ) -> None:
        self.elements: dict[int, Raw] = {}
        self.items: list[tuple[int, int]] = []
        self.pixel_data: tuple[int, int, int | None] | None = None
        self.opaque: str | None = None
        self.count = 0
        self.deepest = 0
        self.keeping = True
        self._window = window
        self._limits = limits
        self._stop_at_pixels = stop_at_pixels
        self._nested = nested
        self._by_runs = by_runs
        self._position = 0
        self._buffer = b""
        self._base = 0
        self._fragments = 0
        self._kept = 0
        self._depth = 0
        self._open: list[tuple[int, bytes, int]] = []
        end = window.end
        root = ITEM if nested else kind
        self._stack = [Frame(root, end, end, implicit, little, 0, 0)]

    def run(self) -> "Walk":
        """Walk to the end (or to the pixels, or to a limit). Raises MalformedDataSet."""
        steps = (self._data_set, self._data_set, self._sequence, self._pieces)
        while self._stack:
            steps[self._stack[-1].kind](self._stack[-1])
        return self

    # containers ---------------------------------------------------------------------------------

    def _data_set(self, frame: Frame) -> None:
        """Pass over elements until a container opens or this one ends."""
        while self._position != frame.end:
            index = self._position - self._base
            if len(self._buffer) - index < 12:
                index = self._refill()
                if len(self._buffer) < 8:
                    self._short_rest(frame)
                    return
            passed = self._by_runs and self._run(frame, index)
            if not passed and not self._element(frame, index):
                return
        self._leave()

    def _element(self, frame: Frame, index: int) -> bool:
        """Pass over one element, whatever it is; False when it opens or ends something."""
        group, number = _TAG[frame.little].unpack_from(self._buffer, index)
        tag = group << 16 | number
        at_top = len(self._stack) == 1
        if group == 0xFFFE or not tag:
            self._odd_tag(frame, tag)
            return False
        if at_top and not self._nested and group >= 0x7FE0 and self._at_pixels(tag):
            return False
        vr, length, size = self._head(frame, index, tag)
        self._count_element()
        value = self._position + size
        if not self._stack:
            return False
        if length == UNDEFINED or vr == b"SQ" or (vr == b"" and tag in SEQUENCES):
            self._enter(frame, tag, vr, length, value)
            return False
        if value + length > frame.limit:
            raise TruncatedDataSet(self._position, _beyond(tag, length, frame.limit - value))
        if at_top and self.keeping:
            self._keep(tag, vr, value, value + length, most=self._limits.value_bytes)
        self._pass(value + length)
        return True

    def _run(self, frame: Frame, index: int) -> bool:
        """Pass over plain elements in one loop; False when none could be passed so.

        Not where a limit might be reached on the way: that is found element by element.
        """
        buffer, limits = self._buffer, self._limits
        rest = len(buffer) - index
        many = self.count + rest // 8 > limits.elements
        big = rest > limits.value_bytes or self._kept + rest > limits.header_bytes
        if not frame.little or many or big:
            return False
        at_top = len(self._stack) == 1
        found = (runs.implicit if frame.implicit else runs.explicit)(
            buffer,
            index,
            room=min(len(buffer), frame.limit - self._base),
            ceiling=0x7FE0 if at_top and not self._nested else 0xFFFE,
            into=self.elements if at_top and self.keeping else None,
        )
        self._position = self._base + found.reached
        self.count += found.elements
        if at_top and self.keeping:
            self._kept += found.bytes
        return found.elements > 0

    def _head(self, frame: Frame, index: int, tag: int) -> tuple[bytes, int, int]:
        """VR, value length and header size of the element at `index` (PS3.5 7.1)."""
        buffer, little = self._buffer, frame.little
        vr = buffer[index + 4 : index + 6]
        if frame.implicit:
            length = _U32[little].unpack_from(buffer, index + 4)[0]
            if not self._explicit_inside(frame, vr, length):
                return b"", length, 8
        if vr in SHORT_VRS:
            return vr, _U16[little].unpack_from(buffer, index + 6)[0], 8
        if vr in LONG_VRS or (_is_vr(vr) and buffer[index + 6 : index + 8] == b"\x00\x00"):
            if len(buffer) - index < 12:
                raise TruncatedDataSet(self._position, f"{_name(tag)} is cut in its header")
            return vr, _U32[little].unpack_from(buffer, index + 8)[0], 12
        if _is_vr(vr):
            return vr, _U16[little].unpack_from(buffer, index + 6)[0], 8
        return b"", _U32[little].unpack_from(buffer, index + 4)[0], 8

    def _explicit_inside(self, frame: Frame, vr: bytes, length: int) -> bool:
        """Explicit elements in an item of an implicit data set: its length makes no sense."""
        overruns = self._position + 8 + length > frame.limit and length != UNDEFINED
        return frame.kind == ITEM and overruns and (vr in SHORT_VRS or vr in LONG_VRS)

    def _odd_tag(self, frame: Frame, tag: int) -> None:
        """An item delimiter, the NUL padding at the end, or something that has no place here."""
        if tag == _ITEM_END and frame.kind == ITEM and frame.end is None:
            if self._position + 8 > frame.limit:
                raise TruncatedDataSet(self._position, "an item reaches beyond its sequence")
            self._pass(self._position + 8)
            self._leave()
        elif tag == 0 and len(self._stack) == 1 and self._only_padding():
            self._stack.clear()
        else:
            raise MalformedDataSet(self._position, f"{_name(tag)} has no place here")

    def _only_padding(self) -> bool:
        position = self._position
        while data := self._window.fetch(position):
            if data.strip(b"\x00"):
                return False
            position += len(data)
        return True

    def _short_rest(self, frame: Frame) -> None:
        """Fewer bytes than an element header: the end of an inflated data set, or a cut."""
        if self._buffer or frame.end != FAR or len(self._stack) > 1:
            raise TruncatedDataSet(self._position, "the data ends where an element should begin")
        self._leave()

    def _sequence(self, frame: Frame) -> None:
        """One step inside a sequence: the next item opens, or the sequence ends (PS3.5 7.5)."""
        if self._position == frame.end:
            self._leave()
            return
        tag, length = self._item_head(frame)
        if tag == _SEQUENCE_END and frame.end is None:
            self._pass(self._position + 8)
            self._leave()
            return
        if tag != _ITEM_TAG:
            raise MalformedDataSet(
                self._position, f"{_name(tag)} stands where an item should begin"
            )
        start = self._position + 8
        end = None if length == UNDEFINED else start + length
        if end is not None and end > frame.limit:
            raise TruncatedDataSet(self._position, _beyond(tag, length, frame.limit - start))
        self._count_element()
        if self._stack:
            self._push(ITEM, end, frame, frame.tag, start)

    def _pieces(self, frame: Frame) -> None:
        """The fragments of encapsulated pixel data up to their delimiter (PS3.5 A.4)."""
        while True:
            tag, length = self._item_head(frame)
            if tag == _SEQUENCE_END:
                self._pass(self._position + 8)
                self._leave()
                return
            if tag != _ITEM_TAG or length == UNDEFINED:
                raise MalformedDataSet(self._position, f"{_name(tag)} is no pixel data fragment")
            end = self._position + 8 + length
            if end > frame.limit:
                raise TruncatedDataSet(self._position, "a pixel data fragment is cut off")
            self._pass(end)
            self._fragments += 1
            if self._fragments > self._limits.fragments:
                self._give_up(f"more than {self._limits.fragments} fragments")
                return

    def _item_head(self, frame: Frame) -> tuple[int, int]:
        if self._position + 8 > frame.limit:
            raise TruncatedDataSet(self._position, f"the end of {_name(frame.tag)} is missing")
        index = self._position - self._base
        if len(self._buffer) - index < 8:
            index = self._refill()
            if len(self._buffer) < 8:
                raise TruncatedDataSet(self._position, f"the end of {_name(frame.tag)} is missing")
        group, number = _TAG[frame.little].unpack_from(self._buffer, index)
        return group << 16 | number, _U32[frame.little].unpack_from(self._buffer, index + 4)[0]

    def _enter(self, frame: Frame, tag: int, vr: bytes, length: int, start: int) -> None:
        """Open a sequence or the fragments of encapsulated data."""
        end = None if length == UNDEFINED else start + length
        if end is not None and end > frame.limit:
            raise TruncatedDataSet(self._position, _beyond(tag, length, frame.limit - start))
        kind = SEQUENCE
        if end is None and (tag in PIXEL_DATA or vr in _BULK_VRS):
            kind = FRAGMENTS
        elif end is None and vr not in {b"", b"SQ", b"UN"}:
            raise MalformedDataSet(self._position, f"{_name(tag)} may not have undefined length")
        if len(self._stack) == 1 and self.keeping:
            self._open.append((tag, vr, start))
        self._pass(start)
        inside = frame
        if vr == b"UN":
            inside = frame._replace(implicit=True, little=True)
        self._push(kind, end, inside, tag, start)

    def _push(self, kind: int, end: int | None, outer: Frame, tag: int, start: int) -> None:
        self._pass(start)
        limit = outer.limit if end is None else end
        self._stack.append(Frame(kind, end, limit, outer.implicit, outer.little, tag, start))
        if kind == SEQUENCE:
            self._depth += 1
            self.deepest = max(self.deepest, self._depth)
            if self._depth > self._limits.depth and self.opaque is None:
                self.opaque = f"sequences nested deeper than {self._limits.depth}"

    def _leave(self) -> None:
        frame = self._stack.pop()
        if frame.kind == SEQUENCE:
            self._depth -= 1
        if len(self._stack) != 1:
            return
        end = self._position - (8 if frame.end is None else 0)
        if frame.kind == ITEM:
            self.items.append((frame.start, end))
        elif self._open:
            tag, vr, start = self._open.pop()
            self._keep(tag, vr or b"SQ", start, end, most=self._limits.sequence_bytes)

    # values -------------------------------------------------------------------------------------

    def _at_pixels(self, tag: int) -> bool:
        """Note the pixel data; the header ends before it. True when the walk ends here too."""
        self.keeping = False
        if self._stop_at_pixels:
            self._stack.clear()
            return True
        if tag in PIXEL_DATA and self.pixel_data is None:
            _, length, size = self._head(self._stack[-1], self._position - self._base, tag)
            known = None if length == UNDEFINED else length
            self.pixel_data = (tag, self._position + size, known)
        return False

    def _keep(self, tag: int, vr: bytes, start: int, end: int, *, most: int) -> None:
        length = end - start
        value = self._value(start, end) if self._room(length, most) else None
        self.elements[tag] = Raw(vr, value, length)

    def _room(self, length: int, most: int) -> bool:
        if length > most or self._kept + length > self._limits.header_bytes:
            return False
        self._kept += length
        return True

    def _value(self, start: int, end: int) -> bytes:
        index = start - self._base
        if index >= 0 and end - self._base <= len(self._buffer):
            return self._buffer[index : end - self._base]
        return self._window.read(start, end)

    # movement -----------------------------------------------------------------------------------

    def _refill(self) -> int:
        self._buffer = self._window.fetch(self._position)
        self._base = self._position
        return 0

    def _pass(self, position: int) -> None:
        self._position = position
        if position > self._base + len(self._buffer):
            self._window.require(position)

    def _count_element(self) -> None:
        self.count += 1
        if self.count > self._limits.elements:
            self._give_up(f"more than {self._limits.elements} elements")

    def _give_up(self, reason: str) -> None:
        self.opaque = self.opaque or reason
        self._stack.clear()


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _name(tag: int) -> str:
    text = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    if tag in _ENDS:
        return f"the {_ENDS[tag]} delimiter {text}"
    return text


def _beyond(tag: int, length: int, room: int) -> str:
    return f"{_name(tag)} announces {length} bytes where {max(room, 0)} are left"
