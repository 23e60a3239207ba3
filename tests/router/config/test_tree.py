"""The small YAML: what is text, what is refused, and on which line."""

import pytest

from router.config import tree
from router.config.findings import ConfigError


def findings(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        tree.parse(text)
    return [str(finding) for finding in caught.value.findings]


TEXT = ["on", "off", "yes", "no", "Y", "2024-01-01", "12:30:00", "0104", "1e3", "1.50", "+5"]
TEXT += ["1_000", ".inf", "nan", "0x1F", "-0", "<<", "=", "9" * 5000]
MEANING: list[tuple[str, object]] = [("true", True), ("FALSE", False)]
MEANING += [("null", None), ("~", None), ("", None)]
MEANING += [("0", 0), ("-12", -12), ("1.5", 1.5), ("-0.25", -0.25)]


@pytest.mark.parametrize("word", TEXT)
def test_what_other_yaml_converts_stays_text(word: str) -> None:
    assert tree.parse(f"a: {word}").data() == {"a": word}


@pytest.mark.parametrize(("word", "value"), MEANING)
def test_plain_words_mean(word: str, value: object) -> None:
    found = tree.parse(f"a: {word}").data()
    assert isinstance(found, dict)
    assert found["a"] == value
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize("word", ["true", "1", "null", "1.5", "~"])
def test_quoted_is_text(word: str) -> None:
    assert tree.parse(f'a: "{word}"').data() == {"a": word}


def test_the_key_on_is_a_key() -> None:
    assert tree.parse("on: study\nyes: 1").data() == {"on": "study", "yes": 1}


def test_every_node_knows_its_line_and_path() -> None:
    root = tree.parse("a:\n  - b: 1\n    c:\n      - x\n")
    assert isinstance(root.value, dict)
    first = root.value["a"].value
    assert isinstance(first, tuple)
    assert isinstance(first[0].value, dict)
    leaf = first[0].value["c"].value
    assert isinstance(leaf, tuple)
    assert (leaf[0].line, leaf[0].path) == (4, "a[0].c[0]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' is given twice, first on line 1"),
        ("a: &x 1", "line 1: a: the anchor '&x' is refused"),
        ("a: !!python/name:os.system x", "tag:yaml.org,2002:python/name:os.system' is refused"),
        ("a: !x 1", "line 1: a: the tag '!x' is refused"),
        ("---\na: 1\n---\nb: 1", "line 3: a second document; one is expected"),
        ("a: 1\nb: [1\nc: 2", "line 3: this is not YAML"),
        ("a: 1\n\tb: 2", "line 2: this is not YAML"),
        ("? [a]\n: 1", "line 1: a key must be plain text"),
        ('a: "x\\0y"', "line 1: a: the control character U+0000 cannot be kept"),
        ("a: " + "[" * 80 + "]" * 80, "nested deeper than 60 levels"),
        ("a: x\x07", "this is not YAML"),
    ],
)
def test_refuses(text: str, expected: str) -> None:
    assert any(expected in finding for finding in findings(text))


def test_refuses_an_alias_bomb_without_growing_it() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(50))
    found = findings(bomb)
    assert found[0] == "line 1: a: the anchor '&a' is refused"
    assert "line 2: b0[0]: the alias '*a' is refused; write the value out" in found


def test_refuses_too_many_bytes() -> None:
    assert "at most" in findings(b"#" * (tree.MAX_BYTES + 1))[0]


def test_refuses_bytes_that_are_not_utf_8_with_their_line() -> None:
    assert findings(b"a: 1\nb: \xff") == ["line 2: the text is not UTF-8"]


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert tree.parse(b"\xef\xbb\xbfa: 1").data() == {"a": 1}


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_no_text_is_an_empty_mapping(text: str) -> None:
    assert tree.parse(text).data() == {}


def test_plain_data_has_paths_and_no_lines() -> None:
    node = tree.from_data({"a": [True, None]}).value
    assert isinstance(node, dict)
    below = node["a"].value
    assert isinstance(below, tuple)
    assert [(one.line, one.path, one.text) for one in below] == [
        (0, "a[0]", "true"),
        (0, "a[1]", ""),
    ]
