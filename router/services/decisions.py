"""Decide: match instances against the rules in force and write what was decided, and why.

Instances of one study for which every rule said the same for the same reason share one decision.
Refuses to know when to decide: that is routing's business.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from router import doorbell, storage
from router.dicom.errors import DicomError
from router.dicom.header import Header, unpack
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
from router.models.batches import Insert, Row, reserve
from router.models.jobs import SEPARATOR
from router.services import archive, clock

log = logging.getLogger(__name__)

# An object that is nowhere, or whose disk fails, is looked for this often before it is held: with
# the waits of routing, for about an hour.
MOST_TRIES = 60

_DECISIONS = Insert(
    Decision,
    *("id", "study_id", "revision_id", "phase", "outcome", "explanation", "destinations"),
    *("problem", "instances_count", "chosen_count", "joined_count", "created_at"),
)
_JOBS = Insert(Job, "key", "study_id", "destination_id", "cause", "rule", "created_at")
_ITEMS = Insert(
    JobItem,
    *("job_id", "destination_id", "instance_id", "decision_id", "cause", "transform"),
    *("endpoint", "size", "created_at"),
)


@dataclass(frozen=True)
class Configuration:
    """The rules in force with their revision."""

    revision: int | None
    rules: RuleSet
    specs: dict[str, RuleSpec]
    unmatched: str
    quiet_cap: timedelta


@dataclass(slots=True)
class Arrival:
    """A marked instance, with what the rules may need of it."""

    mark: int
    tries: int
    instance: int
    study_id: int
    series_id: int
    size: int
    association: Association
    header: bytes | None


@dataclass
class Group:
    """Instances of one study for which every rule had the same outcome for the same reason."""

    explanation: str  # the JSON of dicom.rules.Match.explanation
    chosen: tuple[RuleSpec, ...]
    problem: str = ""
    arrivals: list[Arrival] = field(default_factory=list)


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


def explain(arrival: Arrival, config: Configuration) -> Match:
    """Match one stored instance.

    Raises:
        DicomError, OSError: its header cannot be read.
    """
    return match(config.rules, facts_of(_header(arrival), arrival.association))


def _header(arrival: Arrival) -> Header:
    """Return the header that came with the mark; of one without, the file's."""
    if arrival.header is not None:
        try:
            return unpack(arrival.header)
        except ValueError:  # of another release
            log.info("route.header_unpacked_anew", extra={"instance": arrival.instance})
    return archive.header_of(Instance.objects.get(pk=arrival.instance))


class _Texts:
    """Explanations as they are stored; instances that read alike share one, written once."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[Match, str]] = {}  # the match is held, so its id stays its own

    def of(self, found: Match) -> str:
        known = self._texts.get(id(found))
        if known is None:
            known = self._texts[id(found)] = found, _json(found.explanation)
        return known[1]


def group_up(
    arrivals: Iterable[Arrival], config: Configuration
) -> tuple[list[Group], list[Arrival]]:
    """Match each instance; put those of one study with one explanation together.

    Returns:
        The groups, and the instances that could not be read now and must be tried again.
    """
    groups: dict[tuple[int, str, str], Group] = {}
    unread, texts = [], _Texts()
    for arrival in arrivals:
        found = _match_one(arrival, config)
        if found is None:
            unread.append(arrival)
            continue
        text, problem = ("[]", found) if isinstance(found, str) else (texts.of(found), "")
        chosen = () if isinstance(found, str) else found.chosen
        key = (arrival.study_id, text, problem)
        if key not in groups:
            groups[key] = Group(text, chosen, problem)
        groups[key].arrivals.append(arrival)
    return list(groups.values()), unread


def _match_one(arrival: Arrival, config: Configuration) -> Match | str | None:
    """Match one instance; None when its file may be readable later, else why it never will be."""
    problem: DicomError | OSError
    try:
        return explain(arrival, config)
    except DicomError as error:
        problem = error
    except OSError as error:
        if storage.is_passing(error) or arrival.tries < MOST_TRIES:
            facts = {"instance": arrival.instance, "error": type(error).__name__}
            log.warning("route.unread", extra=facts | {"tries": arrival.tries})
            return None
        problem = error
    log.error("route.unreadable", extra={"instance": arrival.instance}, exc_info=problem)
    return f"The object could not be read: {type(problem).__name__}."


_json = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


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
        return self.group.arrivals[0].study_id

    def choices(self) -> list[tuple[str, RuleSpec]]:
        """Return each destination with the first rule that sends there under one transform; under
        two transforms it is chosen twice."""
        chosen: dict[tuple[str, str], RuleSpec] = {}
        for spec in self.acting:
            for name in spec.send:
                chosen.setdefault((name, spec.transform or ""), spec)
        return [(name, spec) for (name, _transform), spec in chosen.items()]


@dataclass(frozen=True)
class _Choice:
    """One destination chosen by one ruling, with the instances it has no item for yet."""

    ruling: Ruling
    spec: RuleSpec
    destination: Destination
    fresh: tuple[Arrival, ...]

    @property
    def key(self) -> str:
        return f"rule:{self.spec.name}:{self.ruling.study_id}:{self.destination.pk}"


def decide(rulings: Sequence[Ruling], config: Configuration) -> list[int]:
    """Write decisions, and the jobs and items of the rules that act now; few statements for many.

    Args:
        rulings: what is to be decided; runs inside the caller's transaction.
        config: the rules in force.

    Returns:
        The row ids of the decisions, in the order of the rulings.
    """
    taken = _taken(rulings)
    choices = [_choices(ruling, taken) for ruling in rulings]
    ids = list(reserve(Decision, len(rulings)))
    _DECISIONS.write(
        _decision(pk, ruling, chosen, config)
        for pk, ruling, chosen in zip(ids, rulings, choices, strict=True)
    )
    _create_items(list(zip(ids, choices, strict=True)))
    return ids


_Destinations = dict[str, Destination]
_Taken = tuple[_Destinations, set[tuple[int, int, str]]]


def _taken(rulings: Sequence[Ruling]) -> _Taken:
    """Return the destinations by name, and the pairs that an earlier decision has chosen."""
    names = {name for ruling in rulings for name, _spec in ruling.choices()}
    if not names:
        return {}, set()
    rows = Destination.objects.in_bulk(list(names), field_name="name")
    instances = [one.instance for ruling in rulings for one in ruling.group.arrivals]
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
                for one in ruling.group.arrivals
                if (rows[name].pk, one.instance, spec.transform or "") not in pairs
            ),
        )
        for name, spec in ruling.choices()
    ]


def _decision(pk: int, ruling: Ruling, chosen: Sequence[_Choice], config: Configuration) -> Row:
    count = len(ruling.group.arrivals)
    problem = ruling.group.problem
    outcome = _outcome(config, routed=bool(chosen), waits=ruling.waits, problem=problem)
    return (
        *(pk, ruling.study_id, config.revision, ruling.phase.value, outcome.value),
        ruling.group.explanation,
        _json(_rules_by_destination(chosen)),
        *(problem, count, count * len(chosen)),
        sum(count - len(choice.fresh) for choice in chosen),
        clock.now(),
    )


def _rules_by_destination(chosen: Sequence[_Choice]) -> dict[str, str]:
    rules: dict[str, list[str]] = {}
    for choice in chosen:
        rules.setdefault(choice.destination.name, []).append(choice.spec.name)
    return {name: SEPARATOR.join(names) for name, names in rules.items()}


def _outcome(config: Configuration, *, routed: bool, waits: bool, problem: str) -> DecisionOutcome:
    if routed:
        return DecisionOutcome.ROUTED
    if waits:
        return DecisionOutcome.WAITING
    if config.unmatched == Unmatched.HOLD or problem:
        return DecisionOutcome.HELD
    return DecisionOutcome.ARCHIVED


def _create_items(decided: Sequence[tuple[int, Sequence[_Choice]]]) -> None:
    """Make the jobs that are missing and the items of every choice."""
    jobs = _ensure_jobs([choice for _decision, choices in decided for choice in choices])
    now, cause = clock.now(), Cause.RULE.value
    _ITEMS.write(
        (
            *(jobs[choice.key], choice.destination.pk, arrival.instance, decision, cause),
            *(choice.spec.transform or "", choice.destination.endpoint, arrival.size, now),
        )
        for decision, choices in decided
        for choice in choices
        for arrival in choice.fresh
    )
    for pk in {choice.destination.pk for _decision, choices in decided for choice in choices}:
        doorbell.ring("deliver", pk, 0)


def _ensure_jobs(choices: Sequence[_Choice]) -> Mapping[str, int]:
    """Return the jobs' row ids by key, made where they are missing."""
    wanted = {choice.key: choice for choice in choices}
    found = _jobs(wanted)
    missing = sorted(key for key in wanted if key not in found)
    if missing:
        _JOBS.write_missing([_job(key, wanted[key]) for key in missing])
        found |= _jobs(missing)
    return found


def _jobs(keys: Iterable[str]) -> dict[str, int]:
    return dict(Job.objects.filter(key__in=list(keys)).values_list("key", "pk"))


def _job(key: str, choice: _Choice) -> Row:
    study, destination = choice.ruling.study_id, choice.destination.pk
    return key, study, destination, Cause.RULE.value, choice.spec.name, clock.now()
