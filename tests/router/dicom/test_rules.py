"""The rule language: operators, what counts as missing, explanations, and an oracle."""

from collections.abc import Mapping
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom.errors import RuleError
from router.dicom.header import Header
from router.dicom.rules import (
    Facts,
    Outcome,
    RuleSpec,
    compile_rules,
    describe,
    match,
    parse_condition,
)
from router.dicom.walk import Raw


def header(**values: tuple[int, str, bytes]) -> Header:
    return Header({tag: Raw(vr.encode(), value, len(value)) for tag, vr, value in values.values()})


ITEM = b"\xfe\xff\x00\xe0\x0a\x00\x00\x00\x08\x00\x60\x00CS\x02\x00"
SAMPLE = header(
    charset=(0x00080005, "CS", b"ISO_IR 192"),
    image_type=(0x00080008, "CS", b"ORIGINAL\\PRIMARY"),
    study_date=(0x00080020, "DA", b"20240229"),
    legacy=(0x00080021, "DA", b"1997.04.24"),
    time=(0x00080030, "TM", b"1030"),
    modality=(0x00080060, "CS", b"CT\0 "),
    series=(0x00081115, "SQ", ITEM + b"MR" + ITEM + b"PT"),
    name=(0x00100010, "PN", b"M\xfcller"),
    patient=(0x00100020, "LO", b"a.b*c"),
    birth=(0x00100030, "DA", b""),
    moment=(0x0008002A, "DT", b"20240101120000+0100"),
    thickness=(0x00180050, "DS", b"2.50 "),
    kvp=(0x00180060, "DS", b"high"),
    rows=(0x00280010, "US", b"\x00\x02"),
    creator=(0x00090010, "LO", b"ACME"),
    private=(0x00091001, "UN", b"north"),
    long=(0x00104000, "UT", b"x" * 500),
)
FACTS = Facts(SAMPLE, "CT1", "DICOMROUTER", "ct-1", "10.1.0.5", "dimse")


def leaf(field: str, op: str, value: object = None) -> dict[str, object]:
    tree: dict[str, object] = {"field": field, "op": op}
    return tree if value is None else {**tree, "value": value}


def ask(tree: object, facts: Facts = FACTS) -> Outcome:
    return match(compile_rules([RuleSpec("r", when=tree)]), facts).outcomes[0]


CASES = [
    ("Modality", "equals", "CT", True, ""),
    ("Modality", "equals", "ct", False, ""),
    ("(0008,0060)", "equals", "CT", True, ""),
    ("Modality", "not_equals", "MR", True, ""),
    ("PatientSex", "not_equals", "M", False, "absent"),
    ("PatientBirthDate", "not_equals", "20200101", False, "empty"),
    ("PatientName", "not_equals", "x", False, "character set undecodable"),
    ("PatientName", "contains", "M", False, "character set undecodable"),
    ("PatientName", "missing", None, True, "character set undecodable"),
    ("PatientBirthDate", "missing", None, True, "empty"),
    ("PatientBirthDate", "exists", None, False, "empty"),
    ("Modality", "exists", None, True, ""),
    ("ImageType", "equals", "PRIMARY", True, ""),
    ("ImageType", "in", ["X", "ORIGINAL"], True, ""),
    ("ImageType", "not_equals", "PRIMARY", True, ""),
    ("PatientID", "matches", "a.b*", True, ""),
    ("PatientID", "matches", "axb*", False, ""),
    ("PatientID", "matches", "?.b?c", True, ""),
    ("PatientID", "regex", r"b\*c$", True, ""),
    ("PatientID", "contains", ".b", True, ""),
    ("SliceThickness", "lt", 3, True, ""),
    ("SliceThickness", "gte", 2.5, True, ""),
    ("SliceThickness", "equals", 2.5, True, ""),
    ("KVP", "gt", 1, False, "not a number"),
    ("KVP", "not_equals", 1, False, "not a number"),
    ("Rows", "lte", 512, True, ""),
    ("Rows", "gt", 512, False, ""),
    ("StudyDate", "lt", date(2024, 3, 1), True, ""),
    ("StudyDate", "equals", date(2024, 2, 29), True, ""),
    ("SeriesDate", "equals", "19970424", True, ""),
    ("StudyTime", "gte", "10", True, ""),
    ("StudyTime", "lt", "103001", True, ""),
    ("AcquisitionDateTime", "equals", "20240101110000+0000", True, ""),
    ("AcquisitionDateTime", "lt", "2024", False, ""),
    ("ReferencedSeriesSequence.Modality", "equals", "PT", True, ""),
    ("ReferencedSeriesSequence.Modality", "equals", "CT", False, ""),
    ("ReferencedStudySequence.Modality", "equals", "CT", False, "no such sequence"),
    ("ReferencedSeriesSequence", "exists", None, True, ""),
    ('(0009,xx01, "ACME")', "equals", "north", True, ""),
    ('(0009,xx01, "OTHER")', "equals", "north", False, "absent"),
    ("calling_ae", "matches", "CT*", True, ""),
    ("origin", "in", ["stow", "dimse"], True, ""),
]


@pytest.mark.parametrize(("field", "op", "value", "ok", "note"), CASES)
def test_operators(field: str, op: str, value: object, ok: bool, note: str) -> None:
    outcome = ask(leaf(field, op, value))
    assert outcome.result == ("matched" if ok else "not matched")
    assert outcome.reason is not None
    assert (outcome.reason.field, outcome.reason.op, outcome.reason.note) == (field, op, note)
    assert outcome.reason.ok is ok


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ([], ()),
        ({}, ("field",)),
        ({"all": []}, ("all",)),
        ({"any": [None]}, ("any", 0)),
        ({"not": None}, ("not",)),
        ({"all": [leaf("Modality", "exists")], "any": []}, ()),
        (
            {"all": [leaf("Modality", "equals", "CT"), leaf("Modalitty", "exists")]},
            ("all", 1, "field"),
        ),
        ({**leaf("Modality", "exists"), "values": 1}, ("values",)),
        (leaf("Modality", "like", "x"), ("op",)),
        (leaf("Modality", "equals"), ("value",)),
        (leaf("Modality", "equals", True), ("value",)),
        (leaf("Modality", "equals", ["CT"]), ("value",)),
        (leaf("Modality", "in", "CT"), ("value",)),
        (leaf("Modality", "in", ["CT", {}]), ("value", 1)),
        (leaf("Modality", "exists", "x"), ("value",)),
        (leaf("Modality", "regex", "("), ("value",)),
        (leaf("Modality", "regex", r"(?=x)"), ("value",)),
        (leaf("Modality", "lt", 3), ("value",)),
        (leaf("calling_ae", "lt", 3), ("value",)),
        (leaf("Rows", "equals", "many"), ("value",)),
        (leaf("StudyDate", "lt", "2024-02-30"), ("value",)),
        (leaf("Modality.PatientID", "exists"), ("field",)),
        (leaf("PixelData", "exists"), ("field",)),
        (leaf("(0009,xx01)", "exists"), ("field",)),
        (leaf('(0008,xx01, "A")', "exists"), ("field",)),
    ],
)
def test_errors_carry_the_path(tree: object, path: tuple[str | int, ...]) -> None:
    with pytest.raises(RuleError) as caught:
        parse_condition(tree)
    assert caught.value.path == path
    assert caught.value.expected


def test_explains_in_words() -> None:
    outcome = ask(
        {"all": [leaf("origin", "equals", "dimse"), leaf("Modality", "in", ["MR", "PT"])]}
    )
    assert outcome.sentence() == ("not matched, because Modality is CT and the rule wants MR or PT")
    assert ask(None).sentence() == "matched, because the rule takes every instance"
    assert ask(leaf("PatientSex", "exists")).sentence() == (
        "not matched, because PatientSex is absent and the rule wants a value"
    )
    assert describe(parse_condition({"not": leaf("Modality", "in", ["CT", "MR"])})) == (
        "not (Modality is one of CT or MR)"
    )


def test_long_and_many_values_are_shortened() -> None:
    outcome = ask(leaf("PatientComments", "contains", "y"))
    assert outcome.reason is not None
    assert outcome.reason.seen == ("x" * 200,)


def test_walks_by_priority_and_stops() -> None:
    ct, mr = leaf("Modality", "equals", "CT"), leaf("Modality", "equals", "MR")
    specs = [
        RuleSpec("late", priority=9, when=ct),
        RuleSpec("b", priority=1, when=ct, stop=True),
        RuleSpec("shadow", priority=0, state="shadow", when=ct, stop=True),
        RuleSpec("draft", priority=0, state="draft", when=ct),
        RuleSpec("a", priority=1, when=mr, stop=True),
        RuleSpec("off", priority=0, when=ct, enabled=False),
    ]
    found = match(compile_rules(specs), FACTS)
    assert [(one.rule, one.result, one.stopped_by) for one in found.outcomes] == [
        ("draft", "draft", ""),
        ("off", "disabled", ""),
        ("shadow", "matched", ""),
        ("a", "not matched", ""),
        ("b", "matched", ""),
        ("late", "not tried", "b"),
    ]
    assert [spec.name for spec in found.chosen] == ["b"]
    assert found.outcomes[2].shadow


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(RuleError):
        compile_rules([RuleSpec("a"), RuleSpec("a")])


# An oracle written apart: fields are facts, so that a leaf's truth is a plain comparison.

NAMES = ("calling_ae", "called_ae", "source", "remote_host")
LEAVES = st.builds(
    lambda name, value: leaf(name, "equals", value), st.sampled_from(NAMES), st.sampled_from("xyz")
)
TREES = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.builds(lambda nodes: {"all": nodes}, st.lists(below, min_size=1, max_size=3)),
        st.builds(lambda nodes: {"any": nodes}, st.lists(below, min_size=1, max_size=3)),
        st.builds(lambda node: {"not": node}, below),
    ),
    max_leaves=8,
)
WORLDS = st.fixed_dictionaries({name: st.sampled_from("xyz") for name in NAMES})


def oracle(tree: dict[str, object], world: dict[str, str]) -> bool:
    if "field" in tree:
        return world[str(tree["field"])] == tree["value"]
    if "not" in tree:
        return not oracle(tree["not"], world)  # type: ignore[arg-type]
    results = [oracle(node, world) for node in tree.get("all") or tree.get("any")]  # type: ignore[attr-defined]
    return all(results) if "all" in tree else any(results)


def decide(tree: Mapping[str, object], world: dict[str, str]) -> Outcome:
    return ask(tree, Facts(SAMPLE, **world))


@given(TREES, WORLDS)
def test_agrees_with_the_oracle(tree: dict[str, object], world: dict[str, str]) -> None:
    assert (decide(tree, world).result == "matched") is oracle(tree, world)


@given(TREES, WORLDS, WORLDS)
def test_named_conditions_carry_the_decision(
    tree: dict[str, object], world: dict[str, str], other: dict[str, str]
) -> None:
    """Whatever else changes: while the named fields stay as they are, so does the decision (D1)."""
    outcome = decide(tree, world)
    named = {reason.field for reason in outcome.reasons}
    changed = {name: world[name] if name in named else other[name] for name in NAMES}
    assert decide(tree, changed).result == outcome.result


@given(st.lists(st.sampled_from("xyz"), min_size=4, max_size=4), WORLDS)
def test_flipping_the_named_condition_flips_a_rule_that_lacks_only_it(
    wanted: list[str], world: dict[str, str]
) -> None:
    """D1: with one field wrong the outcome names it, and putting it right flips the rule."""
    tree = {"all": [leaf(name, "equals", value) for name, value in zip(NAMES, wanted, strict=True)]}
    right = dict(zip(NAMES, wanted, strict=True))
    for name in NAMES:
        broken = {**right, name: "other"}
        outcome = decide(tree, broken)
        assert outcome.result == "not matched"
        assert [reason.field for reason in outcome.reasons] == [name]
        assert decide(tree, {**broken, name: right[name]}).result == "matched"
