"""Text compared directly answers as the expressions would that it stands for."""

from fnmatch import fnmatchcase

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from router.dicom.conditions import Leaf, parse_condition
from router.dicom.header import Field
from router.dicom.predicates import predicate
from router.dicom.seen import Seen

TEXT = st.text("ab. |^\n\0\\", max_size=8)


def holds(op: str, wanted: object, *values: str, vr: str = "LO", problem: str = "") -> bool:
    leaf = parse_condition({"field": "PatientComments", "op": op, "value": wanted})
    assert isinstance(leaf, Leaf)
    return predicate(leaf).holds(Seen(Field(values, vr, problem), 1))


@given(st.text("ab.* ?\\", min_size=1, max_size=8).filter(lambda text: text.strip(" \0")), TEXT)
def test_wildcards(pattern: str, value: str) -> None:
    wanted = pattern.rstrip(" \0")
    assert holds("matches", pattern, value) is fnmatchcase(value, wanted)


@given(st.text("ab| -_.^$", min_size=1, max_size=8), TEXT)
def test_expressions(pattern: str, value: str) -> None:
    assert holds("regex", pattern, value) is (re2.search(pattern, value) is not None)


@pytest.mark.parametrize(
    ("op", "wanted", "values", "ok"),
    [
        ("matches", "ab*ba", ("aba",), False),
        ("matches", "a*b*c", ("a--b--c", "x"), True),
        ("matches", "a*b*c*c", ("abc",), False),
        ("regex", "A|B", ("x", "-B-"), True),
        ("regex", "A|", ("x",), True),
        ("contains", "b", ("a", "abc"), True),
        ("contains", "b", (), False),
        ("in", ["a", "b"], ("c", "b"), True),
        ("not_equals", "a", ("a", "b"), True),
        ("not_equals", "a", ("a", "a"), False),
        ("not_equals", "a", (), False),
        ("exists", None, (), True),
    ],
)
def test_any_value_is_enough(op: str, wanted: object, values: tuple[str, ...], ok: bool) -> None:
    assert holds(op, wanted, *values) is ok


@pytest.mark.parametrize("op", ["equals", "not_equals", "contains", "matches", "regex"])
def test_what_has_a_problem_answers_nothing(op: str) -> None:
    assert not holds(op, "a", "a", "b", problem="character set undecodable")


@pytest.mark.parametrize(
    ("op", "ok"), [("lt", True), ("lte", True), ("gt", True), ("gte", True), ("equals", True)]
)
def test_numbers_are_compared_by_vr_whatever_they_are_beside(op: str, ok: bool) -> None:
    leaf = parse_condition({"field": "PixelSpacing", "op": op, "value": "2"})
    assert isinstance(leaf, Leaf)
    answers = predicate(leaf)
    assert answers.holds(Seen(Field(("x", "1.0", "2.00", "3e0"), "DS", ""), 1)) is ok
    nothing = Seen(Field(("x", "y"), "DS", ""), 1)
    assert not answers.holds(nothing)
    assert answers.note(nothing) == "not a number"
