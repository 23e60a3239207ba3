"""A stored object made ready for one association: as it is, or turned on the way out.

Opens, reads and hashes; sends nothing. What is wrong with the stored file is said as `Damaged` (for
good) or `Unreadable` (for now).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Self, cast

from router import dimse, sandbox
from router.destinations.base import Outgoing
from router.destinations.turning import layout_of, needs_codec, turned
from router.dicom.errors import DicomError
from router.dicom.pixels import has_pixels
from router.dicom.syntaxes import ENCODABLE
from router.dicom.transcode import UNDEFINED, Readable, reencode

READ_BYTES = 1 << 16


Trouble = dimse.Damaged | dimse.Unreadable | sandbox.Abandoned
"""Why a parcel cannot be made."""


def _never() -> bool:
    return False


class Ahead:
    """Opens the parcel after the present one, and has its beginning read, while an answer is
    awaited; what goes wrong with it is said when its turn comes. Use it in a `with`."""

    def __init__(self, association: dimse.Association, stop: Callable[[], bool] = _never) -> None:
        self._association, self._stop = association, stop
        self._item: Outgoing | None = None
        self._made: dimse.Parcel | Trouble | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def look_at(self, item: Outgoing, context_id: int, transfer_syntax: str) -> None:
        """Open `item`, which comes next, and read its beginning."""
        self._item = item
        try:
            made = self._open.enter_context(
                parcel(item, context_id, transfer_syntax, stop=self._stop)
            )
            self._association.begin(made)
            self._made = made
        except (dimse.Damaged, dimse.Unreadable, sandbox.Abandoned) as error:
            self._made = error

    @contextmanager
    def parcel(
        self, item: Outgoing, context_id: int, transfer_syntax: str
    ) -> Iterator[dimse.Parcel]:
        """Give `item` as a parcel, opened before or now; close it at the end.

        Raises:
            dimse.Damaged, dimse.Unreadable, sandbox.Abandoned.
        """
        opened, self._open = self._open, ExitStack()
        with opened:
            if self._item is not item:
                self._made = opened.enter_context(
                    parcel(item, context_id, transfer_syntax, stop=self._stop)
                )
            made, self._item, self._made = self._made, None, None
            if not isinstance(made, dimse.Parcel):
                raise cast(Exception, made)  # it was looked at, and this was found
            yield made


@dataclass(frozen=True, slots=True)
class Turn:
    """What one item is sent with: the association, what the destination wants, and the item that
    comes after it. Without `ahead` the item leaves padded."""

    association: dimse.Association
    plan: dimse.Plan
    preference: dimse.Preference = dimse.AS_STORED
    ahead: Ahead | None = None
    following: Outgoing | None = None

    def context(self, item: Outgoing) -> tuple[int, str] | None:
        """Return context id and transfer syntax for `item`, None when the peer accepted none."""
        return dimse.choose(
            item.sop_class_uid,
            self._ways(item),
            proposals=self.plan.proposals,
            accepted=self.association.contexts,
        )

    def _ways(self, item: Outgoing) -> Sequence[str]:
        """Nothing is encoded for an object without pixels; only then is the header looked at."""
        ways = self.preference.ways(item.transfer_syntax)
        encoded = [way for way in ways if way in ENCODABLE and way != item.transfer_syntax]
        if not encoded or _has_pixels(item):
            return ways
        return [way for way in ways if way not in encoded]

    def parcel(
        self, item: Outgoing, context_id: int, transfer_syntax: str
    ) -> AbstractContextManager[dimse.Parcel]:
        """Return `item` as a parcel."""
        if self.ahead is None:
            return parcel(item, context_id, transfer_syntax, padded=True)
        return self.ahead.parcel(item, context_id, transfer_syntax)

    def look_ahead(self) -> None:
        """Open what comes next and read its beginning."""
        if self.ahead is None or self.following is None:
            return
        context = self.context(self.following)
        if context is not None:
            self.ahead.look_at(self.following, *context)


def _has_pixels(item: Outgoing) -> bool:
    try:
        return has_pixels(item.header())
    except (DicomError, OSError):
        return False  # what is wrong with it is said when it is opened


@contextmanager
def parcel(
    item: Outgoing,
    context_id: int,
    transfer_syntax: str,
    *,
    padded: bool = False,
    stop: Callable[[], bool] = _never,
) -> Iterator[dimse.Parcel]:
    """Open `item` and give it as a parcel that leaves in `transfer_syntax`; close it at the end.

    With `padded` it leaves as stored and with one zero byte more. `stop` is asked while a codec
    works.

    Raises:
        dimse.Damaged: the file is missing, or cannot be turned. dimse.Unreadable: it cannot be
            opened. sandbox.Abandoned: asked to stop.
    """
    with ExitStack() as held:
        file = held.enter_context(_opened(item))
        stream, copy, size = held.enter_context(
            _streamed(item, file, transfer_syntax, padded=padded, stop=stop)
        )

        def is_intact(egress_sha256: str) -> bool:
            stored_sha256 = egress_sha256 if copy is None else copy.stored_sha256()
            return stored_sha256 == item.sha256

        yield dimse.Parcel(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            context_id=context_id,
            size=size,
            stream=stream,
            intact=is_intact,
        )


@contextmanager
def _streamed(
    item: Outgoing,
    file: BinaryIO,
    transfer_syntax: str,
    *,
    padded: bool,
    stop: Callable[[], bool],
) -> "Iterator[tuple[dimse.Readable, _Copy | None, int]]":
    """Give what leaves as a stream, the copy that knows the stored hash when it is not the stored
    bytes, and about how long it is."""
    stored = item.transfer_syntax
    if padded:
        copy = _Copy(file, _with_zero)
        yield copy, copy, item.size + 1
    elif stored == transfer_syntax:
        # Every binary file has readinto; typing.BinaryIO does not say so.
        yield cast(dimse.Readable, file), None, item.size
    elif not needs_codec(stored, transfer_syntax):
        copy = _Copy(file, partial(reencode, stored=stored, wanted=transfer_syntax))
        yield copy, copy, item.size
    else:
        with turned(item, transfer_syntax, file, stop=stop) as pixels:
            file.seek(item.offset)
            layout = layout_of(stored)
            turn = partial(reencode, stored=layout, wanted=transfer_syntax, pixels=pixels)
            copy = _Copy(file, turn)
            is_native = pixels is not None and pixels.length != UNDEFINED
            yield copy, copy, max(item.size, pixels.length if pixels and is_native else 0)


def _opened(item: Outgoing) -> BinaryIO:
    try:
        file = item.open()
        file.seek(item.offset)
    except FileNotFoundError as error:
        raise dimse.Damaged("it is missing from the storage; run verify_ledger") from error
    except OSError as error:
        raise dimse.Unreadable(error.strerror or "input error") from error
    return file


def _with_zero(source: Readable) -> Iterator[bytes]:
    while part := source.read(READ_BYTES):
        yield part
    yield b"\0"


class _Copy:
    """A stored data set, read and hashed as it is stored and given out as `turn` makes it."""

    def __init__(self, file: BinaryIO, turn: Callable[[Readable], Iterator[bytes]]) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._parts, self._rest = turn(self), memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Return up to `size` stored bytes."""
        try:
            got = self._file.read(size)
        except OSError as error:
            raise dimse.Unreadable(error.strerror or "input error") from error
        self._digest.update(got)
        return got

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with what `turn` made."""
        if not self._rest:
            self._rest = memoryview(next(self._parts, b""))
        moved = min(len(buffer), len(self._rest))
        buffer[:moved] = self._rest[:moved]
        self._rest = self._rest[moved:]
        return moved

    def stored_sha256(self) -> str:
        """Return the hash of all that is stored, once everything was given out."""
        while self.read(READ_BYTES):
            continue
        return self._digest.hexdigest()
