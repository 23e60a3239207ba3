"""The plan: what comes, goes and changes, and how it is printed."""

from dataclasses import replace

from hypothesis import given, settings

from router.config import plan
from router.config.document import Defaults, Destination, Document, Rule, Source
from tests.router.config.documents import documents

CT = Source("ct", "CT1")
DISK = Destination("disk", "folder", settings={"path": "/srv/out"})


def test_the_same_is_no_change() -> None:
    assert plan.compare(Document(sources=(CT,)), Document(sources=(CT,))) == ()
    assert plan.text(()) == "no change"


@settings(max_examples=30)
@given(documents(), documents())
def test_a_plan_is_empty_only_for_the_same(one: Document, other: Document) -> None:
    assert plan.compare(one, one) == ()
    assert bool(plan.compare(one, other)) == (one != other)


def test_prints_what_comes_goes_and_changes() -> None:
    before = Document(sources=(CT,), destinations=(DISK,))
    after = Document(
        defaults=Defaults(quiet=90),
        destinations=(replace(DISK, settings={"path": "/srv/in"}),),
        rules=(Rule("all", ("disk",), state="live"),),
    )
    assert plan.text(plan.compare(before, after)).splitlines() == [
        "~ defaults",
        '    quiet: "1m" → "90s"',
        "- source ct",
        "~ destination disk",
        '    path: "/srv/out" → "/srv/in"',
        "+ rule all",
        '    state: "live"',
        '    send: ["disk"]',
    ]


def test_a_number_that_becomes_text_is_a_change() -> None:
    before = Rule("r", (), when={"field": "PatientID", "op": "equals", "value": 1})
    after = replace(before, when={"field": "PatientID", "op": "equals", "value": "1"})
    assert plan.compare(Document(rules=(before,)), Document(rules=(after,)))


def test_text_cannot_move_the_cursor() -> None:
    rule = Rule("r", (), when={"field": "PatientID", "op": "equals", "value": "\x1b[2J\u202e\x9b"})
    text = plan.text(plan.compare(Document(), Document(rules=(rule,))))
    assert "\\u001b[2J\\u202e\\u009b" in text


def test_changes_are_json() -> None:
    (change,) = plan.compare(
        Document(sources=(CT,)), Document(sources=(replace(CT, enabled=False),))
    )
    assert change.as_dict() == {
        "action": "~",
        "kind": "source",
        "name": "ct",
        "fields": {"enabled": [True, False]},
    }
