"""The story of one destination: how old its backlog is, its rate by hour, its last answers.

Read only, and limited to what the reader may see. The state of the lane is `overview`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Sum

from router.models import (
    OPEN_STATES,
    Attempt,
    AttemptOutcome,
    CounterKind,
    Destination,
    ItemState,
    User,
)
from router.services import clock
from router.services.visibility import visible_counts, visible_items

HOURS = 24
LATELY = 200
MOST_ANSWERS = 20
AGES: tuple[tuple[str, timedelta], ...] = (
    ("under 15 minutes", timedelta(0)),
    ("15 minutes to 1 hour", timedelta(minutes=15)),
    ("1 hour to 1 day", timedelta(hours=1)),
    ("over 1 day", timedelta(days=1)),
)


@dataclass(frozen=True)
class Age:
    """How many objects have been waiting, or are held, for so long."""

    label: str
    waiting: int
    held: int


@dataclass(frozen=True)
class Answer:
    """One try and how it ended; `job` is where to read on."""

    at: datetime
    outcome: str
    label: str
    status: int | None
    detail: str
    bytes_sent: int
    job: int


@dataclass(frozen=True)
class LaneStory:
    """What the page of a destination tells beside its state."""

    ages: tuple[Age, ...]
    hours: tuple[int, ...]
    delivered: int
    answers: tuple[Answer, ...]


def read(user: User, destination: Destination) -> LaneStory:
    """Return the story of a destination as far as `user` may see it."""
    hours = _hours(user, destination)
    answers = tuple(_answers(user, destination))
    return LaneStory(tuple(_ages(user, destination)), hours, sum(hours), answers)


def _ages(user: User, destination: Destination) -> Iterator[Age]:
    now = clock.now()
    items = visible_items(user).filter(destination=destination).order_by()
    ends = [now - age for _label, age in AGES[1:]] + [None]
    for (label, age), end in zip(AGES, ends, strict=True):
        chosen = items.filter(created_at__lte=now - age)
        if end is not None:
            chosen = chosen.filter(created_at__gt=end)
        waiting = chosen.filter(state__in=OPEN_STATES).count()
        yield Age(label, waiting, chosen.filter(state=ItemState.HELD).count())


def _hours(user: User, destination: Destination) -> tuple[int, ...]:
    this = clock.now().replace(minute=0, second=0, microsecond=0)
    first = this - timedelta(hours=HOURS - 1)
    counts = visible_counts(user).filter(
        kind=CounterKind.DELIVERED, destination=destination.name, hour__gte=first
    )
    by_hour = dict(counts.order_by().values_list("hour").annotate(total=Sum("objects_count")))
    return tuple(by_hour.get(first + timedelta(hours=back), 0) for back in range(HOURS))


def _answers(user: User, destination: Destination) -> Iterator[Answer]:
    """The last tries of the newest objects, which an index finds."""
    items = visible_items(user).filter(destination=destination).order_by("-pk")
    newest = list(items.values_list("pk", flat=True)[:LATELY])
    tried = Attempt.objects.filter(item_id__in=newest).exclude(outcome=AttemptOutcome.RUNNING)
    for row in tried.select_related("item").order_by("-ended_at", "-pk")[:MOST_ANSWERS]:
        yield Answer(
            at=row.ended_at or row.started_at,
            outcome=row.outcome,
            label=row.get_outcome_display(),
            status=row.status,
            detail=row.detail,
            bytes_sent=row.bytes_sent,
            job=row.item.job_id,
        )
