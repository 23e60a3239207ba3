"""Take acknowledged objects into the index: one transaction a batch, then the files move.

The inbox is the write-ahead log: whatever happens here, an object stays there until its rows are
committed and its file stands in its final place, so every step may be done again. Duplicates are
decided here. Refuses to answer anybody: the sender had its Success before.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.db import transaction
from django.db.models import F

from router import crashpoints, doorbell, storage
from router.dicom.errors import DicomError
from router.dicom.header import Structure
from router.dicom.uids import valid_uid
from router.models import (
    Association,
    CounterKind,
    DuplicatePolicy,
    Instance,
    InstanceState,
    Receipt,
    ReceiptOutcome,
    RoutingMark,
    Series,
    Study,
)
from router.services import clock, hierarchy
from router.services.associations import ensure_associations
from router.services.counters import Tally
from router.services.header_text import whole_number
from router.services.hierarchy import Growth, Place
from router.spool import Spooled

log = logging.getLogger(__name__)

_COUNTED = {
    ReceiptOutcome.STORED: CounterKind.RECEIVED,
    ReceiptOutcome.VERSION: CounterKind.RECEIVED,
    ReceiptOutcome.DUPLICATE: CounterKind.DUPLICATE,
    ReceiptOutcome.QUARANTINED: CounterKind.QUARANTINED,
}
_STATES = {
    ReceiptOutcome.STORED: InstanceState.CURRENT,
    ReceiptOutcome.VERSION: InstanceState.VERSION,
    ReceiptOutcome.QUARANTINED: InstanceState.QUARANTINED,
}


@dataclass(frozen=True)
class Known:
    """What already stands under a SOP Instance UID."""

    instance: Instance
    transfer_syntax_uid: str
    sha256: str


@dataclass
class Entry:
    """One object on its way through a batch."""

    spooled: Spooled
    place: Place
    problem: str = ""
    outcome: ReceiptOutcome = ReceiptOutcome.STORED
    reason: str = ""
    instance: Instance | None = None


@dataclass
class Batch:
    """The entries of one transaction with the rows they hang on."""

    entries: list[Entry]
    associations: dict[str, Association] = field(default_factory=dict)
    studies: dict[str, Study] = field(default_factory=dict)
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    known: dict[str, list[Known]] = field(default_factory=dict)


def index(spooled: Sequence[Spooled], *, apart: str = "") -> int:
    """Index a batch and bring its files to their final place.

    Objects whose receipt exists already (a crash came between commit and move) are only moved.

    Args:
        spooled: acknowledged objects, in the order of their acknowledgement.
        apart: why these are kept apart without their headers being looked at; '' looks.

    Returns:
        How many objects were newly indexed.

    Raises:
        DatabaseError: nothing was written; the objects stay in the inbox.
        OSError: rows were written but files could not be moved; call again later.
    """
    batch = Batch([_apart(item, apart) if apart else _entry(item) for item in spooled])
    crashpoints.reach("index.before_transaction")
    with transaction.atomic():
        done = _already_indexed(batch)
        fresh = [entry for entry in batch.entries if entry.spooled.receipt_id not in done]
        if fresh:
            _write(Batch(fresh))
        crashpoints.reach("index.before_commit")
    crashpoints.reach("index.after_commit")
    _move(batch.entries, done)
    crashpoints.reach("index.after_moves")
    return len(fresh)


def _entry(item: Spooled) -> Entry:
    """Read what the index needs; data that cannot be read any more is kept apart, not lost."""
    try:
        structure = item.examined().structure
    except (DicomError, OSError) as error:
        if isinstance(error, OSError) and storage.is_passing(error):
            raise
        log.warning("index.unreadable", extra={"receipt": item.receipt_id, "error": str(error)})
        return _apart(item, f"Unreadable when indexed: {error}")
    assert structure is not None  # noqa: S101 - examined() promises it
    return Entry(item, _place(item, structure), problem=(structure.quarantine or "")[:200])


def _apart(item: Spooled, problem: str) -> Entry:
    return Entry(item, _place(item), problem=problem[:200])


def _place(item: Spooled, structure: Structure | None = None) -> Place:
    """Say which study and series an object belongs to.

    One without a usable UID there gets a study or series of its own, under a UID derived from our
    receipt (PS3.5 B.2); its bytes stay as they came.
    """
    own = f"2.25.{int(item.receipt_id, 16)}"
    study = structure.study_instance_uid if structure else None
    series = structure.series_instance_uid if structure else None
    return Place(
        study_uid=study if study and valid_uid(study) else own,
        series_uid=series if series and valid_uid(series) else own,
        header=structure.header if structure else None,
        source=item.association.source or "",
        received_at=item.received_at,
    )


def _already_indexed(batch: Batch) -> set[str]:
    ids = [entry.spooled.receipt_id for entry in batch.entries]
    return set(Receipt.objects.filter(uid__in=ids).values_list("uid", flat=True))


def _write(batch: Batch) -> None:
    """Write every row of a batch; runs inside one transaction."""
    batch.associations = ensure_associations(entry.spooled.association for entry in batch.entries)
    places = [entry.place for entry in batch.entries]
    batch.studies = hierarchy.ensure_studies(places)
    batch.series = hierarchy.ensure_series(places, batch.studies)
    batch.known = _known(batch.entries)
    for entry in batch.entries:
        _decide(entry, batch)
    _create_instances(batch)
    _create_receipts(batch)
    _create_marks(batch)
    _count(batch)
    doorbell.ring("route")


def _known(entries: list[Entry]) -> dict[str, list[Known]]:
    uids = {entry.spooled.sop_instance_uid for entry in entries}
    known: dict[str, list[Known]] = {}
    for row in Instance.objects.kept().filter(sop_instance_uid__in=uids).order_by("id"):
        known.setdefault(row.sop_instance_uid, []).append(
            Known(row, row.transfer_syntax_uid, row.sha256)
        )
    return known


def _decide(entry: Entry, batch: Batch) -> None:
    """Say what an object is under its UID: the first, an identical one, or other bytes."""
    item = entry.spooled
    known = batch.known.setdefault(item.sop_instance_uid, [])
    same = [one for one in known if (one.transfer_syntax_uid, one.sha256) == _identity(item)]
    if same:
        entry.outcome, entry.instance = ReceiptOutcome.DUPLICATE, same[0].instance
        entry.reason = "Identical to the object already stored."
        return
    if entry.problem:
        entry.outcome, entry.reason = ReceiptOutcome.QUARANTINED, entry.problem
    elif any(one.instance.state == InstanceState.CURRENT for one in known):
        entry.outcome, entry.reason = _conflict(entry, known, batch)
    entry.instance = _new_instance(entry, batch)
    known.append(Known(entry.instance, item.transfer_syntax, item.sha256))


def _identity(item: Spooled) -> tuple[str, str]:
    return item.transfer_syntax, item.sha256


def _conflict(entry: Entry, known: list[Known], batch: Batch) -> tuple[ReceiptOutcome, str]:
    current = next(one.instance for one in known if one.instance.state == InstanceState.CURRENT)
    study = batch.studies[entry.place.study_uid]
    place = "" if current.study_id == study.pk else " in another study"
    if entry.spooled.association.duplicates == DuplicatePolicy.VERSIONS.value:
        return ReceiptOutcome.VERSION, f"Other bytes under a known SOP Instance UID{place}."
    return (
        ReceiptOutcome.QUARANTINED,
        f"Other bytes under a known SOP Instance UID{place}; the first stays.",
    )


def _new_instance(entry: Entry, batch: Batch) -> Instance:
    item = entry.spooled
    place = entry.place
    number = whole_number(place.header, "InstanceNumber") if place.header else None
    return Instance(
        study=batch.studies[place.study_uid],
        series=batch.series[place.key],
        sop_instance_uid=item.sop_instance_uid,
        sop_class_uid=item.sop_class_uid,
        transfer_syntax_uid=item.transfer_syntax,
        instance_number=number,
        state=_STATES[entry.outcome],
        reason=entry.reason,
        file_id=item.receipt_id,
        sha256=item.sha256,
        size=item.size,
        offset=item.offset,
        received_at=item.received_at,
    )


def _created(batch: Batch) -> list[Entry]:
    return [entry for entry in batch.entries if entry.outcome != ReceiptOutcome.DUPLICATE]


def _create_instances(batch: Batch) -> None:
    rows = [entry.instance for entry in _created(batch) if entry.instance is not None]
    rows.sort(key=lambda row: row.sop_instance_uid)  # two processes must not wait for each other
    Instance.objects.bulk_create(rows, batch_size=500)


def _create_receipts(batch: Batch) -> None:
    Receipt.objects.bulk_create(
        [
            Receipt(
                uid=entry.spooled.receipt_id,
                association=batch.associations[entry.spooled.association.id],
                outcome=entry.outcome,
                reason=entry.reason,
                sop_class_uid=entry.spooled.sop_class_uid,
                sop_instance_uid=entry.spooled.sop_instance_uid,
                study_instance_uid=entry.place.study_uid,
                series_instance_uid=entry.place.series_uid,
                transfer_syntax_uid=entry.spooled.transfer_syntax,
                sha256=entry.spooled.sha256,
                size=entry.spooled.size,
                instance=entry.instance,
                received_at=entry.spooled.received_at,
            )
            for entry in batch.entries
        ],
        batch_size=500,
    )


def _create_marks(batch: Batch) -> None:
    """Mark what is to be routed: everything stored except what is in quarantine."""
    now = clock.now()
    marked = [e for e in _created(batch) if e.outcome != ReceiptOutcome.QUARANTINED]
    RoutingMark.objects.bulk_create(
        [
            RoutingMark(
                instance=entry.instance,
                association=batch.associations[entry.spooled.association.id],
                created_at=now,
            )
            for entry in marked
        ],
        batch_size=500,
    )


def _count(batch: Batch) -> None:
    """Add to studies, series, associations and the counts by hour."""
    studies: dict[int, Growth] = {}
    series: Counter[int] = Counter()
    associations: dict[int, Growth] = {}
    tally = Tally()
    for entry in batch.entries:
        _tally(tally, entry)
        arrived = batch.associations[entry.spooled.association.id].pk
        _grow(associations.setdefault(arrived, Growth()), entry, current=True)
        if entry.outcome == ReceiptOutcome.DUPLICATE or entry.instance is None:
            continue
        stored = entry.outcome == ReceiptOutcome.STORED
        _grow(studies.setdefault(entry.instance.study_id, Growth()), entry, current=stored)
        series[entry.instance.series_id] += int(stored)
    for pk, number in sorted(series.items()):
        hierarchy.grow_series(pk, number)
    for pk, growth in sorted(studies.items()):
        hierarchy.grow_study(pk, growth)
    for pk, growth in sorted(associations.items()):
        Association.objects.filter(pk=pk).update(
            objects_count=F("objects_count") + growth.current,
            bytes=F("bytes") + growth.bytes,
            seen_at=clock.now(),
        )
    tally.write()


def _grow(growth: Growth, entry: Entry, *, current: bool) -> None:
    moment = entry.spooled.received_at
    growth.last = max(growth.last or moment, moment)
    growth.quarantined += int(entry.outcome == ReceiptOutcome.QUARANTINED)
    if current:
        growth.current += 1
        growth.bytes += entry.spooled.size


def _tally(tally: Tally, entry: Entry) -> None:
    tally.add(
        entry.spooled.received_at,
        _COUNTED[entry.outcome],
        size=entry.spooled.size,
        modality=entry.place.header.text("Modality") if entry.place.header else "",
        source=entry.place.source,
    )


def _move(entries: list[Entry], done: set[str]) -> None:
    """Bring files to their final place; drop the bytes of identical duplicates."""
    moves: list[tuple[Path, str]] = []
    known = _rows_of(entries, done)
    for entry in entries:
        instance = known.get(entry.spooled.receipt_id, entry.instance)
        if not _is_kept(instance, entry.spooled.receipt_id):
            entry.spooled.path.unlink(missing_ok=True)
        elif instance is not None and _is_there(entry.spooled, instance):
            moves.append((entry.spooled.path, instance.location))
    storage.objects().place(_one_by_one(moves))


def _is_kept(instance: Instance | None, receipt_id: str) -> bool:
    """Tell whether a receipt's bytes are those of its instance, and still wanted."""
    if instance is None or instance.file_id != receipt_id:
        return False
    return instance.state != InstanceState.PURGED


def _is_there(spooled: Spooled, instance: Instance) -> bool:
    """Tell whether there is a file to move; one that is nowhere must not stop the others."""
    if spooled.path.exists():
        return True
    try:
        storage.objects().size(instance.location)
    except FileNotFoundError:
        log.error("index.file_missing", extra={"receipt": spooled.receipt_id})  # a gap to verify
    return False


def _one_by_one(moves: Iterable[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    for move in moves:
        crashpoints.reach("index.between_moves")
        yield move


def _rows_of(entries: list[Entry], done: set[str]) -> dict[str, Instance]:
    """Find the instances of objects that an earlier run had indexed already."""
    if not done:
        return {}
    receipts = Receipt.objects.filter(uid__in=done).select_related("instance")
    return {receipt.uid: receipt.instance for receipt in receipts if receipt.instance}
