"""Take acknowledged objects into the index: one transaction a batch, then the files move.

The inbox is the write-ahead log: whatever happens here, an object stays there until its rows are
committed and its file stands in its final place, so every step may be done again. Duplicates are
decided here. Refuses to answer anybody: the sender had its Success before.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest

from router import doorbell, storage
from router.dicom.errors import DicomError
from router.dicom.header import Header
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
from router.services import clock
from router.services.counters import Tally
from router.services.header_text import (
    SERIES_KEYWORDS,
    STUDY_KEYWORDS,
    columns,
    searchable,
    whole_number,
)
from router.spool import AssociationFacts, Spooled

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
    header: Header | None
    study_uid: str
    series_uid: str
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


def index(spooled: Sequence[Spooled]) -> int:
    """Index a batch and bring its files to their final place.

    Objects whose receipt exists already (a crash came between commit and move) are only moved.

    Args:
        spooled: acknowledged objects, in the order of their acknowledgement.

    Returns:
        How many objects were newly indexed.

    Raises:
        DatabaseError: nothing was written; the objects stay in the inbox.
        OSError: rows were written but files could not be moved; call again later.
    """
    batch = Batch([_entry(item) for item in spooled])
    with transaction.atomic():
        done = _already_indexed(batch)
        fresh = [entry for entry in batch.entries if entry.spooled.receipt_id not in done]
        if fresh:
            _write(Batch(fresh))
    _move(batch.entries, done)
    return len(fresh)


def ensure_associations(facts: Iterable[AssociationFacts]) -> dict[str, Association]:
    """Return the rows of associations by our id, made where they are missing."""
    wanted = {item.id: item for item in facts}
    found = {row.uid: row for row in Association.objects.filter(uid__in=wanted)}
    missing = [item for uid, item in wanted.items() if uid not in found]
    if missing:
        rows = [_association(item) for item in missing]
        Association.objects.bulk_create(rows, ignore_conflicts=True)
        uids = [item.id for item in missing]
        found |= {row.uid: row for row in Association.objects.filter(uid__in=uids)}
    return found


def _association(facts: AssociationFacts) -> Association:
    return Association(
        uid=facts.id,
        origin=facts.origin,
        calling_ae=facts.calling_ae[:16],
        called_ae=facts.called_ae[:16],
        remote_host=facts.remote_host[:64],
        remote_port=facts.remote_port or None,
        source=facts.source or "",
        secure=facts.secure,
        user=facts.user or "",
        started_at=facts.started_at,
        seen_at=facts.started_at,
        end_reason="",
    )


def _entry(item: Spooled) -> Entry:
    """Read what the index needs; data that cannot be read any more is kept apart, not lost."""
    try:
        structure = item.examined().structure
    except (DicomError, OSError) as error:
        log.warning("index.unreadable", extra={"receipt": item.receipt_id, "error": str(error)})
        return Entry(item, None, "", "", problem=f"Unreadable when indexed: {error}"[:200])
    assert structure is not None  # noqa: S101 - examined() promises it
    study, series = structure.study_instance_uid or "", structure.series_instance_uid or ""
    problem = "" if study and series else "Study or Series Instance UID is missing."
    return Entry(item, structure.header, study[:64], series[:64], problem=problem)


def _already_indexed(batch: Batch) -> set[str]:
    ids = [entry.spooled.receipt_id for entry in batch.entries]
    return set(Receipt.objects.filter(uid__in=ids).values_list("uid", flat=True))


def _write(batch: Batch) -> None:
    """Write every row of a batch; runs inside one transaction."""
    batch.associations = ensure_associations(entry.spooled.association for entry in batch.entries)
    batch.studies = _ensure_studies(batch.entries)
    batch.series = _ensure_series(batch)
    batch.known = _known(batch.entries)
    for entry in batch.entries:
        _decide(entry, batch)
    _create_instances(batch)
    _create_receipts(batch)
    _create_marks(batch)
    _count(batch)
    doorbell.ring("route")


def _study_key(entry: Entry) -> str:
    # An object without a readable study gets a study of its own, named by our receipt.
    return entry.study_uid or f"unreadable.{entry.spooled.receipt_id}"


def _ensure_studies(entries: list[Entry]) -> dict[str, Study]:
    firsts: dict[str, Entry] = {}
    for entry in entries:
        firsts.setdefault(_study_key(entry), entry)
    found = {row.study_instance_uid: row for row in _studies(firsts)}
    missing = {uid: entry for uid, entry in firsts.items() if uid not in found}
    if missing:
        rows = [_new_study(uid, entry) for uid, entry in sorted(missing.items())]
        Study.objects.bulk_create(rows, ignore_conflicts=True)
        found |= {row.study_instance_uid: row for row in _studies(missing)}
    return found


def _studies(uids: Iterable[str]) -> Iterable[Study]:
    return Study.objects.filter(study_instance_uid__in=list(uids))


def _new_study(uid: str, entry: Entry) -> Study:
    texts = dict.fromkeys(STUDY_KEYWORDS, "")
    if entry.header is not None:
        texts = columns(entry.header, STUDY_KEYWORDS, Study)
    return Study(
        study_instance_uid=uid,
        patient_name_search=searchable(texts["patient_name"])[:324],
        modalities="",
        source=entry.spooled.association.source or "",
        first_received_at=entry.spooled.received_at,
        last_received_at=entry.spooled.received_at,
        **texts,
    )


def _ensure_series(batch: Batch) -> dict[tuple[str, str], Series]:
    firsts: dict[tuple[str, str], Entry] = {}
    for entry in batch.entries:
        firsts.setdefault((_study_key(entry), entry.series_uid), entry)
    found = _series_of(batch)
    missing = {key: entry for key, entry in firsts.items() if key not in found}
    if missing:
        rows = [_new_series(key, entry, batch) for key, entry in sorted(missing.items())]
        Series.objects.bulk_create(rows, ignore_conflicts=True)
        found = _series_of(batch)
    return found


def _series_of(batch: Batch) -> dict[tuple[str, str], Series]:
    names = {study.pk: uid for uid, study in batch.studies.items()}
    uids = {entry.series_uid for entry in batch.entries}
    rows = Series.objects.filter(study_id__in=names, series_instance_uid__in=uids)
    return {(names[row.study_id], row.series_instance_uid): row for row in rows}


def _new_series(key: tuple[str, str], entry: Entry, batch: Batch) -> Series:
    texts = dict.fromkeys(SERIES_KEYWORDS, "")
    number = None
    if entry.header is not None:
        texts = columns(entry.header, SERIES_KEYWORDS, Series)
        number = whole_number(entry.header, "SeriesNumber")
    return Series(
        study=batch.studies[key[0]], series_instance_uid=key[1], series_number=number, **texts
    )


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
    study = batch.studies[_study_key(entry)]
    place = "" if current.study_id == study.pk else " in another study"
    if entry.spooled.association.duplicates == DuplicatePolicy.VERSIONS:
        return ReceiptOutcome.VERSION, f"Other bytes under a known SOP Instance UID{place}."
    return (
        ReceiptOutcome.QUARANTINED,
        f"Other bytes under a known SOP Instance UID{place}; the first stays.",
    )


def _new_instance(entry: Entry, batch: Batch) -> Instance:
    item = entry.spooled
    key = (_study_key(entry), entry.series_uid)
    number = whole_number(entry.header, "InstanceNumber") if entry.header else None
    return Instance(
        study=batch.studies[key[0]],
        series=batch.series[key],
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
                study_instance_uid=entry.study_uid,
                series_instance_uid=entry.series_uid,
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


@dataclass
class _Sums:
    """What a batch adds to one study."""

    current: int = 0
    quarantined: int = 0
    bytes: int = 0
    last: datetime | None = None


def _count(batch: Batch) -> None:
    """Add to studies, series, associations and the counts by hour."""
    studies: dict[int, _Sums] = {}
    series: dict[int, int] = {}
    associations: dict[int, _Sums] = {}
    tally = Tally()
    for entry in batch.entries:
        _tally(tally, entry)
        arrived = associations.setdefault(
            batch.associations[entry.spooled.association.id].pk, _Sums()
        )
        arrived.current += 1
        arrived.bytes += entry.spooled.size
        if entry.outcome == ReceiptOutcome.DUPLICATE or entry.instance is None:
            continue
        sums = studies.setdefault(entry.instance.study_id, _Sums())
        sums.last = max(sums.last or entry.spooled.received_at, entry.spooled.received_at)
        if entry.outcome == ReceiptOutcome.STORED:
            sums.current += 1
            sums.bytes += entry.spooled.size
            series[entry.instance.series_id] = series.get(entry.instance.series_id, 0) + 1
        elif entry.outcome == ReceiptOutcome.QUARANTINED:
            sums.quarantined += 1
    for pk, number in sorted(series.items()):
        Series.objects.filter(pk=pk).update(instances_count=F("instances_count") + number)
    for pk, sums in sorted(studies.items()):
        _update_study(pk, sums)
    for pk, sums in sorted(associations.items()):
        Association.objects.filter(pk=pk).update(
            objects_count=F("objects_count") + sums.current,
            bytes=F("bytes") + sums.bytes,
            seen_at=clock.now(),
        )
    tally.write()


def _tally(tally: Tally, entry: Entry) -> None:
    modality = entry.header.text("Modality") if entry.header else ""
    tally.add(
        entry.spooled.received_at,
        _COUNTED[entry.outcome],
        size=entry.spooled.size,
        modality=modality,
        source=entry.spooled.association.source or "",
    )


def _update_study(pk: int, sums: _Sums) -> None:
    filled = Series.objects.filter(study_id=pk, instances_count__gt=0)
    modalities = sorted(set(filled.values_list("modality", flat=True)) - {""})
    Study.objects.filter(pk=pk).update(
        instances_count=F("instances_count") + sums.current,
        quarantined_count=F("quarantined_count") + sums.quarantined,
        bytes=F("bytes") + sums.bytes,
        series_count=filled.count(),
        modalities="\\".join(modalities)[:128],
        last_received_at=Greatest(F("last_received_at"), sums.last),
    )


def _move(entries: list[Entry], done: set[str]) -> None:
    """Bring files to their final place; drop the bytes of identical duplicates."""
    moves: list[tuple[Path, str]] = []
    known = _rows_of(entries, done)
    for entry in entries:
        instance = known.get(entry.spooled.receipt_id, entry.instance)
        if instance is None or instance.file_id != entry.spooled.receipt_id:
            entry.spooled.path.unlink(missing_ok=True)
        else:
            moves.append((entry.spooled.path, instance.location))
    storage.objects().place(moves)


def _rows_of(entries: list[Entry], done: set[str]) -> dict[str, Instance]:
    """Find the instances of objects that an earlier run had indexed already."""
    if not done:
        return {}
    receipts = Receipt.objects.filter(uid__in=done).select_related("instance")
    return {receipt.uid: receipt.instance for receipt in receipts if receipt.instance}
