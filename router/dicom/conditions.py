"""Conditions of rules: parsed from the YAML or JSON tree, checked and described.

A condition is data; nothing of it is ever evaluated as code. Where the contract leaves room: an
element without a value counts as missing; an undecodable one is missing too; one that is too long
or no text exists. `equals`, `not_equals` and `in` compare numbers, dates and times by VR as the
order operators do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Final

import re2

from router.dicom import compare
from router.dicom.errors import RuleError
from router.dicom.fields import FieldPath, parse_field

OPERATORS: Final = {
    "equals": "is",
    "not_equals": "is not",
    "in": "is one of",
    "matches": "matches",
    "contains": "contains",
    "regex": "matches the expression",
    "exists": "has a value",
    "missing": "has no value",
    "lt": "is less than",
    "lte": "is at most",
    "gt": "is greater than",
    "gte": "is at least",
}
UNARY: Final = frozenset({"exists", "missing"})
ORDER: Final = frozenset({"lt", "lte", "gt", "gte"})
PATTERNS: Final = frozenset({"matches", "contains", "regex"})
_MAX_NESTING = 32
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Leaf:
    """One comparison of one field."""

    field: FieldPath
    op: str
    wanted: tuple[str, ...]

    @property
    def wants(self) -> str:
        """The wanted values as people write a list."""
        return _listed(self.wanted)


@dataclass(frozen=True)
class Every:
    """True when every node is; true for none at all."""

    nodes: tuple["Condition", ...]


@dataclass(frozen=True)
class Some:
    """True when at least one node is."""

    nodes: tuple["Condition", ...]


@dataclass(frozen=True)
class Opposite:
    """True when its node is not."""

    node: "Condition"


Condition = Leaf | Every | Some | Opposite


def parse_condition(tree: object, path: Path = ()) -> Condition:
    """Parse a condition tree; RuleError carries the path into it. None = every instance."""
    if tree is None:
        return Every(())
    if len(path) > 2 * _MAX_NESTING:
        raise RuleError(path, "nested too deeply", f"at most {_MAX_NESTING} levels")
    if not isinstance(tree, Mapping):
        raise RuleError(path, "not a condition", "a mapping with all, any, not, or field and op")
    groups = [key for key in ("all", "any", "not") if key in tree]
    if not groups:
        return _parse_leaf(tree, path)
    if len(tree) != 1:
        raise RuleError(path, "more than one key beside " + groups[0], "one of all, any, not alone")
    below = tree[groups[0]]
    if groups[0] == "not":
        if below is None:
            raise RuleError((*path, "not"), "empty", "one condition")
        return Opposite(parse_condition(below, (*path, "not")))
    nodes = _parse_list(below, (*path, groups[0]))
    return Every(nodes) if groups[0] == "all" else Some(nodes)


def _parse_list(below: object, path: Path) -> tuple[Condition, ...]:
    if not isinstance(below, list | tuple) or not below:
        raise RuleError(path, "not a list of conditions", "a list with at least one condition")
    for index, node in enumerate(below):
        if node is None:
            raise RuleError((*path, index), "empty", "a condition")
    return tuple(parse_condition(node, (*path, index)) for index, node in enumerate(below))


def _parse_leaf(tree: Mapping[object, object], path: Path) -> Leaf:
    for key in tree:
        if key not in {"field", "op", "value"}:
            raise RuleError((*path, str(key)), "unknown key", "field, op, value, all, any or not")
    for key in ("field", "op"):
        if not isinstance(tree.get(key), str):
            raise RuleError((*path, key), f"{key} is missing or no text", f"a text for {key}")
    op = str(tree["op"])
    if op not in OPERATORS:
        raise RuleError((*path, "op"), f"unknown operator {op!r}", ", ".join(OPERATORS))
    field = parse_field(str(tree["field"]), (*path, "field"))
    wanted = _parse_wanted(op, tree, (*path, "value"))
    leaf = Leaf(field, op, wanted)
    _check_wanted(leaf, (*path, "value"))
    return leaf


def _parse_wanted(op: str, tree: Mapping[object, object], path: Path) -> tuple[str, ...]:
    value = tree.get("value")
    if op in UNARY:
        if value is not None:
            raise RuleError(path, f"{op} takes no value", "no value")
        return ()
    if value is None:
        raise RuleError(path, "the value is missing", "a list" if op == "in" else "a value")
    if op == "in":
        if not isinstance(value, list | tuple) or not value:
            raise RuleError(path, "not a list of values", "a list with at least one value")
        return tuple(_scalar(one, (*path, index)) for index, one in enumerate(value))
    if op in PATTERNS and not isinstance(value, str):
        raise RuleError(path, f"{op} takes text", "a text in quotes")
    return (_scalar(value, path, trim=op != "regex"),)


def _scalar(value: object, path: Path, *, trim: bool = True) -> str:
    """Text of a YAML scalar; dates and times in the form of DA, TM and DT."""
    text = _scalar_text(value)
    if text is None:
        raise RuleError(path, f"{type(value).__name__} is no value", "text, a number or a date")
    text = text.rstrip(" \x00") if trim else text
    if not text:
        raise RuleError(path, "the value is empty", "a value, or the operator missing")
    return text


def _scalar_text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return value.strftime("%Y%m%d%H%M%S.%f%z")
    if isinstance(value, date):
        return value.strftime("%Y%m%d")
    return value.strftime("%H%M%S.%f") if isinstance(value, time) else None


def _check_wanted(leaf: Leaf, path: Path) -> None:
    if leaf.op == "regex":
        compile_expression(leaf.wanted[0], path)
    if leaf.op in UNARY or leaf.op in PATTERNS:
        return
    known = compare.BY_VR.get(leaf.field.vr)
    if leaf.op in ORDER:
        known = known or _order_of_unknown(leaf, path)
    for value in leaf.wanted:
        if known and known[0](value) is None:
            raise RuleError(path, f"{value!r} is {known[1]}", f"a value for VR {leaf.field.vr}")


def _order_of_unknown(leaf: Leaf, path: Path) -> tuple[compare.Converter, str] | None:
    """Order is for numbers, dates and times; a private element shows its VR only in the data."""
    if leaf.field.fact or leaf.field.vr not in {"", "UN", "US or SS"}:
        raise RuleError(path, f"{leaf.field.text} has no order", "a number, DA, TM or DT element")
    if all(convert(leaf.wanted[0]) is None for convert, _ in compare.BY_VR.values()):
        raise RuleError(path, f"{leaf.wanted[0]!r} has no order", "a number, a date or a time")
    return None


def compile_expression(pattern: str, path: Path = ()) -> re2._Regexp:
    """The pattern compiled by RE2, which cannot backtrack; RuleError says what is wrong with it."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not understood"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise RuleError(path, f"bad regular expression: {text}", "RE2 syntax") from error


def describe(condition: Condition) -> str:
    """The condition as a sentence without a full stop."""
    if isinstance(condition, Leaf):
        return " ".join(
            part
            for part in (condition.field.text, OPERATORS[condition.op], condition.wants)
            if part
        )
    if isinstance(condition, Opposite):
        return f"not ({describe(condition.node)})"
    if not condition.nodes:
        return "every instance"
    word = " and " if isinstance(condition, Every) else " or "
    return word.join(
        describe(node) if isinstance(node, Leaf | Opposite) else f"({describe(node)})"
        for node in condition.nodes
    )


def _listed(values: tuple[str, ...]) -> str:
    if len(values) < 2:
        return "".join(values)
    return ", ".join(values[:-1]) + " or " + values[-1]
