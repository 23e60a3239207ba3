"""A stored object as it leaves for an S3 store: our Part 10 file (PS3.10 7), whole or in parts.

Reads and hashes block by block, so a file is never whole in memory; sends nothing. That the stored
bytes are those that were received is known before the first of them leaves.
"""

import base64
import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from router.destinations.base import Context, Outgoing
from router.destinations.outcomes import Outcome
from router.destinations.s3_answers import Trouble
from router.dicom import part10

BLOCK = 1 << 20
MOST_PARTS = 10_000  # what a store allows


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the file with the digests that the store checks."""

    number: int
    start: int
    length: int
    md5: bytes
    sha256: bytes

    @property
    def content_md5(self) -> str:
        """Return the header Content-MD5 (RFC 1864)."""
        return base64.b64encode(self.md5).decode("ascii")

    @property
    def checksum(self) -> str:
        """Return the header x-amz-checksum-sha256."""
        return base64.b64encode(self.sha256).decode("ascii")


@dataclass(frozen=True, slots=True)
class Cargo:
    """The whole file: what stands before the data set, its length, and its parts in order."""

    meta: bytes
    size: int
    parts: tuple[Part, ...]

    @property
    def etag(self) -> str:
        """Return the ETag that a store gives it that makes ETags of MD5."""
        if len(self.parts) == 1:
            return self.parts[0].md5.hex()
        whole = hashlib.md5(b"".join(part.md5 for part in self.parts), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(self.parts)}"

    @property
    def checksum(self) -> str:
        """Return the checksum that a store keeps of it: of the whole, or composed of the parts'."""
        if len(self.parts) == 1:
            return self.parts[0].checksum
        whole = hashlib.sha256(b"".join(part.sha256 for part in self.parts)).digest()
        return f"{base64.b64encode(whole).decode('ascii')}-{len(self.parts)}"


class Watch:
    """Ends what takes too long or is not wanted any more; tells of each block that moved."""

    def __init__(self, context: Context, size: int) -> None:
        self._context, self._end = context, time.monotonic() + context.deadline(size)
        self.sent = 0

    def look_up(self) -> None:
        """Look whether to go on.

        Raises:
            Trouble: no.
        """
        if self._context.abort():
            raise Trouble(Outcome.NOT_SENT, "The sending was stopped on our side.")
        if time.monotonic() > self._end:
            detail = "The object took longer than its deadline allows; it was not stored."
            raise Trouble(Outcome.RETRY, detail, "transport")

    def waiting(self) -> None:
        """Tell that it is waited for something of our own, and look whether to go on.

        Raises:
            Trouble: no.
        """
        self.moved(0)
        self.look_up()

    def moved(self, count: int) -> None:
        """Tell of `count` bytes that left, or with none that work goes on."""
        self.sent += count
        self._context.progress(count)


@dataclass(frozen=True, slots=True)
class Load:
    """An item with its open file and all that is known of it before it leaves."""

    item: Outgoing
    file: BinaryIO
    cargo: Cargo
    watch: Watch


class Stretch:
    """A stretch of the file as the body of a request, which is read once or more (to be signed).

    What ends the reading is kept as `raised`: on the way through the HTTP client it loses its name.
    """

    def __init__(self, load: Load, part: Part) -> None:
        self._load, self._start, self._length = load, part.start, part.length
        self._position, self._is_leaving = 0, False
        self.raised: BaseException | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def was_whole(self) -> bool:
        """Whether every byte was given to the connection."""
        return self._is_leaving and self._position == self._length

    @property
    def given(self) -> int:
        """How many bytes were given to the connection."""
        return self._position if self._is_leaving else 0

    def leave(self) -> None:
        """From now on what is read leaves."""
        self._is_leaving = True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere within the stretch."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; b'' at the end of the stretch."""
        try:
            block = self._next(self._length if size is None or size < 0 else size)
            if self._is_leaving:
                self._load.watch.moved(len(block))
        except BaseException as error:
            self.raised = error
            raise
        return block

    def _next(self, size: int) -> bytes:
        load = self._load
        load.watch.look_up()
        size = min(size, BLOCK, self._length - self._position)
        if size <= 0:
            return b""
        position = self._start + self._position
        block = _read(load.file, load.cargo.meta, load.item.offset, position, size)
        self._position += len(block)
        return block


@contextmanager
def opened(item: Outgoing) -> Iterator[BinaryIO]:
    """Open the stored object.

    Raises:
        Trouble: it cannot be read.
    """
    try:
        file = item.open()
    except OSError as error:
        raise _unreadable(error) from error
    with file:
        yield file


def measure(item: Outgoing, file: BinaryIO, watch: Watch, *, part_size: int) -> Cargo:
    """Read the stored object once and return it as cargo in parts of `part_size` or more.

    Raises:
        Trouble: it is not what was received, cannot be read, or the watch ends it.
    """
    meta = part10.file_meta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    size = len(meta) + item.size
    each = max(part_size, -(-size // MOST_PARTS))
    data, parts = hashlib.sha256(), []
    for number, start in enumerate(range(0, size, each), 1):
        length = min(each, size - start)
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        for position in range(start, start + length, BLOCK):
            watch.look_up()
            wanted = min(BLOCK, start + length - position)
            block = _read(file, meta, item.offset, position, wanted)
            md5.update(block)
            sha256.update(block)
            data.update(memoryview(block)[max(0, len(meta) - position) :])
        parts.append(Part(number, start, length, md5.digest(), sha256.digest()))
        watch.moved(0)
    if data.hexdigest() != item.sha256:
        raise _damaged("its bytes are not those that were received; run verify_ledger")
    return Cargo(meta, size, tuple(parts))


def _read(file: BinaryIO, meta: bytes, offset: int, position: int, size: int) -> bytes:
    """Return `size` bytes from `position` of the file that begins with `meta`."""
    head = meta[position : position + size]
    try:
        file.seek(offset + max(0, position - len(meta)))
        rest = file.read(size - len(head))
    except OSError as error:
        raise _unreadable(error) from error
    if len(head) + len(rest) != size:
        raise _damaged("bytes of it are missing; run verify_ledger")
    return head + rest


def data_digest(body: Iterator[bytes]) -> tuple[str, str]:
    """Return transfer syntax and hash of the data set of a Part 10 file that comes in blocks.

    Raises:
        DicomError: it is none.
    """
    head = bytearray()
    for block in body:
        head += block
        if len(head) >= BLOCK:
            break
    meta = part10.read_meta(io.BytesIO(head))
    digest = hashlib.sha256(memoryview(head)[meta.offset :])
    for block in body:
        digest.update(block)
    return meta.transfer_syntax, digest.hexdigest()


def _damaged(why: str) -> Trouble:
    return Trouble(Outcome.DATA_ERROR, f"The stored object was not delivered: {why}.")


def _unreadable(error: OSError) -> Trouble:
    if isinstance(error, FileNotFoundError):
        return _damaged("it is missing; run verify_ledger")
    detail = f"The stored object cannot be read at the moment: {error.strerror or 'input error'}."
    return Trouble(Outcome.RETRY, detail)
