"""Take acknowledged objects into the index: one transaction a batch, then the files move.

The inbox is the write-ahead log: whatever happens here, an object stays there until its rows are
committed and its file stands in its final place, so every step may be done again. Duplicates are
decided here. Refuses to answer anybody: the sender had its Success before.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import transaction

from router import crashpoints, doorbell, storage
from router.dicom.errors import DicomError
from router.dicom.header import Structure, pack
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
)
from router.models.batches import Insert, Row, Update, reserve
from router.services import clock, hierarchy, placing, quarantine
from router.services.associations import ensure_associations
from router.services.counters import Tally
from router.services.header_text import whole_number
from router.services.hierarchy import Growth, Place
from router.services.placing import Kept
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


# A header larger than this is read from the file again when the rules ask for it.
PACKED_LIMIT = 32 << 10

_INSTANCES = Insert(
    Instance,
    *("id", "study_id", "series_id", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid"),
    *("instance_number", "state", "reason", "file_id", "sha256", "size", "offset", "received_at"),
)
_RECEIPTS = Insert(
    Receipt,
    *("uid", "association_id", "outcome", "reason", "sop_class_uid", "sop_instance_uid"),
    *("study_instance_uid", "series_instance_uid", "transfer_syntax_uid", "sha256", "size"),
    *("instance_id", "received_at"),
)
_MARKS = Insert(RoutingMark, "instance_id", "association_id", "created_at", "header")
_ARRIVED = Update(
    Association,
    changes={
        "objects_count": "objects_count + {1}",
        "bytes": "bytes + {2}",
        "seen_at": "{greatest}(seen_at, {3})",
    },
)


@dataclass(slots=True)
class Entry:
    """One object on its way through a batch."""

    spooled: Spooled
    place: Place
    problem: str = ""
    is_damaged: bool = False
    outcome: ReceiptOutcome = ReceiptOutcome.STORED
    reason: str = ""
    kept: Kept | None = None


@dataclass
class Batch:
    """The entries of one transaction with the rows they hang on."""

    entries: list[Entry]
    associations: dict[str, int] = field(default_factory=dict)
    studies: dict[str, int] = field(default_factory=dict)
    series: dict[tuple[str, str], int] = field(default_factory=dict)
    known: dict[str, list[Kept]] = field(default_factory=dict)


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
    placing.move([(entry.spooled, entry.kept) for entry in batch.entries], done=done)
    crashpoints.reach("index.after_moves")
    return len(fresh)


def _entry(item: Spooled) -> Entry:
    """Read what the index needs; data that cannot be read any more is kept apart, not lost."""
    if item.damage:
        return _damaged(item, item.damage)
    try:
        structure = item.examined().structure
    except (DicomError, OSError) as error:
        if isinstance(error, OSError) and storage.is_passing(error):
            raise
        log.warning("index.unreadable", extra={"receipt": item.receipt_id, "error": str(error)})
        return _damaged(item, f"unreadable when indexed: {error}")
    assert structure is not None  # noqa: S101 - examined() promises it
    return Entry(item, _place(item, structure), problem=(structure.quarantine or "")[:200])


def _damaged(item: Spooled, what: str) -> Entry:
    entry = _apart(item, f"{quarantine.DAMAGED}: {what}")
    entry.is_damaged = True
    return entry


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
    rows = ensure_associations(entry.spooled.association for entry in batch.entries)
    batch.associations = {uid: row.pk for uid, row in rows.items()}
    places = [entry.place for entry in batch.entries]
    batch.studies = hierarchy.ensure_studies(places)
    batch.series = hierarchy.ensure_series(places, batch.studies)
    batch.known = _known(batch.entries)
    for entry in batch.entries:
        _decide(entry, batch)
    _create_instances(batch)
    _create_receipts(batch)
    _create_marks(batch)
    _raise_alarm(batch)
    _count(batch)
    doorbell.ring("route")


def _known(entries: list[Entry]) -> dict[str, list[Kept]]:
    uids = {entry.spooled.sop_instance_uid for entry in entries}
    rows = Instance.objects.kept().filter(sop_instance_uid__in=uids).order_by("id")
    known: dict[str, list[Kept]] = {}
    for uid, *values in rows.values_list("sop_instance_uid", *placing.FIELDS):
        known.setdefault(uid, []).append(Kept(*values))
    return known


def _decide(entry: Entry, batch: Batch) -> None:
    """Say what an object is under its UID: the first, an identical one, or other bytes."""
    item = entry.spooled
    known = batch.known.setdefault(item.sop_instance_uid, [])
    same = [one for one in known if (one.transfer_syntax_uid, one.sha256) == _identity(item)]
    if same:
        entry.outcome, entry.kept = ReceiptOutcome.DUPLICATE, same[0]
        entry.reason = "Identical to the object already stored."
        return
    study = batch.studies[entry.place.study_uid]
    current = next((one for one in known if one.state == InstanceState.CURRENT.value), None)
    if entry.problem:
        entry.outcome, entry.reason = ReceiptOutcome.QUARANTINED, entry.problem
    elif current is not None:
        entry.outcome, entry.reason = _conflict(entry, is_elsewhere=current.study_id != study)
    place = (study, batch.series[entry.place.key])
    entry.kept = Kept(0, *place, _STATES[entry.outcome].value, item.receipt_id, *_identity(item))
    known.append(entry.kept)


def _identity(item: Spooled) -> tuple[str, str]:
    return item.transfer_syntax, item.sha256


def _conflict(entry: Entry, *, is_elsewhere: bool) -> tuple[ReceiptOutcome, str]:
    place = " in another study" if is_elsewhere else ""
    if entry.spooled.association.duplicates == DuplicatePolicy.VERSIONS.value:
        return ReceiptOutcome.VERSION, f"Other bytes under a known SOP Instance UID{place}."
    return (
        ReceiptOutcome.QUARANTINED,
        f"Other bytes under a known SOP Instance UID{place}; the first stays.",
    )


def _created(batch: Batch) -> list[tuple[Entry, Kept]]:
    """Return the entries that are new objects."""
    return [
        (entry, entry.kept)
        for entry in batch.entries
        if entry.kept is not None and entry.outcome != ReceiptOutcome.DUPLICATE
    ]


def _create_instances(batch: Batch) -> None:
    created = _created(batch)
    ids = reserve(Instance, len(created))
    for (_, kept), pk in zip(created, ids, strict=True):
        kept.pk = pk
    rows = [_instance(entry, kept) for entry, kept in created]
    rows.sort(key=lambda row: str(row[3]))  # by UID: two processes must not wait for each other
    _INSTANCES.write(rows)


def _instance(entry: Entry, kept: Kept) -> Row:
    item, header = entry.spooled, entry.place.header
    return (
        *(kept.pk, kept.study_id, kept.series_id),
        *(item.sop_instance_uid, item.sop_class_uid, item.transfer_syntax),
        whole_number(header, "InstanceNumber") if header else None,
        *(kept.state, entry.reason, item.receipt_id, item.sha256, item.size, item.offset),
        item.received_at,
    )


def _create_receipts(batch: Batch) -> None:
    _RECEIPTS.write([_receipt(entry, batch) for entry in batch.entries])


def _receipt(entry: Entry, batch: Batch) -> Row:
    item = entry.spooled
    return (
        *(item.receipt_id, batch.associations[item.association.id]),
        *(entry.outcome.value, entry.reason, item.sop_class_uid, item.sop_instance_uid),
        *(entry.place.study_uid, entry.place.series_uid, item.transfer_syntax, item.sha256),
        *(item.size, entry.kept.pk if entry.kept else None, item.received_at),
    )


def _raise_alarm(batch: Batch) -> None:
    for entry in batch.entries:
        if entry.is_damaged:
            item = entry.spooled
            quarantine.report_damage(item.receipt_id, item.association.id, reason=entry.problem)


def _create_marks(batch: Batch) -> None:
    """Mark what is to be routed: everything stored except what is in quarantine."""
    now = clock.now()
    _MARKS.write(
        [
            (kept.pk, batch.associations[entry.spooled.association.id], now, _packed(entry.place))
            for entry, kept in _created(batch)
            if entry.outcome != ReceiptOutcome.QUARANTINED
        ]
    )


def _packed(place: Place) -> bytes | None:
    """Return what the rules will read, so that the file need not be opened again for them."""
    packed = pack(place.header) if place.header else b""
    return packed if 0 < len(packed) <= PACKED_LIMIT else None


def _count(batch: Batch) -> None:
    """Add to studies, series, associations and the counts by hour."""
    studies: dict[int, Growth] = {}
    series: Counter[int] = Counter()
    associations: dict[int, Growth] = {}
    tally = Tally()
    for entry in batch.entries:
        _tally(tally, entry)
        arrived = batch.associations[entry.spooled.association.id]
        _grow(associations.setdefault(arrived, Growth()), entry, current=True)
        if entry.outcome == ReceiptOutcome.DUPLICATE or entry.kept is None:
            continue
        stored = entry.outcome == ReceiptOutcome.STORED
        _grow(studies.setdefault(entry.kept.study_id, Growth()), entry, current=stored)
        series[entry.kept.series_id] += int(stored)
    hierarchy.grow(studies, series)
    now, arrived_at = clock.now(), sorted(associations.items())
    _ARRIVED.write([(pk, growth.current, growth.bytes, now) for pk, growth in arrived_at])
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
