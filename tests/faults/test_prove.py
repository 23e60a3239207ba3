"""The shards of `make prove` are whole and disjoint, and what a case does is repeatable."""

from tests.faults.prove import Case, part
from tests.faults.stages import KINDS, Alone

CASES = [Case("sqlite", "crash", "index.after_commit", number) for number in range(1, 24)]


def test_parts_are_whole_and_disjoint() -> None:
    parts = [part(CASES, f"{number}/5") for number in range(1, 6)]
    assert sorted(case.number for some in parts for case in some) == list(range(1, 24))
    assert part(CASES, "") == CASES


def test_a_case_makes_the_same_choices_again() -> None:
    assert CASES[0].seed == Case("postgresql", "crash", "index.after_commit", 1).seed
    assert len({case.seed for case in CASES}) == len(CASES)


def test_every_kind_has_cases() -> None:
    """Those without books may know no database; what they find does not depend on one."""
    for name, kind in KINDS.items():
        assert kind.names("sqlite"), name
        assert kind.names("postgresql") or isinstance(kind, Alone), name
        assert kind.least >= len(kind.names("sqlite")) > 0, name
        assert kind.least >= len(kind.names("postgresql")), name
