"""What a replay has come to: figures by destination, why the rest was not sent, and every pair.

Reads the pairs and, of those released, their items as they are now. Patient ids are masked for
those who may not see them. Refuses to know addresses of pages or how something is drawn.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from django.db.models import Count, Sum

from router.models import DONE_STATES, OPEN_STATES, ItemState, PairState, Replay
from router.services import audit, spreadsheet
from router.services.actors import Actor

MASK = "•••••"
MOST_REASONS = 50
HEADS = (
    "Study Instance UID", "Accession number", "Patient ID", "SOP Instance UID", "Destination",
    "Rule", "Transform", "Outcome", "Reason", "Status", "Bytes", "Finished",
)  # fmt: skip

UNRELEASED = "unreleased"
OUTCOMES: dict[str, str] = {
    UNRELEASED: "To be sent",
    ItemState.PENDING.value: "Waiting",
    ItemState.WAITING.value: "Waiting for the next try",
    ItemState.LEASED.value: "Being sent",
    ItemState.DELIVERED.value: "Delivered",
    ItemState.DELIVERED_WITH_WARNING.value: "Delivered with warning",
    ItemState.PARKED.value: "Failed",
    ItemState.HELD.value: "Held",
    ItemState.CANCELLED.value: "Cancelled",
    PairState.DROPPED.value: "Not sent after all",
    PairState.THERE.value: "There already",
    PairState.DIFFERENT.value: "Another object in its place",
    PairState.UNKNOWN.value: "Could not be asked for",
    PairState.ON_WAY.value: "On its way already",
    PairState.ON_HOLD.value: "Held by an earlier job",
    PairState.GONE.value: "Destination removed",
}
"""Each outcome by its key, in the order of a page."""

SENT = tuple(state.value for state in DONE_STATES)
OPEN = (UNRELEASED, *(state.value for state in OPEN_STATES))
"""Still to come, as long as nobody pauses or cancels it."""
LEFT_OUT = tuple(
    state.value
    for state in (
        *(PairState.THERE, PairState.DIFFERENT, PairState.UNKNOWN, PairState.ON_WAY),
        *(PairState.ON_HOLD, PairState.GONE),
    )
)
"""What the plan looked at and left out."""
FAILED = (ItemState.PARKED.value, ItemState.HELD.value)
"""What waits for a person."""
_UNSENT = (
    *(ItemState.PARKED.value, ItemState.HELD.value, ItemState.WAITING.value),
    ItemState.CANCELLED.value,
)


def outcome_of(pair_state: str, item_state: str | None) -> str:
    """Return the key of an outcome: the item's state, or why there is no item."""
    if item_state:
        return item_state
    return UNRELEASED if pair_state == PairState.PLANNED else pair_state


@dataclass
class Figures:
    """Objects and bytes by outcome, of one destination or of all."""

    name: str
    objects: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def count(self, keys: Iterable[str]) -> int:
        """Return how many objects have one of these outcomes."""
        return sum(self.objects[key] for key in keys)

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Return the outcomes that occur with their objects, in the order of a page."""
        return [(key, self.objects[key]) for key in OUTCOMES if self.objects[key]]

    @property
    def meant(self) -> int:
        """Objects that the plan is to send."""
        return self.count(key for key in OUTCOMES if key not in LEFT_OUT)

    @property
    def meant_bytes(self) -> int:
        """Their bytes."""
        return sum(self.bytes[key] for key in OUTCOMES if key not in LEFT_OUT)

    @property
    def sent(self) -> int:
        """Objects that the destination took."""
        return self.count(SENT)

    @property
    def left(self) -> int:
        """Objects that are still to come."""
        return self.count(OPEN)

    @property
    def failed(self) -> int:
        """Objects that wait for a person."""
        return self.count(FAILED)

    @property
    def unasked(self) -> int:
        """Objects that the far end could not be asked for, so that they were left out."""
        return self.objects[PairState.UNKNOWN.value]

    @property
    def percent(self) -> int:
        """How much of what is meant is over, in whole percent; 100 only when all of it is."""
        return 100 * (self.meant - self.left) // self.meant if self.meant else 100


@dataclass(frozen=True, slots=True)
class Reason:
    """Objects that were not sent, or not yet, for one reason."""

    destination: str
    outcome: str
    reason: str
    count: int


def figures(replay: Replay) -> tuple[Figures, list[Figures]]:
    """Return the figures of all pairs, and of each destination by name."""
    rows = replay.pairs.order_by().values_list("destination__name", "state", "item__state")
    whole, places = Figures("all"), dict[str, Figures]()
    for name, pair_state, item_state, number, total in rows.annotate(
        number=Count("pk"), total=Sum("size")
    ):
        key = outcome_of(pair_state, item_state)
        for one in (whole, places.setdefault(name, Figures(name))):
            one.objects[key] += number
            one.bytes[key] += total
    return whole, [places[name] for name in sorted(places)]


def reasons(replay: Replay) -> list[Reason]:
    """Return why objects were not sent, or not yet, the most frequent first."""
    failing = replay.pairs.filter(item__state__in=_UNSENT).exclude(item__reason="")
    left_out = replay.pairs.filter(item=None).exclude(detail="").exclude(state=PairState.PLANNED)
    found = [
        Reason(name, outcome_of(state, item_state), reason, count)
        for rows, column in ((failing, "item__reason"), (left_out, "detail"))
        for name, state, item_state, reason, count in rows.order_by()
        .values_list("destination__name", "state", "item__state", column)
        .annotate(number=Count("pk"))
    ]
    found = [one for one in found if one.outcome != PairState.THERE]
    return sorted(found, key=lambda one: (-one.count, one.destination))[:MOST_REASONS]


# --- every pair ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Entry:
    """One pair as the report has it."""

    study_instance_uid: str
    accession_number: str
    patient_id: str
    sop_instance_uid: str
    destination: str
    rule: str
    transform: str
    outcome: str
    reason: str
    status: int | None
    bytes: int
    finished_at: str


_COLUMNS = (
    *("study__study_instance_uid", "study__accession_number", "study__patient_id"),
    *("instance__sop_instance_uid", "destination__name", "rule", "transform", "size"),
    *("state", "detail", "item__state", "item__reason", "item__status", "item__finished_at"),
)


def entries(replay: Replay, *, clear: bool) -> Iterator[Entry]:
    """Yield every pair, study by study; patient ids masked unless `clear`."""
    for row in replay.pairs.in_order().values_list(*_COLUMNS).iterator(2000):
        study, accession, patient, instance, destination, rule, transform, size = row[:8]
        state, detail, item_state, reason, status, finished = row[8:]
        yield Entry(
            study_instance_uid=study,
            accession_number=accession,
            patient_id=patient if clear else MASK,
            sop_instance_uid=instance,
            destination=destination,
            rule=rule,
            transform=transform,
            outcome=OUTCOMES[outcome_of(state, item_state)],
            reason=reason or detail,
            status=status,
            bytes=size,
            finished_at=finished.isoformat(timespec="seconds") if finished else "",
        )


def export(replay: Replay, form: str, *, clear: bool, actor: Actor) -> Iterator[str]:
    """Yield the report as ``csv`` or ``json``; that somebody took it is audited first."""
    audit.record(
        "export",
        actor=actor,
        code="export",
        target=f"report of replay {replay.pk}",
        details={"format": form},
    )
    return (as_json if form == "json" else as_csv)(replay, clear=clear)


def as_csv(replay: Replay, *, clear: bool) -> Iterator[str]:
    """Yield the report as the lines of a CSV file that is safe to open."""
    return spreadsheet.lines(HEADS, entries(replay, clear=clear), _cells)


def _cells(entry: Entry) -> tuple[object, ...]:
    status = "" if entry.status is None else f"{entry.status:04X}"
    return (
        *(entry.study_instance_uid, entry.accession_number, entry.patient_id),
        *(entry.sop_instance_uid, entry.destination, entry.rule, entry.transform, entry.outcome),
        *(entry.reason, status, entry.bytes, entry.finished_at),
    )


def as_json(replay: Replay, *, clear: bool) -> Iterator[str]:
    """Yield the report as JSON: the replay in figures, then every pair."""
    whole, _places = figures(replay)
    head = {
        "replay": replay.pk,
        "state": replay.state,
        "studies": replay.studies_count,
        "objects": replay.objects_count,
        "bytes": replay.bytes,
        "outcomes": {OUTCOMES[key]: count for key, count in whole.parts},
    }
    yield f'{_json(head)[:-1]}, "pairs": ['
    mark = ""
    for entry in entries(replay, clear=clear):
        yield f"{mark}\n{_json({name: getattr(entry, name) for name in Entry.__slots__})}"
        mark = ","
    yield "\n]}\n"


_json = json.JSONEncoder(ensure_ascii=False).encode
