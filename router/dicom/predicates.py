"""Leaves of conditions as functions of what their field holds, and why they saw nothing.

Text, wildcards and plain alternatives are compared directly; only what needs an expression gets
one, by RE2, compiled once. It fetches nothing and knows no rules.
"""

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

import re2

from router.dicom import compare
from router.dicom.conditions import ORDER, PATTERNS, UNARY, Leaf, compile_expression
from router.dicom.header import NOT_TEXT, TOO_LONG, WRONG_LENGTH
from router.dicom.seen import Seen

_PRESENT = frozenset({"", TOO_LONG, NOT_TEXT, WRONG_LENGTH})
_PLAIN = re.compile(r"[A-Za-z0-9 _,:;/|-]*\Z")
_BORDERS: dict[str, tuple[Callable[..., float], Callable[[float, float], bool]]] = {
    "lt": (min, operator.lt),
    "lte": (min, operator.le),
    "gt": (max, operator.gt),
    "gte": (max, operator.ge),
}


class Predicate(NamedTuple):
    """A leaf's answer, and the word on why there was nothing to see, '' for none."""

    holds: Callable[[Seen], bool]
    note: Callable[[Seen], str]


def predicate(leaf: Leaf) -> Predicate:
    """The leaf as functions."""
    if leaf.op in UNARY:
        return Predicate(_presence(wanted=leaf.op == "exists"), _problem)
    if leaf.op in PATTERNS:
        return Predicate(_pattern(_text_test(leaf)), _problem)
    return _order(leaf) if leaf.op in ORDER else _equality(leaf)


def _problem(seen: Seen) -> str:
    return seen.problem


def _presence(*, wanted: bool) -> Callable[[Seen], bool]:
    return lambda seen: (seen.problem in _PRESENT) is wanted


def _pattern(test: Callable[[str], bool]) -> Callable[[Seen], bool]:
    def holds(seen: Seen) -> bool:
        values = seen.values
        if seen.problem or not values:
            return False
        return test(values[0]) if len(values) == 1 else any(map(test, values))

    return holds


def _text_test(leaf: Leaf) -> Callable[[str], bool]:
    wanted = leaf.wanted[0]
    if leaf.op == "contains":
        return lambda value: wanted in value
    return _expression(wanted) if leaf.op == "regex" else _wildcard(wanted)


def _expression(wanted: str) -> Callable[[str], bool]:
    """Alternatives of plain text are looked for as text; everything else is RE2's."""
    if _PLAIN.match(wanted) is None:
        search = compile_expression(wanted).search
        return lambda value: search(value) is not None
    first, *others = wanted.split("|")
    if not others:
        return lambda value: first in value
    return lambda value: first in value or any(other in value for other in others)


def _wildcard(wanted: str) -> Callable[[str], bool]:
    """`*` and `?`; without `?` the pieces are looked for in turn, which cannot backtrack."""
    if "?" in wanted:
        pieces = (_SIGNS.get(piece) or re2.escape(piece) for piece in re.split(r"([*?])", wanted))
        full = compile_expression("(?s)" + "".join(pieces)).fullmatch
        return lambda value: full(value) is not None
    first, *inner = wanted.split("*")
    if not inner:
        return lambda value: value == wanted
    last, least = inner.pop(), len(wanted.replace("*", ""))
    inner = [piece for piece in inner if piece]
    if not inner:
        return lambda value: (
            value.startswith(first) and value.endswith(last) and len(value) >= least
        )
    return lambda value: (
        value.startswith(first)
        and value.endswith(last)
        and len(value) >= least
        and _in_turn(value[len(first) : len(value) - len(last)], inner)
    )


_SIGNS = {"*": ".*", "?": "."}


def _in_turn(value: str, pieces: list[str]) -> bool:
    """Whether the pieces stand in the value one after the other; the first place is the best."""
    position = 0
    for piece in pieces:
        found = value.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def _equality(leaf: Leaf) -> Predicate:
    """equals, not_equals, in: as text, and by VR where text may differ for one value."""
    wanted, differs = frozenset(leaf.wanted), leaf.op == "not_equals"
    by_vr = {
        vr: frozenset(convert(value) for value in leaf.wanted) - {None}
        for vr, (convert, _) in compare.BY_VR.items()
    }

    def holds(seen: Seen) -> bool:
        if seen.problem:
            return False
        converted = by_vr.get(seen.vr)
        if converted is None:
            known: frozenset[object] = wanted
            values: tuple[object, ...] = seen.values
        else:
            known, values = converted, seen.numbers()
        return not (known.issuperset(values) if differs else known.isdisjoint(values))

    def note(seen: Seen) -> str:
        if seen.problem or not seen.values or seen.vr not in by_vr or seen.numbers():
            return seen.problem
        return compare.BY_VR[seen.vr][1]

    return Predicate(holds, note)


def _order(leaf: Leaf) -> Predicate:
    """lt, lte, gt, gte: one value on the right side is enough, so the outermost decides."""
    outermost, right = _BORDERS[leaf.op]
    as_number = compare.number(leaf.wanted[0])
    borders = {vr: convert(leaf.wanted[0]) for vr, (convert, _) in compare.BY_VR.items()}

    def holds(seen: Seen) -> bool:
        if seen.problem:
            return False
        border, numbers = borders.get(seen.vr, as_number), seen.numbers()
        return border is not None and bool(numbers) and right(outermost(numbers), border)

    def note(seen: Seen) -> str:
        if seen.problem:
            return seen.problem
        if borders.get(seen.vr, as_number) is None or not seen.numbers():
            return compare.BY_VR.get(seen.vr, compare.AS_NUMBER)[1]
        return ""

    return Predicate(holds, note)
