"""What is remembered from instance to instance never changes what is answered, and stays small."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from router.dicom.fields import Facts
from router.dicom.header import Field, Header
from router.dicom.recent import Recent
from router.dicom.rules import Match, RuleSet, RuleSpec, compile_rules, match
from router.dicom.seen import Seen, Slot
from tests.router.dicom.test_rules import TREES, WORLDS, leaf

EMPTY = Header({})


def ask(rules: RuleSet, world: Mapping[str, str]) -> Match:
    return match(rules, Facts(EMPTY, **world))


@given(st.lists(TREES, max_size=4), st.lists(WORLDS, min_size=1, max_size=12), st.data())
def test_memory_changes_no_answer(
    trees: list[dict[str, object]], worlds: list[dict[str, str]], data: st.DataObject
) -> None:
    stops = st.booleans()
    specs = [
        RuleSpec(f"r{number}", when=tree, stop=data.draw(stops))
        for number, tree in enumerate(trees)
    ]
    rules = compile_rules(specs)
    for world in worlds + worlds:
        assert ask(rules, world) == ask(compile_rules(specs), world)


def test_instances_that_read_alike_share_a_match() -> None:
    rules = compile_rules([RuleSpec("r", when=leaf("source", "equals", "x"))])
    first = ask(rules, {"source": "x", "called_ae": "A"})
    assert ask(rules, {"source": "x", "called_ae": "B"}) is first
    assert ask(rules, {"source": "y"}) is not first


def test_what_is_long_is_not_remembered() -> None:
    rules = compile_rules([RuleSpec("r", when=leaf("source", "contains", "x"))])
    long = {"source": "x" * 1000}
    first, second = ask(rules, long), ask(rules, long)
    assert first == second
    assert first is not second


def test_a_rule_that_reads_nothing_is_remembered_nowhere() -> None:
    rules = compile_rules([RuleSpec("r")])
    assert ask(rules, {}) == ask(rules, {})
    assert len(ask(rules, {}).chosen) == 1


def test_it_forgets_when_it_is_full() -> None:
    seen = [Seen(Field((str(number),), "", ""), 0) for number in range(4)]
    for one in seen:
        one.lasts = True
    recent = Recent[str](2)
    for one, found in zip(seen, "abc", strict=False):
        recent.keep([(0, one)], found)
    assert [recent.find(lambda slot, one=one: one) for one in seen] == [None, None, "c", None]  # type: ignore[misc]


def test_a_slot_hands_out_one_sight_for_what_reads_alike_until_it_is_full() -> None:
    slot = Slot(lambda facts: Field((facts.source,), "", ""), 1, most=2)
    a, b = slot.look(Facts(EMPTY, source="a")), slot.look(Facts(EMPTY, source="b"))
    assert slot.look(Facts(EMPTY, source="a")) is a
    assert b is not a
    slot.look(Facts(EMPTY, source="c"))
    again = slot.look(Facts(EMPTY, source="a"))
    assert again is not a
    assert again.lasts
