"""Conditions of rules: parsed from the YAML or JSON tree, checked, described, and made into tests.

A condition is data; nothing of it is ever evaluated as code. Where the contract leaves room: an
element without a value counts as missing; an undecodable one is missing too; one that is too long
or no text exists. `equals`, `not_equals` and `in` compare numbers, dates and times by VR as the
order operators do.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Final, NamedTuple

import re2

from router.dicom import compare
from router.dicom.errors import RuleError
from router.dicom.fields import FieldPath, parse_field
from router.dicom.header import NOT_TEXT, TOO_LONG, WRONG_LENGTH, Field

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
_UNARY = frozenset({"exists", "missing"})
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda seen, wanted: seen < wanted,
    "lte": lambda seen, wanted: seen <= wanted,
    "gt": lambda seen, wanted: seen > wanted,
    "gte": lambda seen, wanted: seen >= wanted,
}
_PATTERNS = frozenset({"matches", "contains", "regex"})
_PRESENT = frozenset({"", TOO_LONG, NOT_TEXT, WRONG_LENGTH})
_MAX_NESTING = 32
Path = tuple[str | int, ...]


class Verdict(NamedTuple):
    """The answer of a leaf, what it saw, and a word on why there was nothing to see."""

    ok: bool
    seen: tuple[str, ...]
    note: str


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
    if op in _UNARY:
        if value is not None:
            raise RuleError(path, f"{op} takes no value", "no value")
        return ()
    if value is None:
        raise RuleError(path, "the value is missing", "a list" if op == "in" else "a value")
    if op == "in":
        if not isinstance(value, list | tuple) or not value:
            raise RuleError(path, "not a list of values", "a list with at least one value")
        return tuple(_scalar(one, (*path, index)) for index, one in enumerate(value))
    if op in _PATTERNS and not isinstance(value, str):
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
        _compile(leaf.wanted[0], path)
    if leaf.op in _UNARY or leaf.op in _PATTERNS:
        return
    known = compare.BY_VR.get(leaf.field.vr)
    if leaf.op in _ORDER:
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


def _compile(pattern: str, path: Path = ()) -> re2._Regexp:
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


def tester(leaf: Leaf) -> Callable[[Field], Verdict]:
    """The leaf as a function of what its field holds."""
    if leaf.op in _UNARY:
        return _presence(wanted=leaf.op == "exists")
    if leaf.op in _ORDER:
        return _order(leaf)
    if leaf.op in _PATTERNS:
        return _pattern(_predicate(leaf))
    return _equality(leaf)


def _presence(*, wanted: bool) -> Callable[[Field], Verdict]:
    def test(field: Field) -> Verdict:
        return Verdict((field.problem in _PRESENT) is wanted, field.values, field.problem)

    return test


def _pattern(predicate: Callable[[str], bool]) -> Callable[[Field], Verdict]:
    def test(field: Field) -> Verdict:
        values, _, problem = field
        if problem:
            return Verdict(ok=False, seen=values, note=problem)
        return Verdict(any(map(predicate, values)), values, "")

    return test


def _predicate(leaf: Leaf) -> Callable[[str], bool]:
    wanted = leaf.wanted[0]
    if leaf.op == "contains":
        return lambda value: wanted in value
    if leaf.op == "regex":
        search = _compile(wanted).search
        return lambda value: search(value) is not None
    return _wildcard(wanted)


def _wildcard(wanted: str) -> Callable[[str], bool]:
    """`*` and `?`; the common `PREFIX*` needs no expression, the rest cannot backtrack."""
    if "?" not in wanted and "*" not in wanted[:-1]:
        prefix = wanted.removesuffix("*")
        if prefix != wanted:
            return lambda value: value.startswith(prefix)
        return lambda value: value == wanted
    pieces = (re2.escape(piece) for piece in re.split(r"([*?])", wanted))
    signs = {re2.escape("*"): ".*", re2.escape("?"): "."}
    full = _compile("(?s)" + "".join(signs.get(piece, piece) for piece in pieces)).fullmatch
    return lambda value: full(value) is not None


def _equality(leaf: Leaf) -> Callable[[Field], Verdict]:
    """equals, not_equals, in: as text, and by VR where text may differ for one value."""
    wanted, differs = frozenset(leaf.wanted), leaf.op == "not_equals"
    by_vr = {
        vr: frozenset(convert(value) for value in leaf.wanted) - {None}
        for vr, (convert, _) in compare.BY_VR.items()
    }

    def test(field: Field) -> Verdict:
        values, vr, problem = field
        if problem or not values:
            return Verdict(ok=False, seen=values, note=problem)
        converted = by_vr.get(vr)
        if converted is None:
            if differs:
                return Verdict(any(value not in wanted for value in values), values, "")
            return Verdict(any(value in wanted for value in values), values, "")
        convert, note = compare.BY_VR[vr]
        known = [one for one in map(convert, values) if one is not None]
        ok = any((one in converted) is not differs for one in known)
        return Verdict(ok, values, "" if known else note)

    return test


def _order(leaf: Leaf) -> Callable[[Field], Verdict]:
    holds = _ORDER[leaf.op]
    wanted = {vr: convert(leaf.wanted[0]) for vr, (convert, _) in compare.BY_VR.items()}
    as_number = compare.number(leaf.wanted[0])

    def test(field: Field) -> Verdict:
        values, vr, problem = field
        if problem:
            return Verdict(ok=False, seen=values, note=problem)
        convert, note = compare.BY_VR.get(vr, compare.AS_NUMBER)
        border = wanted.get(vr, as_number)
        known = [one for one in map(convert, values) if one is not None]
        if border is None or not known:
            return Verdict(ok=False, seen=values, note=note)
        return Verdict(any(holds(one, border) for one in known), values, "")

    return test
