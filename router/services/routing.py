"""Decide where stored instances go: read marks, match rules, write decisions, jobs and items.

Headers are read and rules matched before any transaction; then one transaction writes the decision
and answers the marks by a conditional UPDATE. Two routers that took the same marks cannot both
commit. "No match" is a decision too: nothing is ever silently not routed.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet

from router import doorbell
from router.dicom.errors import DicomError
from router.dicom.header import Header
from router.dicom.rules import Facts, Match, RuleSet, RuleSpec, compile_rules, match
from router.models import (
    Association,
    Cause,
    ConfigRevision,
    Decision,
    DecisionOutcome,
    DecisionPhase,
    Destination,
    Instance,
    Job,
    JobItem,
    QuietTimer,
    RoutingDefaults,
    RoutingMark,
    Rule,
    TimerItem,
    Trigger,
    Unmatched,
)
from router.services import archive, clock

log = logging.getLogger(__name__)

BATCH = 500


class Overtaken(Exception):
    """Another router answered these marks, or this timer, first; nothing was written."""


@dataclass(frozen=True)
class Configuration:
    """The rules in force with their revision."""

    revision: int | None
    rules: RuleSet
    specs: dict[str, RuleSpec]
    unmatched: str
    quiet_cap: timedelta


@dataclass
class Group:
    """Instances of one study for which every rule had the same outcome for the same reason."""

    explanation: list[dict[str, Any]]  # Any: dicom.rules.Outcome.as_dict
    chosen: tuple[RuleSpec, ...]
    problem: str = ""
    instances: list[Instance] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)


_cached: Configuration | None = None


def configuration() -> Configuration:
    """Return the rules in force; compiled anew only when the revision has changed."""
    global _cached
    revision = ConfigRevision.objects.order_by("-number").values_list("number", flat=True).first()
    if _cached is None or _cached.revision is None or _cached.revision != revision:
        _cached = _load(revision)
    return _cached


def _load(revision: int | None) -> Configuration:
    defaults = RoutingDefaults.objects.first() or RoutingDefaults()
    specs = [_spec(rule, defaults) for rule in Rule.objects.order_by("priority", "name")]
    return Configuration(
        revision=revision,
        rules=compile_rules(specs),
        specs={spec.name: spec for spec in specs},
        unmatched=defaults.unmatched,
        quiet_cap=timedelta(seconds=defaults.quiet_cap_seconds),
    )


def _spec(rule: Rule, defaults: RoutingDefaults) -> RuleSpec:
    quiet = rule.quiet_seconds if rule.quiet_seconds is not None else defaults.quiet_seconds
    return RuleSpec(
        name=rule.name,
        priority=rule.priority,
        state=rule.state,  # type: ignore[arg-type] # the database constrains it
        when=rule.when,
        on=rule.trigger,  # type: ignore[arg-type]
        quiet_seconds=quiet,
        send=tuple(rule.send),
        transform=rule.transform or None,
        stop=rule.stop,
        enabled=rule.enabled,
    )


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
    config = configuration()
    groups = _groups(((m.instance, m.association, m.pk) for m in marks), config)
    with transaction.atomic():
        for group in groups:
            _write_arrival(group, config)
    return len(marks)


def _take(limit: int) -> QuerySet[RoutingMark]:
    marks = RoutingMark.objects.undecided().oldest_first()
    marks = marks.select_related("instance__study", "instance__series", "association")
    if connection.features.has_select_for_update_skip_locked:
        marks = marks.select_for_update(skip_locked=True, of=("self",))
    return marks[:limit]


def facts_of(header: Header, association: Association) -> Facts:
    """Return what the rules may look at: the header and the facts of its association."""
    return Facts(
        header=header,
        calling_ae=association.calling_ae,
        called_ae=association.called_ae,
        source=association.source,
        remote_host=association.remote_host,
        origin=association.origin,
    )


def explain(instance: Instance, association: Association, config: Configuration) -> Match:
    """Match one stored instance.

    Raises:
        DicomError, OSError: its header cannot be read.
    """
    return match(config.rules, facts_of(archive.header_of(instance), association))


def _groups(
    arrivals: Iterable[tuple[Instance, Association, int]], config: Configuration
) -> list[Group]:
    """Match each instance; put those of one study with one explanation together."""
    groups: dict[tuple[int, str], Group] = {}
    for instance, association, mark in arrivals:
        group = _match_one(instance, association, config)
        key = (instance.study_id, json.dumps(group.explanation) + group.problem)
        group = groups.setdefault(key, group)
        group.instances.append(instance)
        group.marks.append(mark)
    return list(groups.values())


def _match_one(instance: Instance, association: Association, config: Configuration) -> Group:
    try:
        found = explain(instance, association, config)
    except (DicomError, OSError) as error:
        log.exception("route.unreadable", extra={"instance": instance.pk})
        return Group([], (), problem=f"The object could not be read: {type(error).__name__}.")
    return Group([outcome.as_dict() for outcome in found.outcomes], tuple(found.chosen))


def _write_arrival(group: Group, config: Configuration) -> None:
    at_once = [spec for spec in group.chosen if spec.on == Trigger.INSTANCE]
    later = [spec for spec in group.chosen if spec.on != Trigger.INSTANCE]
    decision = _decide(
        group, config, phase=DecisionPhase.ARRIVAL, acting=at_once, waits=bool(later)
    )
    answered = RoutingMark.objects.filter(pk__in=group.marks, decision=None)
    if answered.update(decision=decision) != len(group.marks):
        raise Overtaken
    _push_back(group.instances)
    for spec in later:
        _wait(spec, group.instances, config)


def _decide(
    group: Group,
    config: Configuration,
    *,
    phase: DecisionPhase,
    acting: Sequence[RuleSpec],
    waits: bool = False,
) -> Decision:
    """Write the decision of a group, and the items of the rules that act now."""
    chosen: dict[str, str] = {}
    for spec in acting:
        for name in spec.send:
            chosen.setdefault(name, spec.name)
    decision = Decision.objects.create(
        study_id=group.instances[0].study_id,
        revision_id=config.revision,
        phase=phase,
        outcome=_outcome(config, routed=bool(chosen), waits=waits, problem=group.problem),
        explanation=group.explanation,
        destinations=chosen,
        problem=group.problem,
        instances_count=len(group.instances),
        chosen_count=len(group.instances) * len(chosen),
        created_at=clock.now(),
    )
    by_rule = {spec.name: spec for spec in acting}
    rows = Destination.objects.in_bulk(list(chosen), field_name="name") if chosen else {}
    joined = sum(
        _choose(decision, rows[name], by_rule[rule], group.instances)
        for name, rule in chosen.items()
    )
    if joined:
        Decision.objects.filter(pk=decision.pk).update(joined_count=joined)
    return decision


def _outcome(config: Configuration, *, routed: bool, waits: bool, problem: str) -> DecisionOutcome:
    if routed:
        return DecisionOutcome.ROUTED
    if waits:
        return DecisionOutcome.WAITING
    if config.unmatched == Unmatched.HOLD or problem:
        return DecisionOutcome.HELD
    return DecisionOutcome.ARCHIVED


def _choose(
    decision: Decision, destination: Destination, spec: RuleSpec, instances: Sequence[Instance]
) -> int:
    """Make the items of one rule for one destination.

    Returns:
        How many instances had an item for this destination already; they join that one.
    """
    now = clock.now()
    key = f"rule:{spec.name}:{decision.study_id}:{destination.pk}"
    job, _is_new = Job.objects.get_or_create(
        key=key,
        defaults={
            "study_id": decision.study_id,
            "destination": destination,
            "cause": Cause.RULE,
            "rule": spec.name,
            "created_at": now,
        },
    )
    transform = spec.transform or ""
    chosen_before = JobItem.objects.filter(
        destination=destination, instance__in=instances, transform=transform, cause=Cause.RULE
    )
    taken = set(chosen_before.values_list("instance_id", flat=True))
    JobItem.objects.bulk_create(
        [
            JobItem(
                job=job,
                destination=destination,
                instance=instance,
                decision=decision,
                cause=Cause.RULE,
                transform=transform,
                endpoint=destination.endpoint,
                size=instance.size,
                created_at=now,
            )
            for instance in instances
            if instance.pk not in taken
        ],
        batch_size=500,
    )
    doorbell.ring("deliver", destination.pk, 0)
    return len(taken)


# --- quiet timers --------------------------------------------------------------------------------
def _push_back(instances: Sequence[Instance]) -> None:
    """Every arrival pushes back the open timers of its study and series, up to their cap."""
    now = clock.now()
    series = {instance.series_id for instance in instances}
    timers = QuietTimer.objects.filter(study_id=instances[0].study_id, fired_at=None)
    for timer in timers:
        if timer.series_id is None or timer.series_id in series:
            due = min(now + timedelta(seconds=timer.quiet_seconds), timer.cap_at)
            QuietTimer.objects.filter(pk=timer.pk, fired_at=None).update(due_at=due)


def _wait(spec: RuleSpec, instances: Sequence[Instance], config: Configuration) -> None:
    """Have instances wait for the timer of a rule, one a study or one a series."""
    groups: dict[int | None, list[Instance]] = {}
    for instance in instances:
        key = instance.series_id if spec.on == Trigger.SERIES else None
        groups.setdefault(key, []).append(instance)
    for series_id, members in groups.items():
        timer = _timer(spec, members[0].study_id, series_id, config)
        TimerItem.objects.bulk_create(
            [TimerItem(timer=timer, instance=instance) for instance in members],
            ignore_conflicts=True,
        )


def _timer(
    spec: RuleSpec, study_id: int, series_id: int | None, config: Configuration
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
    return sum(_fire(timer, now) for timer in due.select_related("study")[:limit])


def _fire(timer: QuietTimer, now: datetime) -> bool:
    if RoutingMark.objects.undecided().filter(instance__study_id=timer.study_id).exists():
        return False  # what has arrived and is not yet routed will push the timer back
    config = configuration()
    ids = list(timer.items.order_by("instance_id").values_list("instance_id", flat=True))
    marks = RoutingMark.objects.filter(instance_id__in=ids).order_by("instance_id")
    marks = marks.select_related("instance__study", "instance__series", "association")
    groups = _groups(((m.instance, m.association, m.pk) for m in marks), config)
    try:
        with transaction.atomic():
            _write_fired(timer, ids, groups, config, now=now)
    except Overtaken:
        return False
    return True


def _write_fired(
    timer: QuietTimer,
    ids: list[int],
    groups: list[Group],
    config: Configuration,
    *,
    now: datetime,
) -> None:
    open_timer = QuietTimer.objects.filter(pk=timer.pk, fired_at=None, due_at__lte=now)
    if not open_timer.update(fired_at=now):
        raise Overtaken
    if timer.items.count() != len(ids):
        raise Overtaken  # an instance joined meanwhile; the next look takes it along
    for group in groups:
        acting = [spec for spec in group.chosen if spec.name == timer.rule]
        _decide(group, config, phase=DecisionPhase.QUIET, acting=acting)
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
