"""The bytes of a data set, seen through a small window: plain from a file, or inflated on the way.

It bounds memory and inflation; it knows nothing of elements. Positions count from the
start of the data set.
"""

import zlib
from typing import BinaryIO, Final

from router.dicom.errors import DeflateBomb, MalformedDataSet, TruncatedDataSet
from router.dicom.limits import Limits

FAR: Final = 1 << 62
_WINDOW = 1 << 16
_JUMP = 1 << 12


class PlainWindow:
    """Reads at any position, so that bulk values are passed over and never read."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self.end = size
        self._file = file
        self._offset = offset
        self._last = 0

    def fetch(self, position: int) -> bytes:
        """The next bytes from `position`: 64 KiB in a row, 4 KiB after a jump; b'' at the end."""
        wanted = _WINDOW if position - self._last <= _WINDOW else _JUMP
        data = self.read(position, min(position + wanted, self.end))
        self._last = position + len(data)
        return data

    def read(self, start: int, end: int) -> bytes:
        """Exactly the bytes from `start` to `end`, which lie inside the data set."""
        if end <= start:
            return b""
        self._file.seek(self._offset + start)
        data = self._file.read(end - start)
        if len(data) != end - start:
            raise TruncatedDataSet(start, "the file is shorter than its data set")
        return data

    def require(self, position: int) -> None:
        """Raise TruncatedDataSet unless the data set reaches to `position`."""
        if position > self.end:
            raise TruncatedDataSet(position, "a value reaches beyond the end of the data set")


class InflatedWindow:
    """Inflates forward in steps (PS3.5 A.5), remembers a bounded past, and refuses bombs."""

    end = FAR

    def __init__(self, file: BinaryIO, offset: int, size: int, *, limits: Limits) -> None:
        self._file = file
        self._left = size
        self._limits = limits
        self._keep = limits.sequence_bytes + limits.value_bytes + _WINDOW
        self._past = bytearray()
        self._past_start = 0
        self._consumed = 0
        self._finished = False
        file.seek(offset)
        self._inflater = zlib.decompressobj(15 if self._is_zlib(offset) else -15)
        self._input = b""

    def _is_zlib(self, offset: int) -> bool:
        """Some writers wrap the stream as zlib; a raw stream never begins so."""
        head = self._file.read(min(2, self._left))
        self._file.seek(offset)
        return len(head) == 2 and head[0] == 0x78 and int.from_bytes(head, "big") % 31 == 0

    @property
    def _reached(self) -> int:
        return self._past_start + len(self._past)

    def fetch(self, position: int) -> bytes:
        """At most 64 KiB from `position`; b'' when the stream ends there."""
        self._inflate_to(position + _WINDOW)
        self._check_past(position)
        start = position - self._past_start
        return bytes(self._past[start : start + _WINDOW])

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the near past; the caller asks for no more than a value or sequence limit."""
        self.require(end)
        self._check_past(start)
        return bytes(self._past[start - self._past_start : end - self._past_start])

    def require(self, position: int) -> None:
        """Inflate up to `position`, or raise TruncatedDataSet when the stream ends before."""
        self._inflate_to(position)
        if self._reached < position:
            raise TruncatedDataSet(position, "a value reaches beyond the end of the inflated data")

    def _check_past(self, position: int) -> None:
        if position < self._past_start:
            raise MalformedDataSet(position, "inflated data is no longer held")

    def _inflate_to(self, position: int) -> None:
        while not self._finished and self._reached < position:
            self._past += self._step()
            self._check_size()
            if self._inflater.eof:
                self._finish()
            surplus = len(self._past) - self._keep
            if surplus > self._keep:
                del self._past[:surplus]
                self._past_start += surplus

    def _step(self) -> bytes:
        if not self._input:
            self._input = self._file.read(min(_WINDOW, self._left))
            self._left -= len(self._input)
            self._consumed += len(self._input)
        try:
            data = self._inflater.decompress(self._input, _WINDOW)
        except zlib.error as error:
            raise MalformedDataSet(self._reached, "the deflated data set is damaged") from error
        if not data and not self._input and not self._inflater.eof:
            raise TruncatedDataSet(self._reached, "the deflated data set is cut off")
        self._input = self._inflater.unconsumed_tail
        return data

    def _finish(self) -> None:
        """After the stream only NUL padding (PS3.5 A.5) or a gzip trailer may follow."""
        self._finished = True
        rest = self._inflater.unused_data + self._file.read(min(_WINDOW, self._left))
        size = (self._reached & 0xFFFFFFFF).to_bytes(4, "little")
        if rest[4:8] == size and not rest[8:].strip(b"\x00"):
            return
        if rest.strip(b"\x00"):
            raise MalformedDataSet(self._reached, "bytes follow the deflated data set")

    def _check_size(self) -> None:
        size = self._reached
        if size > self._limits.inflated_bytes_hard:
            raise DeflateBomb(size, "the data set inflates beyond the absolute limit")
        soft = self._limits.inflated_bytes
        if size > soft and size > self._limits.inflated_ratio * self._consumed:
            raise DeflateBomb(size, "the data set inflates beyond the permitted ratio")


Window = PlainWindow | InflatedWindow
