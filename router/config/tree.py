"""YAML text as a tree of nodes that know their line and path.

A strict, small YAML: one document of mappings with text keys, lists and scalars. Anchors, aliases,
tags and keys given twice are refused. Only `true`, `false`, `null`, and numbers that would be
printed with the same digits are more than text: `on`, `yes`, `2024-01-01`, `0104` and `1e3` stay
text. It knows nothing of what a configuration may hold.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from router.config.findings import ConfigError, Finding

MAX_BYTES = 5 << 20
MAX_DEPTH = 60

Scalar: TypeAlias = str | int | float | bool | None
Data: TypeAlias = "Scalar | list[Data] | dict[str, Data]"

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_DECIMAL = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}\Z")
_UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
# libyaml's parser where the wheel has it: the same events, faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file. `text` is a scalar as it was written; `line` 0 means no file."""

    value: "Scalar | tuple[Node, ...] | dict[str, Node]"
    line: int
    path: str
    text: str = ""

    def data(self) -> Data:
        """Return the value as plain data."""
        if isinstance(self.value, tuple):
            return [node.data() for node in self.value]
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        return self.value


def parse(text: str | bytes) -> Node:
    """Return the root of a YAML document.

    Raises:
        ConfigError: it is no YAML of the kind described above.
    """
    stream = yaml.parse(_decoded(text), Loader=_LOADER)
    builder = _Builder(stream)
    try:
        root = builder.document()
    except yaml.YAMLError as error:
        raise ConfigError([*builder.findings, _syntax(error)]) from error
    if builder.findings:
        raise ConfigError(builder.findings)
    return root


def from_data(data: Data, path: str = "") -> Node:
    """Return plain data, such as a revision's document, as a tree without lines."""
    if isinstance(data, list):
        return Node(tuple(from_data(v, f"{path}[{n}]") for n, v in enumerate(data)), 0, path)
    if isinstance(data, dict):
        return Node({key: from_data(v, _join(path, key)) for key, v in data.items()}, 0, path)
    return Node(data, 0, path, data if isinstance(data, str) else _spelled(data))


def _spelled(value: Scalar) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _decoded(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise ConfigError([Finding(1, "", f"{size} bytes; at most {MAX_BYTES} are expected")])
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigError([Finding(line, "", "the text is not UTF-8")]) from error


def _syntax(error: yaml.YAMLError) -> Finding:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    return Finding(mark.line + 1 if mark else 1, "", f"this is not YAML: {problem}")


class _Builder:
    """Builds the tree from the parser's events; what is wrong but readable is noted."""

    def __init__(self, stream: Iterator[yaml.Event]) -> None:
        self._stream = stream
        self.findings: list[Finding] = []

    def document(self) -> Node:
        next(self._stream)  # the stream's start
        if isinstance(next(self._stream), yaml.StreamEndEvent):
            return Node({}, 1, "")
        root = self._node(next(self._stream), path="", depth=0)
        next(self._stream)  # the document's end
        after = next(self._stream)
        if not isinstance(after, yaml.StreamEndEvent):
            self._note(after, "", "a second document; one is expected")
        return root

    def _node(self, event: yaml.Event, *, path: str, depth: int) -> Node:
        line = _line(event)
        if depth > MAX_DEPTH:
            self._note(event, path, f"nested deeper than {MAX_DEPTH} levels")
            raise ConfigError(self.findings)
        self._refuse_extras(event, path)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._mapping(path, depth), line, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._list(path, depth), line, path)
        if isinstance(event, yaml.ScalarEvent):
            self._check_characters(event, path)
            value = _resolved(event.value) if event.implicit[0] else event.value
            return Node(value, line, path, event.value)
        return Node(None, line, path)  # an alias, noted above

    def _list(self, path: str, depth: int) -> tuple[Node, ...]:
        nodes: list[Node] = []
        while not isinstance(event := next(self._stream), yaml.SequenceEndEvent):
            nodes.append(self._node(event, path=f"{path}[{len(nodes)}]", depth=depth + 1))
        return tuple(nodes)

    def _mapping(self, path: str, depth: int) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        while not isinstance(event := next(self._stream), yaml.MappingEndEvent):
            key = self._key(event, path)
            node = self._node(next(self._stream), path=_join(path, key), depth=depth + 1)
            if key in nodes:
                first = nodes[key].line
                self._note(event, path, f"the key '{key}' is given twice, first on line {first}")
            nodes.setdefault(key, node)
        return nodes

    def _key(self, event: yaml.Event, path: str) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._note(event, path, "a key must be plain text")
            raise ConfigError(self.findings)
        self._refuse_extras(event, path)
        self._check_characters(event, path)
        return str(event.value)

    def _refuse_extras(self, event: yaml.Event, path: str) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._note(event, path, f"the alias '*{event.anchor}' is refused; write the value out")
        elif anchor := getattr(event, "anchor", None):
            self._note(event, path, f"the anchor '&{anchor}' is refused")
        elif tag := getattr(event, "tag", None):
            self._note(event, path, f"the tag '{tag}' is refused")

    def _check_characters(self, event: yaml.ScalarEvent, path: str) -> None:
        found = _UNUSABLE.search(event.value)
        if found:
            code = f"U+{ord(found[0]):04X}"
            self._note(event, path, f"the control character {code} cannot be kept")

    def _note(self, event: yaml.Event, path: str, message: str) -> None:
        self.findings.append(Finding(_line(event), path, message))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _resolved(text: str) -> Scalar:
    """Return what a plain scalar means: a number only if it prints as it was written."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.match(text) and str(int(text)) == text:
        return int(text)
    if _DECIMAL.match(text) and str(float(text)) == text:
        return float(text)
    return text
