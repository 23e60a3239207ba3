"""Groups in the file: each key, and every way in which one is refused, with its line."""

import pytest

from router.config import dump, plan, schema
from router.config.document import Group
from router.config.findings import ConfigError

HEAD = """\
version: 1
destinations:
  - {name: a, kind: folder, path: /srv/a}
  - {name: b, kind: folder, path: /srv/b}
  - {name: off, kind: folder, path: /srv/off, enabled: false}
"""


def _group(text: str) -> Group:
    return schema.load(f"{HEAD}groups:\n  - {text}\n").groups[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{name: p, kind: failover, members: [b, a]}",
            Group("p", "failover", ("b", "a"), patience=300),
        ),
        (
            "{name: p, kind: failover, members: [a], return: false, patience: 0s}",
            Group("p", "failover", ("a",), returns=False, patience=0),
        ),
        (
            "{name: p, kind: balance, members: [a, b]}",
            Group("p", "balance", ("a", "b"), by="round_robin"),
        ),
        (
            "{name: p, kind: balance, members: [a, off], by: least_open, enabled: false}",
            Group("p", "balance", ("a", "off"), enabled=False, by="least_open"),
        ),
        (
            "{name: p, kind: balance, members: [off], by: hash, enabled: false}",
            Group("p", "balance", ("off",), enabled=False, by="hash"),
        ),
    ],
)
def test_a_group_and_its_defaults(text: str, expected: Group) -> None:
    assert _group(text) == expected
    document = schema.load(f"{HEAD}groups:\n  - {text}\n")
    assert schema.load(dump.to_yaml(document)) == document


WRONG = [
    ("{name: p, kind: failover}", "groups[0]: the key 'members' is missing"),
    ("{name: p, kind: failover, members: []}", "groups[0].members: the list is empty"),
    ("{name: p, members: [a]}", "groups[0]: the key 'kind' is missing"),
    ("{name: p, kind: pool, members: [a]}", "groups[0].kind: 'pool' is unknown; expected one of: "),
    ("{name: p, kind: failover, members: [a, a]}", "groups[0].members[1]: 'a' is given twice"),
    (
        "{name: p, kind: failover, members: [a, x]}",
        "groups[0].members[1]: the destination 'x' is unknown; expected one of: a, b, off",
    ),
    (
        "{name: p, kind: failover, members: [a, p]}",
        "groups[0].members[1]: 'p' is a group; the members of a group are destinations",
    ),
    (
        "{name: a, kind: failover, members: [a]}",
        "groups[0]: the name 'a' is that of a destination already",
    ),
    (
        "{name: p, kind: failover, members: [off]}",
        "groups[0].members: all its members are disabled; enable one, or disable the group",
    ),
    (
        "{name: p, kind: failover, members: [a], by: hash}",
        "groups[0].by: 'by' is used with kind: balance only",
    ),
    (
        "{name: p, kind: balance, members: [a], return: true}",
        "groups[0].return: 'return' is used with kind: failover only",
    ),
    (
        "{name: p, kind: balance, members: [a], by: chance}",
        "groups[0].by: 'chance' is unknown; expected one of: round_robin, least_open, hash",
    ),
    ("{name: p, kind: failover, members: [a], return: maybe}", "'maybe' is not true or false"),
    ("{name: p, kind: failover, members: a}", "groups[0].members: a list is expected"),
    ("{name: p, kind: failover, members: [a], patience: soon}", "groups[0].patience: 'soon' is no"),
    ("{name: p, kind: failover, members: [a], to: b}", "groups[0].to: 'to' is unknown; expected"),
    ("[a, b]", "groups[0]: a mapping is expected"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_group_that_is_wrong_is_refused_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        _group(text)
    assert any("line 7: " in str(one) and sentence in str(one) for one in error.value.findings)


def test_rules_send_to_groups_and_unknown_names_say_what_there_is() -> None:
    text = f"{HEAD}groups: [{{name: p, kind: failover, members: [a]}}]\nrules:\n"
    good = schema.load(f"{text}  - {{name: r, send: [p, b]}}\n")
    assert good.rules[0].send == ("p", "b")
    with pytest.raises(ConfigError, match="'q' is unknown; expected one of: a, b, off, p"):
        schema.load(f"{text}  - {{name: r, send: [q]}}\n")


def test_two_groups_of_one_name_are_refused() -> None:
    twice = "  - {name: p, kind: failover, members: [a]}\n" * 2
    with pytest.raises(ConfigError, match="the name 'p' is given twice, first on line 7"):
        schema.load(f"{HEAD}groups:\n{twice}")


def test_the_plan_shows_the_order_of_members() -> None:
    one = schema.load(f"{HEAD}groups: [{{name: p, kind: failover, members: [a, b]}}]")
    other = schema.load(f"{HEAD}groups: [{{name: p, kind: failover, members: [b, a]}}]")
    assert plan.text(plan.compare(one, other)) == (
        '~ group p\n    members: ["a", "b"] → ["b", "a"]'
    )
