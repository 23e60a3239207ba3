"""What is told of a rule that was asked: the stored form, and the same in words.

The stored form is plain data of JSON's types, made here and read here; what it means for routing
is decided elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Stored = dict[str, Any]  # JSON's types

_MOST_VALUES = 5
_MOST_CHARACTERS = 200


def shown(values: tuple[str, ...]) -> list[str]:
    """Values as stored: the first five, 200 characters each, NUL as U+2400 for databases' sake."""
    if len(values) > _MOST_VALUES or any(len(value) > _MOST_CHARACTERS for value in values):
        values = tuple(value[:_MOST_CHARACTERS] for value in values[:_MOST_VALUES])
    return [value.replace("\x00", "\u2400") for value in values]


def stored_outcome(
    rule: str, state: str, result: str, reasons: list[Stored], stopped_by: str = ""
) -> Stored:
    """The stored form of an `Outcome`."""
    return {
        "rule": rule,
        "state": state,
        "result": result,
        "reasons": reasons,
        "stopped_by": stopped_by,
    }


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

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Reason":
        """Read one from its stored form."""
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

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Outcome":
        """Read one from its stored form."""
        reasons = data.get("reasons")
        listed = reasons if isinstance(reasons, list) else []
        return cls(
            rule=str(data["rule"]),
            state=str(data["state"]),
            result=str(data["result"]),
            reasons=tuple(Reason.from_dict(reason) for reason in listed),
            stopped_by=str(data.get("stopped_by", "")),
        )
