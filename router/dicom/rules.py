"""Which rules choose an instance, and why the others do not.

It matches and explains. What is sent where, and when, is decided elsewhere.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from router.dicom.conditions import (
    OPERATORS,
    Condition,
    Every,
    Leaf,
    Opposite,
    describe,
    parse_condition,
)
from router.dicom.errors import RuleError
from router.dicom.fields import FACTS, Facts, FieldPath, fetcher, parse_field
from router.dicom.outcomes import Outcome, Reason, Stored, stored_outcome
from router.dicom.predicates import Predicate, predicate
from router.dicom.recent import Recent
from router.dicom.seen import Seen, Slot

__all__ = [
    "FACTS",
    "OPERATORS",
    "Condition",
    "Facts",
    "Match",
    "Outcome",
    "Reason",
    "RuleSet",
    "RuleSpec",
    "compile_rules",
    "describe",
    "match",
    "parse_condition",
    "parse_field",
]

State = Literal["draft", "shadow", "live"]
On = Literal["instance", "series", "study"]

_MOST_SEEN = 64
_MOST_ANSWERS = 20_000
_MOST_RECENT = 256
_MOST_RECENT_OUTCOMES = 10_000


@dataclass(frozen=True)
class RuleSpec:
    """A rule as configured; `when` is the tree as YAML or JSON gave it.

    `priority` is its place in the walk, `urgency` how urgent what it sends is.
    """

    name: str
    priority: int = 0
    state: State = "live"
    when: object | None = None
    on: On = "instance"
    quiet_seconds: int = 60
    send: tuple[str, ...] = ()
    transform: str | None = None
    urgency: str = ""
    stop: bool = False
    enabled: bool = True


@dataclass(frozen=True)
class Match:
    """One outcome a rule in the order of the walk, and the live rules that chose the instance.

    `explanation` is what is stored. Instances that read alike share a match: change nothing in it.
    """

    explanation: list[Stored]
    chosen: tuple[RuleSpec, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The explanation as objects that have words."""
        return tuple(Outcome.from_dict(one) for one in self.explanation)


_Answer = tuple[bool, tuple[int, ...]]


@dataclass(frozen=True)
class _Ask:
    """A compiled leaf: its number among all and in the slot of its field, and how it answers."""

    index: int
    slot: int
    place: int
    leaf: Leaf
    predicate: Predicate
    wants: str

    def reason(self, seen: Seen) -> Stored:
        """The stored form of a `Reason`."""
        found = seen.reasons.get(self.place)
        if found is None:
            found = seen.reasons[self.place] = {
                "field": self.leaf.field.text,
                "op": self.leaf.op,
                "wanted": self.wants,
                "seen": seen.shown(),
                "note": self.predicate.note(seen),
                "ok": bool(seen.answers[self.place]),
            }
        return found


class _Asked:
    """One instance while it is asked: each field is looked at once."""

    __slots__ = ("_facts", "_slots", "fields", "looked")

    def __init__(self, facts: Facts, slots: Sequence[Slot]) -> None:
        self._facts = facts
        self._slots = slots
        self.fields: list[Seen | None] = [None] * len(slots)
        self.looked: list[tuple[int, Seen]] = []

    def look(self, slot: int) -> Seen:
        """What the instance holds there."""
        seen = self.fields[slot]
        if seen is None:
            seen = self.fields[slot] = self._slots[slot].look(self._facts)
            self.looked.append((slot, seen))
        return seen


_Run = Callable[[_Asked], _Answer]


@dataclass(frozen=True)
class RuleSet:
    """Compiled rules in the order of the walk, and what they said of instances seen lately."""

    rules: tuple[tuple[RuleSpec, _Run], ...]
    asks: tuple[_Ask, ...]
    slots: tuple[Slot, ...]
    recent: Recent[Match]


class _Compiler:
    """Makes closures of conditions; equal leaves and fields of all rules share one slot."""

    def __init__(self) -> None:
        self.leaves: dict[Leaf, int] = {}
        self.asks: list[_Ask] = []
        self.fields: dict[str, tuple[int, FieldPath]] = {}
        self.places: Counter[int] = Counter()

    def compile(self, node: Condition) -> _Run:
        if isinstance(node, Leaf):
            return _every_leaf((self._ask(node),))
        if isinstance(node, Opposite):
            return _opposite(self.compile(node.node))
        leaves = tuple(self._ask(one) for one in node.nodes if isinstance(one, Leaf))
        if isinstance(node, Every) and len(leaves) == len(node.nodes):
            return _every_leaf(leaves)
        runs = tuple(self.compile(one) for one in node.nodes)
        return _every(runs) if isinstance(node, Every) else _some(runs)

    def _ask(self, leaf: Leaf) -> _Ask:
        index = self.leaves.setdefault(leaf, len(self.leaves))
        if index == len(self.asks):
            slot = self._slot(leaf.field)
            place = self.places[slot]
            self.asks.append(_Ask(index, slot, place, leaf, predicate(leaf), leaf.wants))
            self.places[slot] += 1
        return self.asks[index]

    def _slot(self, field: FieldPath) -> int:
        return self.fields.setdefault(field.text, (len(self.fields), field))[0]

    def slots(self) -> tuple[Slot, ...]:
        """What holds the fields; the more leaves there are, the less is remembered of each."""
        most = max(2, min(_MOST_SEEN, _MOST_ANSWERS // max(1, len(self.asks))))
        return tuple(
            Slot(fetcher(field), self.places[slot], most=most)
            for slot, field in self.fields.values()
        )


def _every_leaf(asks: tuple[_Ask, ...]) -> _Run:
    """As `_every`, for leaves alone: what nearly every rule is made of, hence in one loop."""
    whole = (True, tuple(ask.index for ask in asks))
    parts = [(ask.slot, ask.place, ask.predicate.holds, (False, (ask.index,))) for ask in asks]

    def run(asked: _Asked) -> _Answer:
        fields = asked.fields
        for slot, place, holds, failed in parts:
            seen = fields[slot] or asked.look(slot)
            answer = seen.answers[place]
            if answer is None:
                answer = seen.answers[place] = holds(seen)
            if not answer:
                return failed
        return whole

    return run


def _every(runs: tuple[_Run, ...]) -> _Run:
    """False: the first node that failed. True: all of them."""

    def run(asked: _Asked) -> _Answer:
        held = []
        for one in runs:
            answer = one(asked)
            if not answer[0]:
                return answer
            held.append(answer[1])
        return True, tuple(chain.from_iterable(held))

    return run


def _some(runs: tuple[_Run, ...]) -> _Run:
    """True: the first node that held. False: what each failed on; any would have done."""

    def run(asked: _Asked) -> _Answer:
        failed = []
        for one in runs:
            answer = one(asked)
            if answer[0]:
                return answer
            failed.append(answer[1])
        return False, tuple(chain.from_iterable(failed))

    return run


def _opposite(inner: _Run) -> _Run:
    def run(asked: _Asked) -> _Answer:
        ok, leaves = inner(asked)
        return not ok, leaves

    return run


def compile_rules(specs: Iterable[RuleSpec]) -> RuleSet:
    """Parse and order the rules (priority, then name); RuleError paths begin with the name."""
    compiler = _Compiler()
    rules: list[tuple[RuleSpec, _Run]] = []
    names: set[str] = set()
    for spec in sorted(specs, key=lambda spec: (spec.priority, spec.name)):
        if spec.name in names:
            raise RuleError((spec.name,), "two rules have this name", "names that differ")
        names.add(spec.name)
        condition = parse_condition(spec.when, (spec.name, "when"))
        rules.append((spec, compiler.compile(condition)))
    recent = Recent[Match](min(_MOST_RECENT, _MOST_RECENT_OUTCOMES // max(1, len(rules))))
    return RuleSet(tuple(rules), tuple(compiler.asks), compiler.slots(), recent)


def match(ruleset: RuleSet, facts: Facts) -> Match:
    """Ask every rule about one instance. Never raises for what the instance holds."""
    asked = _Asked(facts, ruleset.slots)
    found = ruleset.recent.find(asked.look)
    if found is None:
        found = _walk(ruleset, asked)
        ruleset.recent.keep(asked.looked, found)
    return found


def _walk(ruleset: RuleSet, asked: _Asked) -> Match:
    explanation: list[Stored] = []
    chosen: list[RuleSpec] = []
    asks, stopped_by = ruleset.asks, ""
    for spec, run in ruleset.rules:
        idle = _idle(spec, stopped_by)
        if idle:
            by = stopped_by if idle == "not tried" else ""
            explanation.append(stored_outcome(spec.name, spec.state, idle, [], by))
            continue
        ok, leaves = run(asked)
        reasons = [asks[index].reason(asked.look(asks[index].slot)) for index in leaves]
        result = "matched" if ok else "not matched"
        explanation.append(stored_outcome(spec.name, spec.state, result, reasons))
        if ok and spec.state == "live":
            chosen.append(spec)
            stopped_by = spec.name if spec.stop else ""
    return Match(explanation, tuple(chosen))


def _idle(spec: RuleSpec, stopped_by: str) -> str:
    """Why a rule is not evaluated, or ''."""
    if not spec.enabled:
        return "disabled"
    if spec.state == "draft":
        return "draft"
    return "not tried" if stopped_by else ""
