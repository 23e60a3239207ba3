"""Files of indexed objects on their way from the inbox to their final place.

May be done again at any time: a file that has moved already is where it belongs. It refuses to
decide what is kept; the rows say so.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router import crashpoints, storage
from router.models import InstanceState, Receipt, location_of
from router.spool import Spooled

log = logging.getLogger(__name__)

FIELDS: Final = (
    *("pk", "study_id", "series_id", "state", "file_id"),
    *("transfer_syntax_uid", "sha256"),
)


@dataclass(slots=True)
class Kept:
    """What the index holds of one object, or is about to; in the order of ``FIELDS``."""

    pk: int
    study_id: int
    series_id: int
    state: str
    file_id: str
    transfer_syntax_uid: str
    sha256: str

    @property
    def location(self) -> str:
        """Its key below the storage root."""
        return location_of(self.study_id, self.series_id, file_id=self.file_id)


def move(objects: Iterable[tuple[Spooled, Kept | None]], *, done: set[str]) -> None:
    """Bring files to their final place; drop the bytes of identical duplicates.

    Args:
        objects: what was acknowledged, with what the index holds of it.
        done: the receipts that an earlier run had indexed; their rows are read.

    Raises:
        OSError: not all could be moved; call again later.
    """
    moves: list[tuple[Path, str]] = []
    known = _rows_of(done)
    for spooled, fresh in objects:
        kept = known.get(spooled.receipt_id, fresh)
        if kept is None or not _is_wanted(kept, spooled.receipt_id):
            spooled.path.unlink(missing_ok=True)
        elif _is_there(spooled, kept.location):
            moves.append((spooled.path, kept.location))
    storage.objects().place(_one_by_one(moves))


def _rows_of(done: set[str]) -> dict[str, Kept]:
    """Find the instances of objects that an earlier run had indexed already."""
    if not done:
        return {}
    fields = [f"instance__{name}" for name in FIELDS]
    rows = Receipt.objects.filter(uid__in=done).exclude(instance=None)
    return {uid: Kept(*values) for uid, *values in rows.values_list("uid", *fields)}


def _is_wanted(kept: Kept, receipt_id: str) -> bool:
    """Tell whether a receipt's bytes are those of its instance, and still wanted."""
    return kept.file_id == receipt_id and kept.state != InstanceState.PURGED.value


def _is_there(spooled: Spooled, location: str) -> bool:
    """Tell whether there is a file to move; one that is nowhere must not stop the others."""
    if spooled.path.exists():
        return True
    try:
        storage.objects().size(location)
    except FileNotFoundError:
        log.error("index.file_missing", extra={"receipt": spooled.receipt_id})  # a gap to verify
    return False


def _one_by_one(moves: Iterable[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    for one in moves:
        crashpoints.reach("index.between_moves")
        yield one
