"""Choose: write what was decided, and the jobs and items that follow; few statements for many.

One destination is chosen once for an object under one transform, whoever chooses it: what an
earlier decision has chosen already is joined. Refuses to match rules and to know when to decide.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from router import doorbell
from router.dicom.rules import RuleSpec
from router.models import (
    Assignment,
    Cause,
    Decision,
    DecisionOutcome,
    DecisionPhase,
    Destination,
    DestinationGroup,
    ItemShare,
    Job,
    JobItem,
    Priority,
    Unmatched,
)
from router.models.batches import Insert, Row, reserve
from router.models.decisions import SEPARATOR
from router.services import clock, groups, lanes
from router.services.decisions import Arrival, Configuration, Group, as_json

_DECISIONS = Insert(
    Decision,
    *("id", "study_id", "revision_id", "phase", "outcome", "explanation", "destinations", "groups"),
    *("problem", "instances_count", "chosen_count", "joined_count", "created_at"),
)
_JOBS = Insert(
    Job,
    *("key", "study_id", "destination_id", "cause", "rule", "assignment_id", "priority"),
    "created_at",
)
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
class Place:
    """Where a wish leads: to a destination, for a group by an assignment of the study to it."""

    destination: Destination
    assignment: Assignment | None = None

    @property
    def claim(self) -> int | None:
        """For what an item is there: an assignment, or None for a rule that names the place."""
        return self.assignment.pk if self.assignment else None


@dataclass(frozen=True)
class Choice:
    """One destination chosen by one ruling under one transform, with the instances it has no item
    for yet. Of several wishes that lead there the first has the job, one by name before others."""

    ruling: Ruling
    wishes: tuple[tuple[Wish, Place], ...]
    fresh: tuple[Arrival, ...]

    @property
    def _first(self) -> tuple[Wish, Place]:
        return next((one for one in self.wishes if one[1].assignment is None), self.wishes[0])

    @property
    def spec(self) -> RuleSpec:
        """The rule whose job it is."""
        return self._first[0].spec

    @property
    def place(self) -> Place:
        """Where it leads, and for what."""
        return self._first[1]

    @property
    def destination(self) -> Destination:
        """Where it leads."""
        return self.place.destination

    @property
    def key(self) -> str:
        """What its job goes by."""
        rule, study, to = self.spec.name, self.ruling.study_id, self.destination.pk
        group = f"{self.place.assignment.group_id}>" if self.place.assignment else ""
        return f"rule:{rule}:{study}:{group}{to}"

    @property
    def transform(self) -> str:
        """The transform it is chosen under, '' for none."""
        return self.spec.transform or ""

    @property
    def priority(self) -> Priority:
        """The most urgent of what its rules say, or leave to the destination."""
        usual = lanes.priority(self.destination)
        words = [word for wish, _place in self.wishes for word in wish.urgencies]
        return min(Priority.of(word) if word else usual for word in words)

    @property
    def claims(self) -> set[int | None]:
        """For what its items are there, each an assignment, or None for a rule by name."""
        return {place.claim for _wish, place in self.wishes}


def decide(rulings: Sequence[Ruling], config: Configuration) -> list[int]:
    """Write decisions, and the jobs and items of the rules that act now; few statements for many.

    Args:
        rulings: what is to be decided; runs inside the caller's transaction.
        config: the rules in force.

    Returns:
        The row ids of the decisions, in the order of the rulings.
    """
    places = places_of((one.study_id, wish.place) for one in rulings for wish in one.wishes())
    taken = _taken(rulings, {place.destination.pk for place in places.values()})
    choices = [_choices(ruling, places, taken) for ruling in rulings]
    ids = list(reserve(Decision, len(rulings)))
    _DECISIONS.write(
        _decision(pk, ruling, chosen, config)
        for pk, ruling, chosen in zip(ids, rulings, choices, strict=True)
    )
    every = [choice for chosen in choices for choice in chosen]
    _create_items(list(zip(ids, choices, strict=True)))
    _hurry(every, taken)
    _share(every, taken)
    return ids


_Pair = tuple[int, int, str]
"""Destination, instance, transform."""
_Places = Mapping[tuple[int, str], Place]
"""By study and by the name that rules send to."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """An item that an earlier decision has made for a pair, and for what."""

    pk: int
    priority: int
    claim: int | None


def places_of(pairs: Iterable[tuple[int, str]]) -> _Places:
    """Return where each study goes under each name that rules send to.

    Runs inside the caller's transaction: a study that has no member of a group yet gets one here.
    """
    wanted = set(pairs)
    names = {name for _study, name in wanted}
    if not names:
        return {}
    known = Destination.objects.select_related("version").in_bulk(names, field_name="name")
    grouped = _grouped(names, known)
    assigned = groups.assigned(key for key in wanted if key[1] in grouped)
    return {
        key: Place(assigned[key].member, assigned[key]) if key in assigned else Place(known[key[1]])
        for key in wanted
    }


def _grouped(names: set[str], known: Mapping[str, Destination]) -> set[str]:
    """Return which names are of groups; one that was removed just now counts where there is no
    destination of the name."""
    rows = DestinationGroup.objects.filter(name__in=names).values_list("name", "removed")
    return {name for name, removed in rows if not removed or name not in known}


def _taken(rulings: Sequence[Ruling], places: set[int]) -> dict[_Pair, _Taken]:
    """Return what earlier decisions have chosen of the pairs in question."""
    if not places:
        return {}
    instances = [one.instance for ruling in rulings for one in ruling.group.arrivals]
    items = JobItem.objects.filter(
        destination__in=places, instance__in=instances, cause__in=(Cause.RULE, Cause.FAILOVER)
    )
    names = ("destination_id", "instance_id", "transform", "pk", "priority", "job__assignment_id")
    return {
        (place, instance, transform): _Taken(pk, priority, claim)
        for place, instance, transform, pk, priority, claim in items.order_by("pk").values_list(
            *names
        )
    }


def _choices(ruling: Ruling, places: _Places, taken: Mapping[_Pair, _Taken]) -> list[Choice]:
    found: dict[tuple[int, str], list[tuple[Wish, Place]]] = {}
    for wish in ruling.wishes():
        place = places[ruling.study_id, wish.place]
        key = (place.destination.pk, wish.spec.transform or "")
        found.setdefault(key, []).append((wish, place))
    return [
        Choice(
            ruling,
            tuple(wishes),
            tuple(
                one
                for one in ruling.group.arrivals
                if (destination, one.instance, transform) not in taken
            ),
        )
        for (destination, transform), wishes in found.items()
    ]


def _decision(pk: int, ruling: Ruling, chosen: Sequence[Choice], config: Configuration) -> Row:
    count = len(ruling.group.arrivals)
    problem = ruling.group.problem
    outcome = _outcome(config, routed=bool(chosen), waits=ruling.waits, problem=problem)
    return (
        *(pk, ruling.study_id, config.revision, ruling.phase.value, outcome.value),
        ruling.group.explanation,
        *(as_json(_rules_by_destination(chosen)), as_json(_members(chosen))),
        *(problem, count, count * len(chosen)),
        sum(count - len(choice.fresh) for choice in chosen),
        clock.now(),
    )


def _rules_by_destination(chosen: Sequence[Choice]) -> dict[str, str]:
    rules: dict[str, dict[str, None]] = {}
    for choice in chosen:
        names = rules.setdefault(choice.destination.name, {})
        names |= {wish.spec.name: None for wish, _place in choice.wishes}
    return {name: SEPARATOR.join(names) for name, names in rules.items()}


def _members(chosen: Sequence[Choice]) -> dict[str, dict[str, str]]:
    """Return for each group the member that has the study, and why."""
    assigned = [place.assignment for one in chosen for _wish, place in one.wishes]
    return {
        one.group.name: {"member": one.member.name, "why": one.reason} for one in assigned if one
    }


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
        *(choice.spec.name, choice.place.claim, choice.priority.value, clock.now()),
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


def _share(choices: Sequence[Choice], taken: Mapping[_Pair, _Taken]) -> None:
    """Note for what else an item is there than for its job: what moves away for one stays for the
    others."""
    shared: list[tuple[int, int | None]] = []
    for choice in choices:
        if len(choice.claims) > 1:
            shared += _of_fresh(choice)
        for arrival in choice.ruling.group.arrivals:
            joined = taken.get((choice.destination.pk, arrival.instance, choice.transform))
            if joined is not None:
                shared += [(joined.pk, claim) for claim in choice.claims - {joined.claim}]
    rows = [ItemShare(item_id=pk, assignment_id=claim) for pk, claim in shared]
    ItemShare.objects.bulk_create(rows, ignore_conflicts=True)


def _of_fresh(choice: Choice) -> list[tuple[int, int | None]]:
    """Return the items that were just made for a choice with each claim besides the job's."""
    items = JobItem.objects.filter(
        job__key=choice.key,
        instance__in=[one.instance for one in choice.fresh],
        transform=choice.transform,
    )
    others = choice.claims - {choice.place.claim}
    return [(pk, claim) for pk in items.values_list("pk", flat=True) for claim in others]
