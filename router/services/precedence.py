"""Whose turn it is: in a destination by priority and age, and between destinations.

The more urgent goes first, and nobody waits for ever: of eight claims in a row one begins with what
is normal and one with what is low; and a destination that was not served for a minute is served for
one run, however urgent what waits for others. Refuses to claim.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, Max, OuterRef, Q

from router import doorbell
from router.models import PROOF_SLOT, Destination, JobItem, LaneSlot, Priority
from router.models.destinations import DestinationQuerySet
from router.models.jobs import JobItemQuerySet
from router.services import lanes

TURNS = (
    *(Priority.URGENT, Priority.URGENT, Priority.URGENT, Priority.NORMAL),
    *(Priority.URGENT, Priority.URGENT, Priority.URGENT, Priority.LOW),
)
"""What a claim begins with, over and over. What is urgent alone never waits for a turn of others:
where nothing has that priority, the claim is as any other."""

PATIENCE = timedelta(seconds=60)
"""A destination that is not served for so long gives way to nobody in its next run."""
LOOKED_AT = timedelta(seconds=5)
"""To a destination that was looked after so lately nobody gives way."""
AT_ONCE = timedelta(seconds=1)
"""What is younger finds a free worker by itself, where there is one."""

Row = tuple[int, int, int]
"""Of an item: its id, how many workers were lost over it, its size."""
_COLUMNS = ("pk", "lost", "size")


def next_due(due: JobItemQuerySet, turn: int, limit: int) -> list[Row]:
    """Return the first of the items that are `due`, for the claim with that number."""
    first = TURNS[turn % len(TURNS)]
    rows: list[Row] = []
    if first != Priority.URGENT:
        mine = due.filter(priority=first).in_turn()
        rows = list(mine.values_list(*_COLUMNS)[:limit])
    return rows or list(due.in_turn().values_list(*_COLUMNS)[:limit])


def probe(due: JobItemQuerySet) -> list[Row]:
    """Return the one of the items that are `due` that shows whether a destination is back: one
    that failed least often, of these the first."""
    return list(due.order_by("tries", "priority", "id").values_list(*_COLUMNS)[:1])


def whole_series(due: JobItemQuerySet, rows: Sequence[Row]) -> list[Row]:
    """Put before each of `rows` what was chosen earlier of its series, and keep their number.

    For lanes that keep the order: the series has the turn of its most urgent item.
    """
    chosen = JobItem.objects.filter(pk__in=[pk for pk, _lost, _size in rows]).in_turn()
    series = list(dict.fromkeys(chosen.values_list("instance__series", flat=True)))
    places = {one: place for place, one in enumerate(series)}
    found = due.filter(instance__series__in=series).oldest_first()
    columns = found.values_list(*_COLUMNS, "instance__series")
    ordered = sorted(columns, key=lambda row: (places[row[3]], row[0]))
    return [row[:3] for row in ordered[: len(rows)]]


def first_due(destination: Destination, now: datetime) -> Priority | None:
    """Return the priority of the most urgent item that is due to a destination."""
    due = lanes.due(destination, now).in_turn()
    found = due.values_list("priority", flat=True).first()
    return None if found is None else Priority(found)


def is_more_urgent_due(destination: Destination, than: Priority, now: datetime) -> bool:
    """Tell whether something more urgent is due to the same destination."""
    due = lanes.due(destination, now).filter(priority__lt=than)
    return than > Priority.URGENT and due.exists()


def has_patience(destination: Destination, now: datetime) -> bool:
    """Tell whether a destination was served lately, so that it may give way for its next run."""
    served = LaneSlot.objects.filter(destination=destination).aggregate(last=Max("served_at"))
    return served["last"] is not None and served["last"] > now - PATIENCE


def must_give_way(destination: Destination, now: datetime, *, mine: Priority | None = None) -> bool:
    """Tell whether a worker is needed for something more urgent than `mine`, and ring for that.

    That is where all workers but one are busy (one routes), and more urgent items of a destination
    that could be sent to are served by nobody. Without `mine` it is about what is due next.
    """
    if _busy(now) < settings.WORKERS - 1:
        return False
    mine = mine or first_due(destination, now)
    if mine is None or mine == Priority.URGENT:
        return False
    for other in _unserved(now).exclude(pk=destination.pk):
        due = lanes.due(other, now).filter(priority__lt=mine, created_at__lte=now - AT_ONCE)
        if due.exists() and lanes.may_run(other):
            doorbell.ring("deliver", other.pk, 0)
            return True
    return False


def _busy(now: datetime) -> int:
    return LaneSlot.objects.exclude(owner="").filter(lease_until__gt=now).count()


def _unserved(now: datetime) -> DestinationQuerySet:
    slots = LaneSlot.objects.filter(destination=OuterRef("pk"), number__lt=PROOF_SLOT)
    is_held = ~Q(owner="") & Q(lease_until__gt=now)
    lately = slots.filter(is_held | Q(taken_at__gt=now - LOOKED_AT))
    free = Q(lane__paced_until=None) | Q(lane__paced_until__lte=now)
    active = Destination.objects.active().select_related("version", "lane")
    return active.filter(~Exists(lately), free)
