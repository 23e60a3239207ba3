"""Choose: write what was decided, and the jobs and items that follow; few statements for many.

One destination is chosen once for an object under one transform, whoever chooses it: what an
earlier decision has chosen already is joined. Refuses to match rules and to know when to decide.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from router import doorbell
from router.dicom.rules import RuleSpec
from router.models import (
    Cause,
    Decision,
    DecisionOutcome,
    DecisionPhase,
    Destination,
    Job,
    JobItem,
    Priority,
    Unmatched,
)
from router.models.batches import Insert, Row, reserve
from router.models.jobs import SEPARATOR
from router.services import clock, lanes
from router.services.decisions import Arrival, Configuration, Group, as_json

_DECISIONS = Insert(
    Decision,
    *("id", "study_id", "revision_id", "phase", "outcome", "explanation", "destinations"),
    *("problem", "instances_count", "chosen_count", "joined_count", "created_at"),
)
_JOBS = Insert(Job, "key", "study_id", "destination_id", "cause", "rule", "priority", "created_at")
_ITEMS = Insert(
    JobItem,
    *("job_id", "destination_id", "instance_id", "decision_id", "cause", "transform"),
    *("priority", "endpoint", "size", "created_at"),
)


@dataclass(frozen=True)
class Wish:
    """What the acting rules want sent to one place under one transform: `spec` is the first of
    them, and `urgencies` are how urgent each says it is, '' where it leaves that to the place."""

    place: str
    spec: RuleSpec
    urgencies: tuple[str, ...]


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

    def wishes(self) -> list[Wish]:
        """Return each place that is sent to; under two transforms it is there twice."""
        found: dict[tuple[str, str], list[RuleSpec]] = {}
        for spec in self.acting:
            for name in spec.send:
                found.setdefault((name, spec.transform or ""), []).append(spec)
        return [
            Wish(name, specs[0], tuple(one.urgency for one in specs))
            for (name, _transform), specs in found.items()
        ]


@dataclass(frozen=True)
class Choice:
    """One destination chosen by one ruling, with the instances it has no item for yet."""

    ruling: Ruling
    wish: Wish
    destination: Destination
    fresh: tuple[Arrival, ...]

    @property
    def key(self) -> str:
        """What its job goes by."""
        return f"rule:{self.wish.spec.name}:{self.ruling.study_id}:{self.destination.pk}"

    @property
    def transform(self) -> str:
        """The transform it is chosen under, '' for none."""
        return self.wish.spec.transform or ""

    @property
    def priority(self) -> Priority:
        """The most urgent of what its rules say, or leave to the destination."""
        usual = lanes.priority(self.destination)
        return min(Priority.of(word) if word else usual for word in self.wish.urgencies)


def decide(rulings: Sequence[Ruling], config: Configuration) -> list[int]:
    """Write decisions, and the jobs and items of the rules that act now; few statements for many.

    Args:
        rulings: what is to be decided; runs inside the caller's transaction.
        config: the rules in force.

    Returns:
        The row ids of the decisions, in the order of the rulings.
    """
    rows = _destinations(rulings)
    taken = _taken(rulings, rows)
    choices = [_choices(ruling, rows, taken) for ruling in rulings]
    ids = list(reserve(Decision, len(rulings)))
    _DECISIONS.write(
        _decision(pk, ruling, chosen, config)
        for pk, ruling, chosen in zip(ids, rulings, choices, strict=True)
    )
    _create_items(list(zip(ids, choices, strict=True)))
    _hurry([choice for chosen in choices for choice in chosen], taken)
    return ids


_Pair = tuple[int, int, str]
"""Destination, instance, transform."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """An item that an earlier decision has made for a pair."""

    pk: int
    priority: int


def _destinations(rulings: Sequence[Ruling]) -> dict[str, Destination]:
    names = {wish.place for ruling in rulings for wish in ruling.wishes()}
    if not names:
        return {}
    known = Destination.objects.select_related("version")
    return known.in_bulk(list(names), field_name="name")


def _taken(rulings: Sequence[Ruling], rows: Mapping[str, Destination]) -> dict[_Pair, _Taken]:
    """Return what earlier decisions have chosen of the pairs in question."""
    if not rows:
        return {}
    instances = [one.instance for ruling in rulings for one in ruling.group.arrivals]
    items = JobItem.objects.filter(
        destination__in=rows.values(), instance__in=instances, cause=Cause.RULE
    )
    names = ("destination_id", "instance_id", "transform", "pk", "priority")
    return {
        (place, instance, transform): _Taken(pk, priority)
        for place, instance, transform, pk, priority in items.values_list(*names)
    }


def _choices(
    ruling: Ruling, rows: Mapping[str, Destination], taken: Mapping[_Pair, _Taken]
) -> list[Choice]:
    return [
        Choice(
            ruling,
            wish,
            rows[wish.place],
            tuple(
                one
                for one in ruling.group.arrivals
                if (rows[wish.place].pk, one.instance, wish.spec.transform or "") not in taken
            ),
        )
        for wish in ruling.wishes()
    ]


def _decision(pk: int, ruling: Ruling, chosen: Sequence[Choice], config: Configuration) -> Row:
    count = len(ruling.group.arrivals)
    problem = ruling.group.problem
    outcome = _outcome(config, routed=bool(chosen), waits=ruling.waits, problem=problem)
    return (
        *(pk, ruling.study_id, config.revision, ruling.phase.value, outcome.value),
        ruling.group.explanation,
        as_json(_rules_by_destination(chosen)),
        *(problem, count, count * len(chosen)),
        sum(count - len(choice.fresh) for choice in chosen),
        clock.now(),
    )


def _rules_by_destination(chosen: Sequence[Choice]) -> dict[str, str]:
    rules: dict[str, list[str]] = {}
    for choice in chosen:
        rules.setdefault(choice.destination.name, []).append(choice.wish.spec.name)
    return {name: SEPARATOR.join(names) for name, names in rules.items()}


def _outcome(config: Configuration, *, routed: bool, waits: bool, problem: str) -> DecisionOutcome:
    if routed:
        return DecisionOutcome.ROUTED
    if waits:
        return DecisionOutcome.WAITING
    if config.unmatched == Unmatched.HOLD or problem:
        return DecisionOutcome.HELD
    return DecisionOutcome.ARCHIVED


def _create_items(decided: Sequence[tuple[int, Sequence[Choice]]]) -> None:
    """Make the jobs that are missing and the items of every choice."""
    jobs = _ensure_jobs([choice for _decision, choices in decided for choice in choices])
    now, cause = clock.now(), Cause.RULE.value
    _ITEMS.write(
        (
            *(jobs[choice.key].pk, choice.destination.pk, arrival.instance, decision, cause),
            *(choice.transform, jobs[choice.key].priority, choice.destination.endpoint),
            *(arrival.size, now),
        )
        for decision, choices in decided
        for choice in choices
        for arrival in choice.fresh
    )
    for pk in {choice.destination.pk for _decision, choices in decided for choice in choices}:
        doorbell.ring("deliver", pk, 0)


@dataclass(frozen=True, slots=True)
class _Job:
    """A job that is there; what is added to it has its priority, which a person may have set."""

    pk: int
    priority: int


def _ensure_jobs(choices: Sequence[Choice]) -> Mapping[str, _Job]:
    """Return the jobs by key, made where they are missing."""
    wanted = {choice.key: choice for choice in choices}
    found = _jobs(wanted)
    missing = sorted(key for key in wanted if key not in found)
    if missing:
        _JOBS.write_missing([_job(key, wanted[key]) for key in missing])
        found |= _jobs(missing)
    return found


def _jobs(keys: Iterable[str]) -> dict[str, _Job]:
    rows = Job.objects.filter(key__in=list(keys)).values_list("key", "pk", "priority")
    return {key: _Job(pk, priority) for key, pk, priority in rows}


def _job(key: str, choice: Choice) -> Row:
    return (
        *(key, choice.ruling.study_id, choice.destination.pk, Cause.RULE.value),
        *(choice.wish.spec.name, choice.priority.value, clock.now()),
    )


def _hurry(choices: Sequence[Choice], taken: Mapping[_Pair, _Taken]) -> None:
    """Make what is joined as urgent as those who join it want it."""
    hurried: dict[Priority, list[int]] = {}
    for choice in choices:
        for arrival in choice.ruling.group.arrivals:
            joined = taken.get((choice.destination.pk, arrival.instance, choice.transform))
            if joined is not None and joined.priority > choice.priority:
                hurried.setdefault(choice.priority, []).append(joined.pk)
    for priority, pks in hurried.items():
        JobItem.objects.filter(pk__in=pks).prioritise(priority)
