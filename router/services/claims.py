"""What a drain holds: items claimed with a lease and their attempts, written in one transaction.

The attempts stand before the network is touched (R15), and the lease is renewed by the one who
claimed, not by the one who sends: a system call that takes minutes costs nobody the lease. Touches
no stored bytes, which may be slow: the sender judges them. Decides nothing about results.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F, Q

from router import crashpoints, stopping
from router.models import (
    Destination,
    Instance,
    InstanceState,
    ItemState,
    JobItem,
    LaneSlot,
    Priority,
)
from router.models.jobs import JobItemQuerySet
from router.services import clock, lanes, liveness, pacing, precedence, tallies, units

CLAIM = 100
LEASE = timedelta(seconds=30)
RENEW_SECONDS = 5.0
SURE_SECONDS = 24.0
"""For so long after its last renewal a lease is ours without asking; less than `LEASE`."""
SILENCE_SECONDS = 600.0
"""A lease is let go when nothing was heard of the sending for so long: it hangs in the system."""

_INSTANCE = tuple(column.attname for column in Instance._meta.concrete_fields)
_ITEM = (
    "pk",
    "fence",
    "endpoint",
    "tries",
    "reason",
    "status",
    "size",
    "priority",
    "instance__series__modality",
    "instance__study__source",
    "instance__study__study_instance_uid",
    "instance__series__series_instance_uid",
)
_BEGIN = (
    "INSERT INTO router_attempt"
    " (item_id, fence, version_id, started_at, outcome, detail, bytes_sent)"
    " VALUES (%s, %s, %s, %s, '', '', 0)"
)


@dataclass(frozen=True, slots=True)
class Held:
    """One item of a claim as it was when it was claimed, with its object."""

    instance: Instance
    pk: int
    fence: int
    endpoint: int
    tries: int
    reason: str
    status: int | None
    size: int
    priority: int
    modality: str
    source: str
    study_instance_uid: str
    series_instance_uid: str


@dataclass
class Claim:
    """The items one drain holds under one owner's name; `renewed` and `heard` are monotonic.

    `unit` names what they are together, where the kind takes whole units. Where the order counts,
    nothing more of it leaves once it `is_broken` by an item that is to be tried again; nor once it
    `is_outdated`, because the destination was switched off or got another address meanwhile, or
    `is_overtaken` by what is more urgent.
    """

    owner: str
    slot: LaneSlot
    destination: Destination
    items: dict[int, Held]
    renewed: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    answered: set[int] = field(default_factory=set)
    delivered: int = 0
    lost: bool = False
    unit: str = ""
    is_ordered: bool = False
    is_broken: bool = False
    is_outdated: bool = False
    is_overtaken: bool = False

    def progress(self, _moved: int) -> None:
        """Bytes moved."""
        crashpoints.reach("deliver.mid_object")
        self.heard = time.monotonic()

    def must_end(self) -> bool:
        """Tell whether what is in flight must be broken off: we are to stop, or the lease may be
        another's (it was lost, or could not be renewed while the database was away)."""
        self.heard = time.monotonic()
        return self.lost or self.heard - self.renewed > SURE_SECONDS or stopping.overdue()

    @property
    def gives_up(self) -> bool:
        """Whether nothing more of it is to begin, without harm to what is in flight."""
        return self.is_broken or self.is_outdated or self.is_overtaken

    def remaining(self) -> int:
        """How many items have no written result yet."""
        return len(self.items) - len(self.answered)

    @property
    def priority(self) -> Priority | None:
        """Of the most urgent item that has no written result yet."""
        waiting = self.items.keys() - self.answered
        return min((Priority(self.items[pk].priority) for pk in waiting), default=None)


def held(items: JobItemQuerySet) -> dict[int, Held]:
    """Read `items` and their objects in one query, oldest first."""
    names = [*_ITEM, *(f"instance__{name}" for name in _INSTANCE)]
    found: dict[int, Held] = {}
    for row in items.oldest_first().values_list(*names):
        instance = Instance.from_db("default", _INSTANCE, row[len(_ITEM) :])
        found[row[0]] = Held(instance, *row[: len(_ITEM)])
    return found


def claim(
    destination: Destination, slot: LaneSlot, *, most: int = CLAIM, beside: bool = False
) -> Claim | None:
    """Claim the due items whose turn it is, at most `most`, and begin their attempts.

    After a failure or a lost worker it is only one, as a probe; no probe is claimed `beside` a
    claim that is under way. A probe after a failure is an item that failed least often: one that
    the far end fails at must not keep the lane closed for the others.

    Returns:
        None when nothing is due, or the lane takes no work, or the slot is not ours any more.
    """
    active = Destination.objects.active().select_related("version", "lane")
    fresh = active.filter(pk=destination.pk).first()
    if fresh is None or not lanes.admits(fresh, slot.number):
        return None
    now = clock.now()
    rows = _next_due(fresh, slot.turn, most, now)
    is_probe = bool(rows) and (rows[0][1] > 0 or fresh.lane.failures > 0)
    if not rows or (beside and is_probe):
        return None
    chosen = rows[:1] if is_probe else [row for row in rows if not row[1]]
    chosen = chosen[: pacing.fitting(fresh, [size for _pk, _lost, size in chosen])]
    if not pacing.grant(fresh, [size for _pk, _lost, size in chosen], now=now):
        return None
    return _take(fresh, slot, [pk for pk, _lost, _size in chosen], now)


def _next_due(
    destination: Destination, turn: int, most: int, now: datetime
) -> list[precedence.Row]:
    due = lanes.due(destination, now)
    is_ordered = lanes.is_ordered(destination)
    if is_ordered:
        due = _in_order(due, destination, now)
    is_probe = destination.lane.failures > 0
    rows = precedence.probe(due) if is_probe else precedence.next_due(due, turn, most)
    return precedence.whole_series(due, rows) if is_ordered else rows


def _in_order(due: JobItemQuerySet, destination: Destination, now: datetime) -> JobItemQuerySet:
    """Leave out the series of which something is under way or waits for its next try."""
    mine = JobItem.objects.filter(destination=destination).open()
    late = Q(state=ItemState.LEASED) | Q(state=ItemState.WAITING, due_at__gt=now)
    return due.exclude(instance__series__in=mine.filter(late).values("instance__series"))


@transaction.atomic
def _take(
    destination: Destination, slot: LaneSlot, ids: Sequence[int], now: datetime
) -> Claim | None:
    asked = time.monotonic()
    owner, until = liveness.new_name(), now + LEASE
    is_ours = LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner)
    if not is_ours.update(lease_until=until, served_at=now, turn=F("turn") + 1):
        return None  # we were held up for so long that the slot is another's now
    slot.turn += 1
    unit = units.of(ids[0], now=now) if units.is_for(destination) else units.Unit(tuple(ids), "")
    ids = unit.ids
    JobItem.objects.filter(pk__in=ids).lease(now=now, until=until, owner=owner)
    found = held(JobItem.objects.filter(pk__in=ids).leased_by(owner))
    items = {pk: found[pk] for pk in ids if pk in found}  # in the order of their turns
    taken = Claim(owner, slot, destination, items, renewed=asked, unit=unit.name)
    taken.is_ordered = lanes.is_ordered(destination)
    crashpoints.reach("deliver.after_claim")
    _refuse_changed(taken)
    _begin_attempts(taken, now)
    if time.monotonic() - asked > RENEW_SECONDS:  # a slow database; it is to be sent all the same
        renew([taken], slot)
    return taken if taken.items else None


def _begin_attempts(taken: Claim, now: datetime) -> None:
    moment = connection.ops.adapt_datetimefield_value(now)
    version = taken.destination.version_id
    rows = [(item.pk, item.fence, version, moment) for item in taken.items.values()]
    with connection.cursor() as cursor:
        cursor.executemany(_BEGIN, rows)


def _refuse_changed(taken: Claim) -> None:
    """Hold what was decided for another address; park what is not current any more (R20)."""
    for item in list(taken.items.values()):
        state, reason = _objection(item, taken.destination)
        if state is not None:
            _take_out(taken, item, state=state, reason=reason)


def _take_out(taken: Claim, item: Held, *, state: ItemState, reason: str) -> None:
    mine = JobItem.objects.filter(pk=item.pk).leased_by(taken.owner)
    mine.update(state=state, reason=reason, owner="", lease_until=None)
    if state == ItemState.PARKED:
        tallies.parked(item, taken.destination)
    del taken.items[item.pk]


def _objection(item: Held, destination: Destination) -> tuple[ItemState | None, str]:
    if item.endpoint != destination.endpoint:
        return ItemState.HELD, (
            f"The address of {destination.name} has changed since this was decided; release to "
            "send it there."
        )
    if item.instance.state not in {InstanceState.CURRENT, InstanceState.VERSION}:
        return ItemState.PARKED, "The object is not current any more; it was not sent."
    return None, ""


def _is_outdated(destination: Destination) -> bool:
    same = Destination.objects.active().filter(pk=destination.pk, endpoint=destination.endpoint)
    return not same.exists()


def renew(claims: Sequence[Claim], slot: LaneSlot, *, gives_way: bool = False) -> None:
    """Renew the leases of `claims` and of the slot; mark as lost what is not ours any more.

    What was answered has no lease. Claims on a destination that is another now are marked as
    outdated, those before which something more urgent is due, there or with `gives_way` elsewhere,
    as overtaken. When all has been silent for too long, nothing is renewed.
    """
    now, asked = clock.now(), time.monotonic()
    if claims and asked - max(one.heard for one in claims) > SILENCE_SECONDS:
        return
    is_ours = LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner)
    slot_is_ours = bool(is_ours.update(lease_until=now + LEASE))
    for one in claims:
        waiting = one.items.keys() - one.answered
        mine = JobItem.objects.filter(pk__in=waiting).leased_by(one.owner)
        renewed = mine.update(lease_until=now + LEASE)
        one.is_outdated = one.is_outdated or _is_outdated(one.destination)
        one.lost = one.lost or not slot_is_ours or renewed != len(waiting)
        one.renewed = asked
        one.is_overtaken = one.is_overtaken or _is_overtaken(one, now, gives_way=gives_way)


def _is_overtaken(claim: Claim, now: datetime, *, gives_way: bool) -> bool:
    mine, place = claim.priority, claim.destination
    if mine is None or mine == Priority.URGENT:
        return False
    due_here = precedence.is_more_urgent_due(place, mine, now)
    return due_here or (gives_way and precedence.must_give_way(place, now, mine=mine))


def spare_expired() -> int:
    """Let leases that ran out begin anew; for the moment after nobody could renew one.

    Those who hold them have what they sent in hand, and write it now that they can.

    Returns:
        How many items and slots were spared.
    """
    now = clock.now()
    slots = LaneSlot.objects.exclude(owner="").filter(lease_until__lt=now)
    spared = slots.update(lease_until=now + LEASE)
    return spared + JobItem.objects.expired(now).update(lease_until=now + LEASE)
