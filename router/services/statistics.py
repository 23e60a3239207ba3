"""Statistics over days: what came, what was delivered, by modality, source and destination.

Objects and bytes are read from the counts by hour; studies from studies and jobs themselves. A
study counts as sent to a destination when something of a job of it arrived there and nothing of it
is open. Days and hours are those of UTC. Refuses to write, and to know how anything is drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import TruncDay, TruncHour

from router.models import (
    DONE_STATES,
    CounterKind,
    HourCount,
    ItemState,
    Job,
    JobItem,
    Series,
    Study,
    User,
)
from router.services import clock
from router.services.visibility import visible_counts, visible_jobs, visible_studies

# Any in this module: rows of values(), whose columns the query names.

PERIODS = (1, 7, 30, 90)
"""Days up to now, today among them."""
USUAL_PERIOD = 7
KINDS = (CounterKind.RECEIVED, CounterKind.DELIVERED)
NOT_SENT = [
    ItemState.PENDING,
    ItemState.LEASED,
    ItemState.WAITING,
    ItemState.PARKED,
    ItemState.HELD,
]


@dataclass(frozen=True)
class Wanted:
    """What is asked for; an empty name asks for all. `destination` narrows what was delivered."""

    days: int = USUAL_PERIOD
    modality: str = ""
    source: str = ""
    destination: str = ""

    @property
    def start(self) -> datetime:
        """The beginning of the first day."""
        today = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=self.days - 1)

    @property
    def step(self) -> timedelta:
        """What one bar is: an hour of today, else a day."""
        return timedelta(hours=1) if self.days == 1 else timedelta(days=1)


@dataclass(frozen=True)
class Total:
    """Objects, bytes and studies, received and delivered."""

    received: int = 0
    received_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    studies: int = 0
    studies_sent: int = 0


@dataclass(frozen=True)
class Bar:
    """One hour or day."""

    start: datetime
    total: Total


@dataclass(frozen=True)
class Share:
    """One modality, source or destination; `sent` are objects delivered, by destination."""

    label: str
    total: Total
    sent: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Statistics:
    """Everything on the page; `destinations` are those that something was delivered to."""

    total: Total
    bars: tuple[Bar, ...]
    destinations: tuple[str, ...]
    by_modality: tuple[Share, ...]
    by_source: tuple[Share, ...]
    by_destination: tuple[Share, ...]


def read(user: User, wanted: Wanted) -> Statistics:
    """Return the statistics that the user may see."""
    counts = _counts(user, wanted)
    studies, jobs = _studies(user, wanted), _sent(user, wanted)
    bars = tuple(_bars(wanted, counts, studies, jobs))
    by_destination = tuple(_by_destination(counts, jobs))
    names = tuple(share.label for share in by_destination)
    return Statistics(
        total=_sum(bar.total for bar in bars),
        bars=bars,
        destinations=names,
        by_modality=tuple(_by_modality(counts, studies, names)),
        by_source=tuple(_by_source(counts, studies, names)),
        by_destination=by_destination,
    )


def rows(user: User, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield what is counted in its finest form, a row for each day (of today: each hour)."""
    trunc = TruncHour("hour") if wanted.days == 1 else TruncDay("hour")
    columns = ("start", "kind", "modality", "source", "destination")
    groups = _counts(user, wanted).annotate(start=trunc).values(*columns)
    totals = groups.annotate(total=Sum("objects_count"), total_bytes=Sum("bytes"))
    yield from totals.order_by(*columns).iterator(2000)


# --- what is asked for ---------------------------------------------------------------------------
def _counts(user: User, wanted: Wanted) -> QuerySet[HourCount]:
    counts = visible_counts(user).filter(hour__gte=wanted.start, kind__in=KINDS)
    if wanted.modality:
        counts = counts.filter(modality=wanted.modality)
    if wanted.source:
        counts = counts.filter(source=wanted.source)
    if wanted.destination:
        named = Q(kind=CounterKind.DELIVERED, destination=wanted.destination)
        counts = counts.filter(named | Q(kind=CounterKind.RECEIVED))
    return counts.order_by()


def _studies(user: User, wanted: Wanted) -> QuerySet[Study]:
    """Studies of which the first object came in the period."""
    start = wanted.start
    studies = visible_studies(user).filter(last_received_at__gte=start)  # this has an index
    studies = studies.filter(first_received_at__gte=start)
    if wanted.source:
        studies = studies.filter(source=wanted.source)
    if wanted.modality:
        inside = Series.objects.filter(study=OuterRef("pk"), modality=wanted.modality)
        studies = studies.filter(Exists(inside))
    return studies.order_by()


def _sent(user: User, wanted: Wanted) -> QuerySet[Job]:
    """Jobs begun in the period whose study arrived as far as it was to be sent."""
    items = JobItem.objects.filter(job=OuterRef("pk"))
    jobs = visible_jobs(user).filter(created_at__gte=wanted.start)
    if wanted.destination:
        jobs = jobs.filter(destination__name=wanted.destination)
    if wanted.source:
        jobs = jobs.filter(study__source=wanted.source)
    if wanted.modality:
        inside = Series.objects.filter(study=OuterRef("study_id"), modality=wanted.modality)
        jobs = jobs.filter(Exists(inside))
    arrived, missing = items.filter(state__in=DONE_STATES), items.filter(state__in=NOT_SENT)
    return jobs.filter(Exists(arrived), ~Exists(missing)).order_by()


# --- bars ----------------------------------------------------------------------------------------
def _bars(
    wanted: Wanted, counts: QuerySet[HourCount], studies: QuerySet[Study], jobs: QuerySet[Job]
) -> Iterator[Bar]:
    by_step = _totals(counts, "hour", floor=wanted)
    begun, sent = (
        _by_step(studies, "first_received_at", wanted),
        _by_step(jobs, "created_at", wanted),
    )
    moment, end = wanted.start, wanted.start + timedelta(days=wanted.days)
    while moment < end:
        total = by_step.get(moment, Total())
        numbers = {"studies": begun.get(moment, 0), "studies_sent": sent.get(moment, 0)}
        yield Bar(moment, replace(total, **numbers))
        moment += wanted.step


def _by_step(
    found: QuerySet[Study] | QuerySet[Job], column: str, wanted: Wanted
) -> dict[datetime, int]:
    trunc = TruncHour(column) if wanted.days == 1 else TruncDay(column)
    what = "study" if found.model is Job else "pk"
    groups = found.annotate(start=trunc).values_list("start")
    return dict(groups.annotate(number=Count(what, distinct=True)))


def _totals(
    counts: QuerySet[HourCount], column: str, *, floor: Wanted | None = None
) -> dict[Any, Total]:
    """Return totals by the values of a column; with `floor`, by the step a moment falls in."""
    found: dict[Any, Total] = {}
    groups = counts.values(column, "kind")
    for row in groups.annotate(total=Sum("objects_count"), total_bytes=Sum("bytes")):
        key = _floor(row[column], floor) if floor else row[column]
        name = "received" if row["kind"] == CounterKind.RECEIVED else "delivered"
        one = Total(**{name: row["total"], f"{name}_bytes": row["total_bytes"]})
        found[key] = _plus(found.get(key, Total()), one)
    return found


def _floor(moment: datetime, wanted: Wanted) -> datetime:
    return wanted.start + (moment - wanted.start) // wanted.step * wanted.step


def _plus(one: Total, other: Total) -> Total:
    return Total(**{name: value + getattr(other, name) for name, value in vars(one).items()})


def _sum(totals: Iterator[Total]) -> Total:
    found = Total()
    for total in totals:
        found = _plus(found, total)
    return found


# --- shares --------------------------------------------------------------------------------------
def _by_destination(counts: QuerySet[HourCount], jobs: QuerySet[Job]) -> Iterator[Share]:
    delivered = _totals(counts.filter(kind=CounterKind.DELIVERED), "destination")
    groups = jobs.values_list("destination__name")
    sent = dict(groups.annotate(number=Count("study", distinct=True)))
    for name in sorted({*delivered, *sent}):
        total = delivered.get(name, Total())
        yield Share(name, replace(total, studies_sent=sent.get(name, 0)))


def _by_modality(
    counts: QuerySet[HourCount], studies: QuerySet[Study], destinations: tuple[str, ...]
) -> Iterator[Share]:
    series = Series.objects.filter(study__in=studies).values_list("modality")
    number = dict(series.annotate(number=Count("study", distinct=True)).order_by())
    yield from _shares(counts, "modality", number, destinations)


def _by_source(
    counts: QuerySet[HourCount], studies: QuerySet[Study], destinations: tuple[str, ...]
) -> Iterator[Share]:
    number = dict(studies.values_list("source").annotate(number=Count("pk")))
    yield from _shares(counts, "source", number, destinations)


def _shares(
    counts: QuerySet[HourCount],
    column: str,
    studies: dict[str, int],
    destinations: tuple[str, ...],
) -> Iterator[Share]:
    totals = _totals(counts, column)
    delivered = counts.filter(kind=CounterKind.DELIVERED).values_list(column, "destination")
    sent = {(one, to): total for one, to, total in delivered.annotate(total=Sum("objects_count"))}
    for name in sorted(totals, key=lambda one: (-totals[one].received, one)):
        total = replace(totals[name], studies=studies.get(name, 0))
        yield Share(name, total, tuple((to, sent.get((name, to), 0)) for to in destinations))
