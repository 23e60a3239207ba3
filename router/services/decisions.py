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

from router import doorbell, storage
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
    revision = _newest_revision()
    while _cached is None or revision is None or _cached.revision != revision:
        _cached = _load(revision)
        if revision == (revision := _newest_revision()):
            break  # else a new one came while its rules were read
    return _cached


def _newest_revision() -> int | None:
    return ConfigRevision.objects.order_by("-number").values_list("number", flat=True).first()


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
        if isinstance(error, OSError) and storage.is_passing(error):
            raise
        log.exception("route.unreadable", extra={"instance": instance.pk})
        return Group([], (), problem=f"The object could not be read: {type(error).__name__}.")
    return Group([outcome.as_dict() for outcome in found.outcomes], tuple(found.chosen))


@dataclass(frozen=True)
class Ruling:
    """A group of instances with what makes the router decide, and the rules that act now."""

    group: Group
    phase: DecisionPhase
    acting: tuple[RuleSpec, ...]
    waits: bool = False

    @property
    def study_id(self) -> int:
        """The study the group belongs to."""
        return self.group.instances[0].study_id

    def choices(self) -> dict[str, RuleSpec]:
        """Return the destinations chosen, each with the first rule that sends there."""
        chosen: dict[str, RuleSpec] = {}
        for spec in self.acting:
            for name in spec.send:
                chosen.setdefault(name, spec)
        return chosen


@dataclass(frozen=True)
class _Choice:
    """One destination chosen by one ruling, with the instances it has no item for yet."""

    ruling: Ruling
    spec: RuleSpec
    destination: Destination
    fresh: tuple[Instance, ...]

    @property
    def key(self) -> str:
        return f"rule:{self.spec.name}:{self.ruling.study_id}:{self.destination.pk}"


def decide(rulings: Sequence[Ruling], config: Configuration) -> list[Decision]:
    """Write decisions, and the jobs and items of the rules that act now; few statements for many.

    Args:
        rulings: what is to be decided; runs inside the caller's transaction.
        config: the rules in force.

    Returns:
        The decisions, in the order of the rulings.
    """
    taken = _taken(rulings)
    choices = [_choices(ruling, taken) for ruling in rulings]
    found = Decision.objects.bulk_create(
        _decision(ruling, chosen, config) for ruling, chosen in zip(rulings, choices, strict=True)
    )
    _create_items(list(zip(found, choices, strict=True)))
    return found


_Destinations = dict[str, Destination]
_Taken = tuple[_Destinations, set[tuple[int, int, str]]]


def _taken(rulings: Sequence[Ruling]) -> _Taken:
    """Return the destinations by name, and the pairs that an earlier decision has chosen."""
    names = {name for ruling in rulings for name in ruling.choices()}
    if not names:
        return {}, set()
    rows = Destination.objects.in_bulk(list(names), field_name="name")
    instances = [one.pk for ruling in rulings for one in ruling.group.instances]
    items = JobItem.objects.filter(
        destination__in=rows.values(), instance__in=instances, cause=Cause.RULE
    )
    return rows, set(items.values_list("destination_id", "instance_id", "transform"))


def _choices(ruling: Ruling, taken: _Taken) -> list[_Choice]:
    rows, pairs = taken
    return [
        _Choice(
            ruling,
            spec,
            rows[name],
            tuple(
                one
                for one in ruling.group.instances
                if (rows[name].pk, one.pk, spec.transform or "") not in pairs
            ),
        )
        for name, spec in ruling.choices().items()
    ]


def _decision(ruling: Ruling, chosen: Sequence[_Choice], config: Configuration) -> Decision:
    count = len(ruling.group.instances)
    problem = ruling.group.problem
    return Decision(
        study_id=ruling.study_id,
        revision_id=config.revision,
        phase=ruling.phase,
        outcome=_outcome(config, routed=bool(chosen), waits=ruling.waits, problem=problem),
        explanation=ruling.group.explanation,
        destinations={choice.destination.name: choice.spec.name for choice in chosen},
        problem=problem,
        instances_count=count,
        chosen_count=count * len(chosen),
        joined_count=sum(count - len(choice.fresh) for choice in chosen),
        created_at=clock.now(),
    )


def _outcome(config: Configuration, *, routed: bool, waits: bool, problem: str) -> DecisionOutcome:
    if routed:
        return DecisionOutcome.ROUTED
    if waits:
        return DecisionOutcome.WAITING
    if config.unmatched == Unmatched.HOLD or problem:
        return DecisionOutcome.HELD
    return DecisionOutcome.ARCHIVED


def _create_items(decided: Sequence[tuple[Decision, Sequence[_Choice]]]) -> None:
    """Make the jobs that are missing and the items of every choice."""
    jobs = _ensure_jobs([choice for _decision, choices in decided for choice in choices])
    now = clock.now()
    JobItem.objects.bulk_create(
        [
            JobItem(
                job=jobs[choice.key],
                destination=choice.destination,
                instance=instance,
                decision=decision,
                cause=Cause.RULE,
                transform=choice.spec.transform or "",
                endpoint=choice.destination.endpoint,
                size=instance.size,
                created_at=now,
            )
            for decision, choices in decided
            for choice in choices
            for instance in choice.fresh
        ],
        batch_size=500,
    )
    for pk in {choice.destination.pk for _decision, choices in decided for choice in choices}:
        doorbell.ring("deliver", pk, 0)


def _ensure_jobs(choices: Sequence[_Choice]) -> dict[str, Job]:
    wanted = {choice.key: choice for choice in choices}
    found = {job.key: job for job in Job.objects.filter(key__in=wanted)}
    missing = [choice for key, choice in wanted.items() if key not in found]
    if missing:
        now = clock.now()
        Job.objects.bulk_create(
            [
                Job(
                    key=choice.key,
                    study_id=choice.ruling.study_id,
                    destination=choice.destination,
                    cause=Cause.RULE,
                    rule=choice.spec.name,
                    created_at=now,
                )
                for choice in missing
            ],
            ignore_conflicts=True,
        )
        keys = [choice.key for choice in missing]
        found |= {job.key: job for job in Job.objects.filter(key__in=keys)}
    return found
