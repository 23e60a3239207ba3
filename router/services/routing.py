"""Decide where stored instances go: read marks, match rules, write decisions, jobs and items.

Headers are read and rules matched before any transaction; then one transaction writes the decision
and answers the marks by a conditional UPDATE. Two routers that took the same marks cannot both
commit. "No match" is a decision too: nothing is ever silently not routed.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet

from router import crashpoints, doorbell
from router.dicom.rules import RuleSpec
from router.models import (
    Association,
    DecisionPhase,
    QuietTimer,
    RoutingMark,
    TimerItem,
    Trigger,
)
from router.models.batches import Update
from router.services import choosing, clock, decisions
from router.services.decisions import Arrival

BATCH = 500
LONGEST_WAIT = timedelta(seconds=60)
# Timers that cannot fire yet must not keep the others from it.
MOST_LOOKED_AT = 1000


_ANSWER = Update(
    RoutingMark, changes={"decision_id": "{1}", "header": "NULL"}, only="decision_id IS NULL"
)
_ANSWER_FOR_NOW = Update(
    RoutingMark, changes={"decision_id": "{1}"}, only="decision_id IS NULL"
)  # the rules are asked again when a timer fires
_TRY_LATER = Update(RoutingMark, changes={"tries": "{1}", "due_at": "{2}"})


class Overtaken(Exception):
    """Another router answered these marks, or this timer, first; nothing was written."""


def route_batch(limit: int = BATCH) -> int:
    """Decide for the oldest undecided marks.

    Returns:
        How many marks were taken; 0 when there is nothing to do.

    Raises:
        Overtaken: another router was quicker; call again.
    """
    marks = RoutingMark.objects.due(clock.now()).oldest_first()
    arrivals = arrivals_of(marks[:limit])
    if not arrivals:
        return 0
    config = decisions.configuration()
    groups, unread = decisions.group_up(arrivals, config)
    crashpoints.reach("route.after_match")
    try:
        with transaction.atomic():
            _write_arrivals(groups, config)
            _try_later(unread)
            crashpoints.reach("route.before_commit")
    except IntegrityError as error:  # another router has chosen one of these pairs just now
        raise Overtaken from error
    crashpoints.reach("route.after_commit")
    return len(arrivals)


def arrivals_of(marks: QuerySet[RoutingMark]) -> list[Arrival]:
    """Return the marked instances, with what is needed of them and of their associations."""
    rows = marks.values_list(
        "pk",
        "tries",
        "instance_id",
        "instance__study_id",
        "instance__series_id",
        "instance__size",
        "association_id",
        "header",
    )
    associations = Association.objects.in_bulk({row[6] for row in rows})
    return [
        Arrival(mark, tries, pk, study, series, size, associations[key], _bytes(header))
        for mark, tries, pk, study, series, size, key, header in rows
    ]


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def _try_later(unread: Sequence[Arrival]) -> None:
    """Have instances wait whose files cannot be read now, longer each time."""
    now = clock.now()
    _TRY_LATER.write([(one.mark, one.tries + 1, now + _wait_of(one.tries)) for one in unread])


def _wait_of(tries: int) -> timedelta:
    return min(timedelta(seconds=2 ** min(tries, 10)), LONGEST_WAIT)


def _write_arrivals(groups: Sequence[decisions.Group], config: decisions.Configuration) -> None:
    rulings = [_on_arrival(group) for group in groups]
    decided = choosing.decide(rulings, config)
    _answer(rulings, decided)
    _push_back([arrival for group in groups for arrival in group.arrivals])
    for group in groups:
        for spec in group.chosen:
            if spec.on != Trigger.INSTANCE.value:
                _wait(spec, group.arrivals, config)


def _on_arrival(group: decisions.Group) -> choosing.Ruling:
    at_once = tuple(spec for spec in group.chosen if spec.on == Trigger.INSTANCE.value)
    waits = len(at_once) < len(group.chosen)
    return choosing.Ruling(group, DecisionPhase.ARRIVAL, at_once, waits)


def _answer(rulings: Sequence[choosing.Ruling], decided: Sequence[int]) -> None:
    """Answer the marks, if they all still wait."""
    final: list[tuple[int, int]] = []
    for_now: list[tuple[int, int]] = []
    for ruling, decision in zip(rulings, decided, strict=True):
        into = for_now if ruling.waits else final
        into += [(arrival.mark, decision) for arrival in ruling.group.arrivals]
    answered = _ANSWER.write(final) + _ANSWER_FOR_NOW.write(for_now)
    if answered != len(final) + len(for_now):
        raise Overtaken


# --- quiet timers --------------------------------------------------------------------------------
def _push_back(arrivals: Sequence[Arrival]) -> None:
    """Every arrival pushes back the open timers of its study and series, up to their cap."""
    now = clock.now()
    series = {arrival.series_id for arrival in arrivals}
    studies = {arrival.study_id for arrival in arrivals}
    timers = QuietTimer.objects.filter(study_id__in=studies, fired_at=None)
    for timer in timers:
        if timer.series_id is None or timer.series_id in series:
            due = min(now + timedelta(seconds=timer.quiet_seconds), timer.cap_at)
            QuietTimer.objects.filter(pk=timer.pk, fired_at=None).update(due_at=due)


def _wait(spec: RuleSpec, arrivals: Sequence[Arrival], config: decisions.Configuration) -> None:
    """Have instances wait for the timer of a rule, one a study or one a series."""
    groups: dict[int | None, list[Arrival]] = {}
    for arrival in arrivals:
        key = arrival.series_id if spec.on == Trigger.SERIES.value else None
        groups.setdefault(key, []).append(arrival)
    for series_id, members in groups.items():
        timer = _timer(spec, members[0].study_id, series_id, config)
        TimerItem.objects.bulk_create(
            [TimerItem(timer=timer, instance_id=one.instance) for one in members],
            ignore_conflicts=True,
        )


def _timer(
    spec: RuleSpec, study_id: int, series_id: int | None, config: decisions.Configuration
) -> QuietTimer:
    now = clock.now()
    quiet = timedelta(seconds=spec.quiet_seconds)
    cap = now + max(config.quiet_cap, quiet)
    timer, _is_new = QuietTimer.objects.get_or_create(
        rule=spec.name,
        study_id=study_id,
        series_id=series_id,
        fired_at=None,
        defaults={
            "trigger": spec.on,
            "opened_at": now,
            "due_at": now + quiet,
            "cap_at": cap,
            "quiet_seconds": spec.quiet_seconds,
        },
    )
    return timer


def fire_timers(limit: int = 20) -> int:
    """Decide for the timers that are due; each fires once.

    Returns:
        How many fired.
    """
    now = clock.now()
    due = QuietTimer.objects.filter(fired_at=None, due_at__lte=now).order_by("due_at")
    fired = 0
    for timer in due.select_related("study")[:MOST_LOOKED_AT]:
        fired += _fire(timer, now)
        if fired >= limit:
            break
    return fired


def _fire(timer: QuietTimer, now: datetime) -> bool:
    if RoutingMark.objects.undecided().filter(instance__study_id=timer.study_id).exists():
        return False  # what has arrived and is not yet routed will push the timer back
    config = decisions.configuration()
    ids = list(timer.items.order_by("instance_id").values_list("instance_id", flat=True))
    marks = RoutingMark.objects.filter(instance_id__in=timer.items.values("instance_id"))
    groups, unread = decisions.group_up(arrivals_of(marks.order_by("instance_id")), config)
    if unread:
        _fire_later(timer, unread)
        return False
    try:
        with transaction.atomic():
            _write_fired(timer, ids, groups, config, now=now)
    except (Overtaken, IntegrityError):
        return False
    return True


@transaction.atomic
def _fire_later(timer: QuietTimer, unread: Sequence[Arrival]) -> None:
    """Put off a timer some of whose files cannot be read now, longer each time."""
    _try_later(unread)
    due = clock.now() + _wait_of(max(arrival.tries for arrival in unread))
    QuietTimer.objects.filter(pk=timer.pk, fired_at=None).update(due_at=due)


def _write_fired(
    timer: QuietTimer,
    ids: list[int],
    groups: list[decisions.Group],
    config: decisions.Configuration,
    *,
    now: datetime,
) -> None:
    open_timer = QuietTimer.objects.filter(pk=timer.pk, fired_at=None, due_at__lte=now)
    if not open_timer.update(fired_at=now):
        raise Overtaken
    if timer.items.count() != len(ids):
        raise Overtaken  # an instance joined meanwhile; the next look takes it along
    rulings = [
        choosing.Ruling(
            group,
            DecisionPhase.QUIET,
            tuple(spec for spec in group.chosen if spec.name == timer.rule),
        )
        for group in groups
    ]
    choosing.decide(rulings, config)
    timer.items.all().delete()
    _forget_headers(groups)


def _forget_headers(groups: Sequence[decisions.Group]) -> None:
    """Drop the headers of instances that wait for no timer any more."""
    marks = [arrival.mark for group in groups for arrival in group.arrivals]
    waits = TimerItem.objects.filter(instance_id=OuterRef("instance_id"))
    RoutingMark.objects.filter(~Exists(waits), pk__in=marks).update(header=None)


# --- a person decides ----------------------------------------------------------------------------
def reconsider(instances: Iterable[int]) -> int:
    """Have instances routed again under the rules of today (after a release).

    Args:
        instances: row ids of instances that have a mark.

    Returns:
        How many marks are open again.
    """
    marks = RoutingMark.objects.filter(instance_id__in=list(instances))
    count = marks.update(decision=None, tries=0, due_at=None)
    doorbell.ring("route")
    return count


def oldest_undecided() -> datetime | None:
    """Return when the oldest mark without a decision was made."""
    marks = RoutingMark.objects.undecided().oldest_first()
    return marks.values_list("created_at", flat=True).first()


def marks_due() -> bool:
    """Tell whether a mark waits to be decided now."""
    return RoutingMark.objects.due(clock.now()).exists()


def timers_due() -> bool:
    """Tell whether a quiet timer waits to be fired."""
    return QuietTimer.objects.filter(fired_at=None, due_at__lte=clock.now()).exists()
