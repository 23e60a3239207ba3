"""Objects put together into STOW-RS requests (PS3.18 10.5.1), and the bodies of these.

A body is made while it leaves: nothing of an object is held but the block under way. The stored
hash is checked before the last block leaves, so a damaged object never leaves whole.
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from router.destinations.base import Outgoing
from router.destinations.outcomes import Outcome
from router.destinations.verdicts import Verdict
from router.dicom import part10
from router.dicom.multipart import Framing

BLOCK_BYTES = 1 << 18


class Unsendable(Exception):
    """A stored object cannot be read as it should be; `verdict` is for this one alone."""

    def __init__(self, item: Outgoing, verdict: Verdict) -> None:
        super().__init__(verdict.detail)
        self.item, self.verdict = item, verdict


def batches(
    items: Sequence[Outgoing], *, most: int, most_bytes: int
) -> Iterator[Sequence[Outgoing]]:
    """Yield `items` in order, as many together as the bounds allow; a larger one goes alone.

    No batch holds two of one SOP Instance UID: the answer could not tell them apart.
    """
    batch: list[Outgoing] = []
    size = 0
    for item in items:
        is_full = len(batch) >= most or size + item.size > most_bytes
        if batch and (is_full or any(_same(item, one) for one in batch)):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


def _same(one: Outgoing, other: Outgoing) -> bool:
    return one.sop_instance_uid == other.sop_instance_uid


@dataclass
class Parcel:
    """A batch as the body of one request. `whole` counts the objects that left to their end."""

    items: Sequence[Outgoing]
    framing: Framing = field(default_factory=lambda: Framing(uuid.uuid4().hex))
    begun: int = 0
    whole: int = 0
    is_complete: bool = False

    @property
    def size(self) -> int:
        """The length of the body."""
        return self.framing.length(len(_meta(item)) + item.size for item in self.items)

    def body(self) -> Iterator[bytes]:
        """Make the body, from its beginning.

        Raises:
            Unsendable: an object is missing, damaged, or cannot be read now.
        """
        self.begun = self.whole = 0
        self.is_complete = False
        for item in self.items:
            self.begun += 1
            yield self.framing.before + _meta(item)
            yield from _checked(item)
            yield self.framing.after
            self.whole += 1
        yield self.framing.end
        self.is_complete = True


def _meta(item: Outgoing) -> bytes:
    return part10.file_meta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )


def _checked(item: Outgoing) -> Iterator[bytes]:
    """Yield the data set; its last block only when all of it is as it was received."""
    digest, size, held = hashlib.sha256(), 0, b""
    for block in _stored(item):
        digest.update(block)
        size += len(block)
        if size > item.size:
            break
        if held:
            yield held
        held = block
    if size != item.size or digest.hexdigest() != item.sha256:
        detail = "The stored object's bytes are not those that were received; run verify_ledger."
        raise Unsendable(item, Verdict(Outcome.DATA_ERROR, detail))
    yield held


def _stored(item: Outgoing) -> Iterator[bytes]:
    try:
        with item.open() as file:
            file.seek(item.offset)
            while block := file.read(BLOCK_BYTES):
                yield block
    except FileNotFoundError as error:
        detail = "The stored object is missing; run verify_ledger."
        raise Unsendable(item, Verdict(Outcome.DATA_ERROR, detail)) from error
    except OSError as error:
        cause = error.strerror or "input error"
        detail = f"The stored object cannot be read at the moment: {cause}."
        raise Unsendable(item, Verdict(Outcome.RETRY, detail)) from error
