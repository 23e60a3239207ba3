"""Decide: match instances against the rules in force and write what was decided, and why.

Instances of one study for which every rule said the same for the same reason share one decision.
Refuses to know when to decide: that is routing's business.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

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
    RoutingDefaults,
    Rule,
    Unmatched,
)
from router.services import archive, clock

log = logging.getLogger(__name__)


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


def group_up(
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


def decide(
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
