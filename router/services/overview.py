"""Figures of the dashboard and the lists, read and never written.

Each function answers one panel with frozen rows. Everything is limited to what the reader may see.
Refuses to know addresses of pages or how something is drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, Q, QuerySet, Sum
from django.db.models.functions import TruncHour

from router.models import (
    OPEN_STATES,
    AuditEvent,
    CounterKind,
    Decision,
    DecisionOutcome,
    Destination,
    Heartbeat,
    HourCount,
    ItemState,
    Lane,
    LaneState,
    LedgerCheck,
    Permission,
    RoutingMark,
    User,
)
from router.services import (
    clock,
    health,
    heartbeats,
    lanes,
    proof_story,
    quarantine,
    users,
)
from router.services.visibility import (
    visible_associations,
    visible_counts,
    visible_instances,
    visible_items,
)

# Any in this module: rows of values(), whose columns the query names.

HOURS = 24
MARK_IS_LATE = timedelta(minutes=2)
BACKLOG_IS_LATE = timedelta(minutes=10)
ARRIVED_LATELY = timedelta(minutes=2)
ASSOCIATION_IS_LOST = timedelta(minutes=10)
MOST_ROWS = 50


@dataclass(frozen=True)
class Attention:
    """One group of things that wait for a person; ``kind`` says what would help."""

    kind: str
    count: int
    since: datetime | None
    destination: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Figure:
    """One number of the last 24 hours, with its hours, oldest first."""

    name: str
    label: str
    count: int
    bytes: int
    hours: tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """A part of a figure."""

    label: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Arrival:
    """An association that is open, or was within the last two minutes."""

    source: str
    calling_ae: str
    remote_host: str
    objects_count: int
    bytes: int
    bytes_per_second: float
    is_open: bool
    seen_at: datetime


@dataclass(frozen=True)
class DestinationRow:
    """A destination with the state of its lane and its backlog."""

    name: str
    kind: str
    state: str
    reason: str
    resume_at: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    backlog: int
    parked: int
    held: int
    oldest: datetime | None
    per_minute: float
    alarm_at: datetime | None
    is_draining: bool


@dataclass(frozen=True)
class Disk:
    """The volume of the data directory, in bytes; ``state`` is open, slow or refuse."""

    total: int
    free: int
    state: str
    seconds_to_full: float | None

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self.total - self.free


@dataclass(frozen=True)
class Process:
    """A process with its last sign of life."""

    name: str
    role: str
    at: datetime
    state: str
    facts: dict[str, object]


def attention(user: User) -> list[Attention]:
    """Return what waits for a person, the most urgent kind first."""
    return [
        *_disk(user),
        *_stopped(user),
        *_parked(user),
        *_unconfirmed(user),
        *_quarantined(user),
        *_unmatched(user),
        *_late(user),
        *_gaps(user),
    ]


def _disk(user: User) -> Iterable[Attention]:
    """A volume that fills up, for those who may see health; counted in free bytes."""
    if not users.holds(user, Permission.SEE_HEALTH):
        return
    free = health.fullest_volume().free
    state = health.disk_state(free)
    if state != "open":
        last = AuditEvent.objects.filter(event="intake.disk").order_by("-pk").first()
        yield Attention(f"disk-{state}", free, last.at if last else None)


def _gaps(user: User) -> Iterable[Attention]:
    """The last reckoning, when it found gaps; only for those who may see the whole ledger."""
    check = LedgerCheck.objects.order_by("-at").first()
    if check is not None and check.gaps_count and users.holds(user, Permission.SEE_HEALTH):
        yield Attention("gaps", check.gaps_count, check.at)


def _stopped(user: User) -> Iterable[Attention]:
    """Destinations that stand still, and those that fail while objects wait for long."""
    late = clock.now() - BACKLOG_IS_LATE
    for row in destinations(user):
        facts = (row.name, row.reason)
        if row.state in {LaneState.STOPPED, LaneState.PAUSED}:
            yield Attention(row.state, row.backlog, row.last_failure_at, *facts)
        elif row.state == LaneState.BACKOFF and row.oldest is not None and row.oldest < late:
            yield Attention("failing", row.backlog, row.oldest, *facts)
        elif row.alarm_at is not None and row.alarm_at <= clock.now():
            yield Attention("overdue", row.backlog, row.oldest, row.name)


def _parked(user: User) -> Iterable[Attention]:
    parked = visible_items(user).filter(state=ItemState.PARKED)
    groups = parked.values("destination__name", "reason").annotate(
        count=Count("pk"), since=Min("created_at")
    )
    for group in groups.order_by("since")[:MOST_ROWS]:
        yield Attention(
            "parked", group["count"], group["since"], group["destination__name"], group["reason"]
        )


def _unconfirmed(user: User) -> Iterable[Attention]:
    """Destinations that do not say whether they have what they took."""
    for name, reason, count in proof_story.unconfirmed(user)[:MOST_ROWS]:
        yield Attention("unconfirmed", count, None, name, reason)


def _quarantined(user: User) -> Iterable[Attention]:
    found = visible_instances(user).quarantined()
    damaged = Q(reason__startswith=quarantine.DAMAGED)
    for kind, rows in (("damaged", found.filter(damaged)), ("quarantined", found.exclude(damaged))):
        row = rows.aggregate(count=Count("pk"), since=Min("received_at"))
        if row["count"]:
            yield Attention(kind, row["count"], row["since"])


def _unmatched(user: User) -> Iterable[Attention]:
    held = Decision.objects.filter(outcome=DecisionOutcome.HELD)
    marks = RoutingMark.objects.filter(decision__in=held)
    row = _own_marks(user, marks).aggregate(count=Count("pk"), since=Min("decision__created_at"))
    if row["count"]:
        yield Attention("unmatched", row["count"], row["since"])


def _late(user: User) -> Iterable[Attention]:
    marks = RoutingMark.objects.filter(decision=None, created_at__lt=clock.now() - MARK_IS_LATE)
    row = _own_marks(user, marks).aggregate(count=Count("pk"), since=Min("created_at"))
    if row["count"]:
        yield Attention("undecided", row["count"], row["since"])


def _own_marks(user: User, marks: QuerySet[RoutingMark]) -> QuerySet[RoutingMark]:
    return marks.filter(instance__in=visible_instances(user)) if user.limits() else marks


def today(user: User) -> list[Figure]:
    """Return received, delivered, waiting and parked, each with its last 24 hours."""
    return [
        _counted(user, CounterKind.RECEIVED, "Received"),
        _counted(user, CounterKind.DELIVERED, "Delivered"),
        _waiting(user),
        _parked_now(user),
    ]


def _counted(user: User, kind: CounterKind, label: str) -> Figure:
    hours = _hours(
        {row["hour"]: row["total_objects"] for row in _by_hour(user, kind)},
    )
    total = _recent(user, kind).aggregate(total_objects=Sum("objects_count"), bytes=Sum("bytes"))
    return Figure(kind.value, label, total["total_objects"] or 0, total["bytes"] or 0, hours)


def _waiting(user: User) -> Figure:
    """What is open now, by the hour in which it was chosen; older work is in the first bar."""
    items = visible_items(user).open()
    groups = items.annotate(hour=TruncHour("created_at")).values("hour")
    chosen = {row["hour"]: row["count"] for row in groups.annotate(count=Count("pk"))}
    total = items.aggregate(count=Count("pk"), bytes=Sum("size"))
    return Figure("waiting", "Waiting", total["count"], total["bytes"] or 0, _hours(chosen))


def _parked_now(user: User) -> Figure:
    total = visible_items(user).filter(state=ItemState.PARKED)
    row = total.aggregate(count=Count("pk"), bytes=Sum("size"))
    by_hour = {one["hour"]: one["total_objects"] for one in _by_hour(user, CounterKind.PARKED)}
    return Figure("parked", "Needs attention", row["count"], row["bytes"] or 0, _hours(by_hour))


def _first_hour() -> datetime:
    hour = clock.now().replace(minute=0, second=0, microsecond=0)
    return hour - timedelta(hours=HOURS - 1)


def _recent(user: User, kind: CounterKind) -> QuerySet[HourCount]:
    return visible_counts(user).filter(kind=kind, hour__gte=_first_hour())


def _by_hour(user: User, kind: CounterKind) -> Iterable[dict[str, Any]]:
    return _recent(user, kind).values("hour").annotate(total_objects=Sum("objects_count"))


def _hours(counts: dict[datetime, int]) -> tuple[int, ...]:
    first = _first_hour()
    bars = [0] * HOURS
    for hour, count in counts.items():
        position = int((hour - first).total_seconds() // 3600)
        bars[min(max(position, 0), HOURS - 1)] += count
    return tuple(bars)


def shares(user: User, kind: CounterKind, field: str) -> list[Share]:
    """Return a figure of the last 24 hours split by ``modality``, ``source`` or ``destination``."""
    groups = _recent(user, kind).values(field)
    rows = groups.annotate(total_objects=Sum("objects_count"), total_bytes=Sum("bytes")).order_by(
        "-total_objects"
    )
    return [
        Share(row[field] or "(none)", row["total_objects"], row["total_bytes"]) for row in rows[:8]
    ]


def arriving(user: User) -> list[Arrival]:
    """Return the associations that bring objects now, the newest first."""
    now = clock.now()
    associations = visible_associations(user).filter(
        Q(ended_at=None, seen_at__gte=now - ASSOCIATION_IS_LOST)
        | Q(seen_at__gte=now - ARRIVED_LATELY)
    )
    arrivals = []
    for row in associations.order_by("-started_at", "-pk")[:MOST_ROWS]:
        seconds = max((row.seen_at - row.started_at).total_seconds(), 1.0)
        arrivals.append(
            Arrival(
                source=row.source,
                calling_ae=row.calling_ae,
                remote_host=row.remote_host,
                objects_count=row.objects_count,
                bytes=row.bytes,
                bytes_per_second=row.bytes / seconds,
                is_open=row.ended_at is None,
                seen_at=row.seen_at,
            )
        )
    return arrivals


def destinations(user: User) -> list[DestinationRow]:
    """Return the present destinations with their lanes and backlogs, by name."""
    rows = Destination.objects.present().select_related("lane", "version").order_by("name")
    backlog = _backlog(user)
    rates = _rates(user)
    return [_destination(row, backlog.get(row.pk, {}), rates.get(row.pk, 0)) for row in rows]


def _backlog(user: User) -> dict[int, dict[str, Any]]:
    groups = visible_items(user).unfinished()
    counted = groups.values("destination_id").annotate(
        backlog=Count("pk", filter=Q(state__in=OPEN_STATES)),
        parked=Count("pk", filter=Q(state=ItemState.PARKED)),
        held=Count("pk", filter=Q(state=ItemState.HELD)),
        oldest=Min("created_at", filter=Q(state__in=OPEN_STATES)),
    )
    return {row["destination_id"]: row for row in counted.order_by()}


def _rates(user: User) -> dict[int, int]:
    since = clock.now() - timedelta(minutes=5)
    done = visible_items(user).filter(finished_at__gte=since)
    counted = done.values("destination_id").annotate(count=Count("pk"))
    return {row["destination_id"]: row["count"] for row in counted.order_by()}


def _destination(row: Destination, backlog: dict[str, Any], finished: int) -> DestinationRow:
    lane = getattr(row, "lane", None) or Lane(destination=row)
    return DestinationRow(
        name=row.name,
        kind=row.kind,
        state=lane.state if row.enabled else "disabled",
        reason=lane.reason,
        resume_at=lane.resume_at,
        last_success_at=lane.last_success_at,
        last_failure_at=lane.last_failure_at,
        backlog=backlog.get("backlog", 0),
        parked=backlog.get("parked", 0),
        held=backlog.get("held", 0),
        oldest=backlog.get("oldest"),
        per_minute=finished / 5,
        alarm_at=lanes.alarm_at(row, backlog.get("oldest")),
        is_draining=lane.drain_to is not None,
    )


def disk(user: User) -> Disk:
    """Return the state of the volume, with the time to full at the rate of the last 24 hours."""
    usage = health.fullest_volume()
    received = _recent(user, CounterKind.RECEIVED).aggregate(bytes=Sum("bytes"))["bytes"] or 0
    per_second = received / (HOURS * 3600)
    room = max(usage.free - settings.DISK_REFUSE, 0)
    return Disk(
        total=usage.total,
        free=usage.free,
        state=health.disk_state(usage.free),
        seconds_to_full=room / per_second if per_second > 1 else None,
    )


def processes() -> list[Process]:
    """Return every process that gave a sign of life, by role and name."""
    fresh = clock.now() - heartbeats.FRESH
    return [
        Process(row.name, row.role, row.at, "alive" if row.at >= fresh else "silent", row.facts)
        for row in Heartbeat.objects.order_by("role", "name")
    ]
