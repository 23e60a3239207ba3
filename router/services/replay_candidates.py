"""Which pairs of object and destination a replay may mean, and what the ledger knows of each.

The destinations are those that jobs were made for ("as chosen then"), or those that the rules of
today choose. Reads rows, and headers where rules are asked; decides nothing about sending.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from django.db import transaction
from django.db.models import Exists, OuterRef

from router import storage
from router.dicom.errors import DicomError
from router.dicom.rules import RuleSpec
from router.models import (
    OPEN_STATES,
    DecisionPhase,
    Destination,
    ItemState,
    JobItem,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayRoute,
    RoutingMark,
    Rule,
    TimerItem,
)
from router.services import choosing, decisions, routing
from router.services.decisions import Arrival, Configuration
from router.services.replay_selection import CAUSES, Selection

Place = tuple[int, int, str]
"""Instance, destination and transform."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object that may be sent."""

    pk: int
    study_id: int
    size: int


@dataclass(slots=True)
class History:
    """What the ledger knows of an object at a destination under one transform.

    ``newest`` is the state of its newest item; of one that was cancelled only where there is no
    other.
    """

    newest: str = ""
    rule: str = ""
    states: set[str] = field(default_factory=set)
    rules: set[str] = field(default_factory=set)
    jobs: set[int] = field(default_factory=set)

    def add(self, state: str, rule: str, job: int) -> None:
        """Add an item; they come oldest first."""
        self.states.add(state)
        self.jobs.add(job)
        if rule:
            self.rules.add(rule)
            self.rule = rule
        if state != ItemState.CANCELLED or not self.newest:
            self.newest = state

    @property
    def is_on_way(self) -> bool:
        """Whether an item of it is still to be delivered without a person."""
        return not self.states.isdisjoint(OPEN_STATES)

    @property
    def is_held(self) -> bool:
        """Whether an item of it waits for somebody to release it."""
        return ItemState.HELD in self.states


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that the replay means. ``now`` is the history under the transform it would leave."""

    stored: Stored
    destination: int
    transform: str
    rule: str
    now: History

    @property
    def place(self) -> Place:
        """Where it would go, and as what."""
        return self.stored.pk, self.destination, self.transform


def find(
    replay: Replay, selection: Selection, stored: Sequence[Stored]
) -> tuple[list[Candidate], int]:
    """Return the candidates among `stored`, once each, and how many objects cannot be judged.

    Raises:
        OSError: rules are to be asked, and the objects cannot be read at the moment.
    """
    finder = _Finder(replay, selection, histories([one.pk for one in stored]))
    if replay.route == ReplayRoute.THEN:
        return list(_once(finder.as_chosen_then(stored))), 0
    found, unread = _asked(stored)
    return list(_once(finder.as_rules_choose(found))), unread


def _once(candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    seen: set[Place] = set()
    for one in candidates:
        if one.place not in seen:
            seen.add(one.place)
            yield one


def histories(instances: Sequence[int]) -> dict[Place, History]:
    """Return what the ledger knows of `instances`, by place, in the order of their items."""
    items = JobItem.objects.filter(instance__in=instances, cause__in=CAUSES).order_by("id")
    found: dict[Place, History] = {}
    for instance, destination, transform, state, rule, job in items.values_list(
        "instance_id", "destination_id", "transform", "state", "job__rule", "job_id"
    ):
        place = instance, destination, transform
        found.setdefault(place, History()).add(state, rule, job)
    return found


class _Finder:
    """The two ways to candidates, with what both of them leave out."""

    def __init__(
        self, replay: Replay, selection: Selection, known: Mapping[Place, History]
    ) -> None:
        self._replay, self._selection, self._known = replay, selection, known
        self._destinations = dict(Destination.objects.values_list("name", "pk"))
        self._transforms = dict(Rule.objects.values_list("name", "transform"))
        self._wanted = self._destinations.get(selection.destination)

    def as_chosen_then(self, stored: Sequence[Stored]) -> Iterator[Candidate]:
        """Yield the pairs that jobs were made for."""
        chosen: dict[int, list[Place]] = {}
        for place in self._known:
            chosen.setdefault(place[0], []).append(place)
        for one in stored:
            for place in chosen.get(one.pk, ()):
                before, (_pk, destination, then) = self._known[place], place
                if self._is_meant(before, destination) and self._was_chosen(before):
                    leaves_as = self._transform(then, before.rule)
                    yield self._candidate(one, destination, leaves_as, before.rule)

    def as_rules_choose(
        self, found: Sequence[tuple[Stored, Sequence[tuple[str, RuleSpec]]]]
    ) -> Iterator[Candidate]:
        """Yield the pairs that the rules of today choose."""
        for stored, choices in found:
            for name, spec in choices:
                if self._selection.rule and spec.name != self._selection.rule:
                    continue
                destination = self._destinations[name]
                leaves_as = self._transform(spec.transform or "", spec.name)
                before = self._known.get((stored.pk, destination, leaves_as), History())
                if self._is_meant(before, destination):
                    yield self._candidate(stored, destination, leaves_as, spec.name)

    def _candidate(self, stored: Stored, destination: int, transform: str, rule: str) -> Candidate:
        now = self._known.get((stored.pk, destination, transform), History())
        return Candidate(stored, destination, transform, rule, now)

    def _transform(self, then: str, rule: str) -> str:
        """Return the transform to leave under; that of then where the rule is gone."""
        if self._replay.content == ReplayContent.ORIGINAL:
            return ""
        return self._transforms.get(rule, then)

    def _is_meant(self, before: History, destination: int) -> bool:
        """What a person gave up on is left alone unless it is asked for by its state."""
        selection = self._selection
        if selection.destination and destination != self._wanted:
            return False
        if selection.state and before.newest != selection.state:
            return False
        if before.newest == ItemState.CANCELLED:
            return selection.state == ItemState.CANCELLED
        return self._replay.only != ReplayOnly.FAILED or before.newest == ItemState.PARKED

    def _was_chosen(self, before: History) -> bool:
        selection = self._selection
        if selection.rule and selection.rule not in before.rules:
            return False
        return not selection.jobs or not before.jobs.isdisjoint(selection.jobs)


# --- the rules of today --------------------------------------------------------------------------
_Asked = tuple[Stored, list[tuple[str, RuleSpec]]]


def _asked(stored: Sequence[Stored]) -> tuple[list[_Asked], int]:
    """Return what the rules of today choose for each object, and how many cannot be read.

    What routing is yet to decide, at once or when a timer fires, is left to it.
    """
    config = decisions.configuration()
    marks = RoutingMark.objects.filter(instance__in=[one.pk for one in stored])
    marks = marks.exclude(decision=None)
    timed = TimerItem.objects.filter(instance=OuterRef("instance"))
    arrivals = {one.instance: one for one in routing.arrivals_of(marks.filter(~Exists(timed)))}
    found, unread = [], 0
    for one in stored:
        if one.pk not in arrivals:
            continue
        choices = _choices(arrivals[one.pk], config)
        if choices is None:
            unread += 1
        else:
            found.append((one, choices))
    return _at_members(found), unread


@transaction.atomic
def _at_members(found: Sequence[_Asked]) -> list[_Asked]:
    """Put the member that has the study, or gets it now, in the place of each group."""
    places = choosing.places_of((one.study_id, name) for one, all_ in found for name, _spec in all_)
    return [
        (one, [(places[one.study_id, name].destination.name, spec) for name, spec in choices])
        for one, choices in found
    ]


def _choices(arrival: Arrival, config: Configuration) -> list[tuple[str, RuleSpec]] | None:
    """Return each destination with the rule that chooses it; None where nothing can be read.

    Raises:
        OSError: it may be readable later.
    """
    try:
        found = decisions.explain(arrival, config)
    except DicomError:
        return None
    except OSError as error:
        if storage.is_passing(error):
            raise
        return None
    group = decisions.Group("", found.chosen, arrivals=[arrival])
    ruling = choosing.Ruling(group, DecisionPhase.ARRIVAL, found.chosen)
    return [(wish.place, wish.spec) for wish in ruling.wishes()]
