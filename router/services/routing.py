"""Decide where stored instances go: read marks, match rules, write decisions, jobs and items.

Headers are read and rules matched before any transaction; then one transaction writes the decision
and answers the marks by a conditional UPDATE. Two routers that took the same marks cannot both
commit. "No match" is a decision too: nothing is ever silently not routed.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db import IntegrityError, connection, transaction
from django.db.models import Case, QuerySet, Value, When

from router import crashpoints, doorbell
from router.dicom.rules import RuleSpec
from router.models import (
    Decision,
    DecisionPhase,
    Instance,
    QuietTimer,
    RoutingMark,
    TimerItem,
    Trigger,
)
from router.services import clock, decisions

log = logging.getLogger(__name__)

BATCH = 500
# Timers that cannot fire yet must not keep the others from it.
MOST_LOOKED_AT = 1000


class Overtaken(Exception):
    """Another router answered these marks, or this timer, first; nothing was written."""


def route_batch(limit: int = BATCH) -> int:
    """Decide for the oldest undecided marks.

    Returns:
        How many marks were taken; 0 when there is nothing to do.

    Raises:
        Overtaken: another router was quicker; call again.
    """
    with transaction.atomic():
        marks = list(_take(limit))
    if not marks:
        return 0
    config = decisions.configuration()
    groups = decisions.group_up(((m.instance, m.association, m.pk) for m in marks), config)
    crashpoints.reach("route.after_match")
    try:
        with transaction.atomic():
            _write_arrivals(groups, config)
            crashpoints.reach("route.before_commit")
    except IntegrityError as error:  # another router has chosen one of these pairs just now
        raise Overtaken from error
    crashpoints.reach("route.after_commit")
    return len(marks)


def _take(limit: int) -> QuerySet[RoutingMark]:
    marks = RoutingMark.objects.undecided().oldest_first()
    marks = marks.select_related("instance__study", "instance__series", "association")
    if connection.features.has_select_for_update_skip_locked:
        marks = marks.select_for_update(skip_locked=True, of=("self",))
    return marks[:limit]


def _write_arrivals(groups: Sequence[decisions.Group], config: decisions.Configuration) -> None:
    rulings = [_on_arrival(group) for group in groups]
    decided = decisions.decide(rulings, config)
    _answer(groups, decided)
    _push_back([instance for group in groups for instance in group.instances])
    for group in groups:
        for spec in group.chosen:
            if spec.on != Trigger.INSTANCE.value:
                _wait(spec, group.instances, config)


def _on_arrival(group: decisions.Group) -> decisions.Ruling:
    at_once = tuple(spec for spec in group.chosen if spec.on == Trigger.INSTANCE.value)
    waits = len(at_once) < len(group.chosen)
    return decisions.Ruling(group, DecisionPhase.ARRIVAL, at_once, waits)


def _answer(groups: Sequence[decisions.Group], decided: Sequence[Decision]) -> None:
    """Answer the marks, if they all still wait; one statement for all of them."""
    marks = [pk for group in groups for pk in group.marks]
    whens = [
        When(pk__in=group.marks, then=Value(decision.pk))
        for group, decision in zip(groups, decided, strict=True)
    ]
    undecided = RoutingMark.objects.filter(pk__in=marks, decision=None)
    if undecided.update(decision_id=Case(*whens)) != len(marks):
        raise Overtaken


# --- quiet timers --------------------------------------------------------------------------------
def _push_back(instances: Sequence[Instance]) -> None:
    """Every arrival pushes back the open timers of its study and series, up to their cap."""
    now = clock.now()
    series = {instance.series_id for instance in instances}
    studies = {instance.study_id for instance in instances}
    timers = QuietTimer.objects.filter(study_id__in=studies, fired_at=None)
    for timer in timers:
        if timer.series_id is None or timer.series_id in series:
            due = min(now + timedelta(seconds=timer.quiet_seconds), timer.cap_at)
            QuietTimer.objects.filter(pk=timer.pk, fired_at=None).update(due_at=due)


def _wait(spec: RuleSpec, instances: Sequence[Instance], config: decisions.Configuration) -> None:
    """Have instances wait for the timer of a rule, one a study or one a series."""
    groups: dict[int | None, list[Instance]] = {}
    for instance in instances:
        key = instance.series_id if spec.on == Trigger.SERIES.value else None
        groups.setdefault(key, []).append(instance)
    for series_id, members in groups.items():
        timer = _timer(spec, members[0].study_id, series_id, config)
        TimerItem.objects.bulk_create(
            [TimerItem(timer=timer, instance=instance) for instance in members],
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
    marks = RoutingMark.objects.filter(instance_id__in=ids).order_by("instance_id")
    marks = marks.select_related("instance__study", "instance__series", "association")
    groups = decisions.group_up(((m.instance, m.association, m.pk) for m in marks), config)
    try:
        with transaction.atomic():
            _write_fired(timer, ids, groups, config, now=now)
    except (Overtaken, IntegrityError):
        return False
    return True


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
        decisions.Ruling(
            group,
            DecisionPhase.QUIET,
            tuple(spec for spec in group.chosen if spec.name == timer.rule),
        )
        for group in groups
    ]
    decisions.decide(rulings, config)
    timer.items.all().delete()


# --- a person decides ----------------------------------------------------------------------------
def reconsider(instances: Iterable[int]) -> int:
    """Have instances routed again under the rules of today (after a release).

    Args:
        instances: row ids of instances that have a mark.

    Returns:
        How many marks are open again.
    """
    count = RoutingMark.objects.filter(instance_id__in=list(instances)).update(decision=None)
    doorbell.ring("route")
    return count


def oldest_undecided() -> datetime | None:
    """Return when the oldest mark without a decision was made."""
    marks = RoutingMark.objects.undecided().oldest_first()
    return marks.values_list("created_at", flat=True).first()


def timers_due() -> bool:
    """Tell whether a quiet timer waits to be fired."""
    return QuietTimer.objects.filter(fired_at=None, due_at__lte=clock.now()).exists()
