"""Which rules choose an instance, and why the others do not.

It matches and explains. What is sent where, and when, is decided elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from router.dicom.conditions import (
    OPERATORS,
    Condition,
    Every,
    Leaf,
    Opposite,
    Verdict,
    describe,
    parse_condition,
    tester,
)
from router.dicom.errors import RuleError
from router.dicom.fields import FACTS, Facts, fetcher, parse_field
from router.dicom.header import Field

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
Result = Literal["matched", "not matched", "not tried", "draft", "disabled"]
On = Literal["instance", "series", "study"]

_MOST_VALUES = 5
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class RuleSpec:
    """A rule as configured; `when` is the tree as YAML or JSON gave it."""

    name: str
    priority: int = 0
    state: State = "live"
    when: object | None = None
    on: On = "instance"
    quiet_seconds: int = 60
    send: tuple[str, ...] = ()
    transform: str | None = None
    stop: bool = False
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Reason:
    """A condition that decided: what was wanted, what was seen, why nothing was seen."""

    field: str
    op: str
    wanted: str
    seen: tuple[str, ...]
    note: str
    ok: bool

    def sentence(self) -> str:
        """'Modality is MR and the rule wants CT or PT', without a full stop."""
        seen = ", ".join(self.seen)
        sight = f"{self.field} is {seen}" if seen else f"{self.field} is {self.note or 'there'}"
        if seen and self.note:
            sight += f" ({self.note})"
        if self.ok:
            return sight
        return f"{sight} and the rule wants {_WANTS[self.op]}{self.wanted}".rstrip()

    def as_dict(self) -> dict[str, object]:
        """The reason in JSON's types; a NUL seen is shown as U+2400, for no database takes it."""
        return {
            "field": self.field,
            "op": self.op,
            "wanted": self.wanted,
            "seen": [value.replace("\x00", "\u2400") for value in self.seen],
            "note": self.note,
            "ok": self.ok,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Reason":
        """The inverse of as_dict."""
        seen = data["seen"]
        return cls(
            field=str(data["field"]),
            op=str(data["op"]),
            wanted=str(data["wanted"]),
            seen=tuple(str(value) for value in seen) if isinstance(seen, list) else (),
            note=str(data["note"]),
            ok=bool(data["ok"]),
        )


_IDLE_WORDS = {"draft": "a draft", "disabled": "disabled"}
_WANTS = {
    "equals": "",
    "in": "",
    "not_equals": "anything but ",
    "matches": "",
    "contains": "text that contains ",
    "regex": "text that matches ",
    "exists": "a value",
    "missing": "none",
    "lt": "less than ",
    "lte": "at most ",
    "gt": "more than ",
    "gte": "at least ",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one rule; a shadow rule is watched without effect."""

    rule: str
    state: str
    result: str
    reasons: tuple[Reason, ...] = ()
    stopped_by: str = ""

    @property
    def shadow(self) -> bool:
        """Whether the rule was only watched."""
        return self.state == "shadow"

    @property
    def reason(self) -> Reason | None:
        """The first deciding condition; None for a rule that takes every instance."""
        return self.reasons[0] if self.reasons else None

    def sentence(self) -> str:
        """Why, for people; without a full stop."""
        if self.result == "not tried":
            return f"not tried, because {self.stopped_by} matched and stops the walk"
        if self.result in {"draft", "disabled"}:
            return f"not tried, because the rule is {_IDLE_WORDS[self.result]}"
        why = " and ".join(reason.sentence() for reason in self.reasons)
        prefix = "in shadow: " if self.shadow else ""
        return f"{prefix}{self.result}, because {why or 'the rule takes every instance'}"

    def as_dict(self) -> dict[str, object]:
        """The outcome in JSON's types."""
        return {
            "rule": self.rule,
            "state": self.state,
            "result": self.result,
            "reasons": [reason.as_dict() for reason in self.reasons],
            "stopped_by": self.stopped_by,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Outcome":
        """The inverse of as_dict."""
        reasons = data.get("reasons")
        listed = reasons if isinstance(reasons, list) else []
        return cls(
            rule=str(data["rule"]),
            state=str(data["state"]),
            result=str(data["result"]),
            reasons=tuple(Reason.from_dict(reason) for reason in listed),
            stopped_by=str(data.get("stopped_by", "")),
        )


@dataclass(frozen=True)
class Match:
    """One outcome a rule in the order of the walk, and the live rules that chose the instance."""

    outcomes: tuple[Outcome, ...]
    chosen: tuple[RuleSpec, ...]


class _Asked:
    """One instance while it is asked: shared fields and leaves are looked at once."""

    __slots__ = ("facts", "fields", "reasons", "verdicts")

    def __init__(self, facts: Facts, fields: int, leaves: int) -> None:
        self.facts = facts
        self.fields: list[Field | None] = [None] * fields
        self.verdicts: list[tuple[bool, tuple[int, ...]] | None] = [None] * leaves
        self.reasons: list[Verdict | None] = [None] * leaves


_Answer = tuple[bool, tuple[int, ...]]
_Run = Callable[[_Asked], _Answer]


@dataclass(frozen=True)
class RuleSet:
    """Compiled rules in the order of the walk."""

    rules: tuple[tuple[RuleSpec, _Run], ...]
    leaves: tuple[Leaf, ...]
    fields: int


class _Compiler:
    """Makes closures of conditions; equal leaves and fields of all rules share one slot."""

    def __init__(self) -> None:
        self.leaves: dict[Leaf, int] = {}
        self.fields: dict[str, int] = {}

    def compile(self, node: Condition) -> _Run:
        if isinstance(node, Leaf):
            return self._leaf(node)
        if isinstance(node, Opposite):
            return _opposite(self.compile(node.node))
        runs = tuple(self.compile(one) for one in node.nodes)
        return _every(runs) if isinstance(node, Every) else _some(runs)

    def _leaf(self, leaf: Leaf) -> _Run:
        index = self.leaves.setdefault(leaf, len(self.leaves))
        slot = self.fields.setdefault(leaf.field.text, len(self.fields))
        fetch, test = fetcher(leaf.field), tester(leaf)
        true, false = (True, (index,)), (False, (index,))

        def run(asked: _Asked) -> _Answer:
            answer = asked.verdicts[index]
            if answer is not None:
                return answer
            field = asked.fields[slot]
            if field is None:
                field = asked.fields[slot] = fetch(asked.facts)
            verdict = asked.reasons[index] = test(field)
            answer = asked.verdicts[index] = true if verdict.ok else false
            return answer

        return run


def _every(runs: tuple[_Run, ...]) -> _Run:
    """False: the first node that failed. True: all of them."""

    def run(asked: _Asked) -> _Answer:
        leaves: tuple[int, ...] = ()
        for one in runs:
            answer = one(asked)
            if not answer[0]:
                return answer
            leaves += answer[1]
        return True, leaves

    return run


def _some(runs: tuple[_Run, ...]) -> _Run:
    """True: the first node that held. False: what each failed on; any would have done."""

    def run(asked: _Asked) -> _Answer:
        leaves: tuple[int, ...] = ()
        for one in runs:
            answer = one(asked)
            if answer[0]:
                return answer
            leaves += answer[1]
        return False, leaves

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
    return RuleSet(tuple(rules), tuple(compiler.leaves), len(compiler.fields))


def match(ruleset: RuleSet, facts: Facts) -> Match:
    """Ask every rule about one instance. Never raises for what the instance holds."""
    asked = _Asked(facts, ruleset.fields, len(ruleset.leaves))
    outcomes: list[Outcome] = []
    chosen: list[RuleSpec] = []
    stopped_by = ""
    for spec, run in ruleset.rules:
        idle = _idle(spec, stopped_by)
        if idle is not None:
            outcomes.append(idle)
            continue
        ok, leaves = run(asked)
        reasons = tuple([_reason(ruleset.leaves[index], asked.reasons[index]) for index in leaves])
        result = "matched" if ok else "not matched"
        outcomes.append(Outcome(spec.name, spec.state, result, reasons))
        if ok and spec.state == "live":
            chosen.append(spec)
            stopped_by = spec.name if spec.stop else ""
    return Match(tuple(outcomes), tuple(chosen))


def _idle(spec: RuleSpec, stopped_by: str) -> Outcome | None:
    """The outcome of a rule that is not evaluated, or None."""
    if not spec.enabled:
        return Outcome(spec.name, spec.state, "disabled")
    if spec.state == "draft":
        return Outcome(spec.name, spec.state, "draft")
    if stopped_by:
        return Outcome(spec.name, spec.state, "not tried", (), stopped_by)
    return None


def _reason(leaf: Leaf, verdict: Verdict | None) -> Reason:
    ok, seen, note = verdict or Verdict(ok=False, seen=(), note="")
    if len(seen) > _MOST_VALUES or any(len(value) > _MOST_CHARACTERS for value in seen):
        seen = tuple(value[:_MOST_CHARACTERS] for value in seen[:_MOST_VALUES])
    return Reason(leaf.field.text, leaf.op, leaf.wants, seen, note, ok)
