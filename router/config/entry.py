"""Read one mapping of the file key by key; what is wrong is noted with its line, and on it goes.

It knows kinds of value (text, a choice, a duration, a list of texts), not what they are for.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from router.config.findings import Finding, one_of
from router.config.tree import Node
from router.destinations.fields import seconds

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
MAX_SECONDS = 100 * 86_400  # in seconds it still has the seven digits of a duration

Check = Callable[[str], str]
"""Return the canonical text, or raise ValueError with a sentence."""


@dataclass(slots=True)
class Problems:
    """The findings so far."""

    found: list[Finding] = field(default_factory=list)

    def add(self, node: Node, message: str) -> None:
        """Note what is wrong with `node`."""
        self.found.append(Finding(node.line, node.path, message))


def name(text: str) -> str:
    """Return `text` when it is a name.

    Raises:
        ValueError: it is none.
    """
    if not NAME.match(text):
        raise ValueError(f"{text!r} is no name; 1 to 64 of A-Z a-z 0-9 _ - are expected")
    return text


class Entry:
    """A mapping with known keys. After a finding the value given back only keeps reading going."""

    def __init__(self, node: Node, problems: Problems, *, keys: Collection[str] | None) -> None:
        self.node = node
        self.problems = problems
        self.keys: dict[str, Node] = {}
        if isinstance(node.value, dict):
            self.keys = node.value
        elif not (node.value is None and node.line == 0):
            problems.add(node, "a mapping is expected")
        if keys is not None:
            self.refuse_others(keys)

    def refuse_others(self, known: Collection[str]) -> None:
        """Note every key that is not one of `known`."""
        for key, node in self.keys.items():
            if key not in known:
                self.problems.add(node, one_of(key, known))

    def has(self, key: str) -> bool:
        """Tell whether the key is given."""
        return key in self.keys

    def text(self, key: str, default: str | None = None, *, check: Check = str) -> str:
        """Return a text; without a default the key is needed."""
        node = self.keys.get(key)
        if node is not None:
            return text_of(node, self.problems, check=check)
        if default is None:
            if isinstance(self.node.value, dict):
                self.problems.add(self.node, f"the key '{key}' is missing")
            return ""
        return default

    def choice(self, key: str, choices: Collection[str], *, default: str) -> str:
        """Return one of `choices`."""

        def check(text: str) -> str:
            if text not in choices:
                raise ValueError(one_of(text, choices))
            return text

        return self.text(key, default, check=check)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        node = self.keys.get(key)
        if node is None:
            return default
        if isinstance(node.value, bool):
            return node.value
        self.problems.add(node, f"'{node.text}' is not true or false")
        return default

    def whole(self, key: str, *, default: int, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`."""
        node = self.keys.get(key)
        if node is None:
            return default
        value = node.value
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.problems.add(node, f"a whole number from {least} to {most} is expected")
        return default

    def duration(self, key: str) -> int | None:
        """Return a duration in seconds, None when it is not given."""
        node = self.keys.get(key)
        if node is None:
            return None
        text = text_of(node, self.problems, check=_duration)
        return int(text) if text else 0

    def texts(self, key: str, *, check: Check = str) -> tuple[str, ...] | None:
        """Return the texts of a list without repetition, None when the key is not given."""
        node = self.keys.get(key)
        if node is None:
            return None
        found: list[str] = []
        for one in self.nodes(key):
            text = text_of(one, self.problems, check=check)
            if text and text in found:
                self.problems.add(one, f"'{text}' is given twice")
            found.append(text)
        return tuple(found)

    def nodes(self, key: str, *, may_be_empty: bool = False) -> tuple[Node, ...]:
        """Return the items of a list; none when the key is not given."""
        node = self.keys.get(key)
        if node is None or (may_be_empty and node.value is None):
            return ()
        if isinstance(node.value, tuple):
            return node.value
        self.problems.add(node, "a list is expected")
        return ()


def text_of(node: Node, problems: Problems, *, check: Check = str) -> str:
    """Return the text of a scalar as it was written; '' after a finding."""
    if isinstance(node.value, dict | tuple) or node.value is None:
        problems.add(node, "text is expected")
        return ""
    try:
        return check(node.text)
    except ValueError as error:
        problems.add(node, str(error))
        return ""


def refuse_unknown(listed: Node | None, known: set[str], *, what: str, problems: Problems) -> None:
    """Note each name of a list that is none of those `known`."""
    nodes = listed.value if listed is not None and isinstance(listed.value, tuple) else ()
    for node in nodes:
        if node.text and node.text not in known:
            names = ", ".join(sorted(known)) or f"(no {what} is defined)"
            problems.add(node, f"the {what} '{node.text}' is unknown; expected one of: {names}")


def _duration(text: str) -> str:
    value = seconds(text)
    if value > MAX_SECONDS:
        raise ValueError(f"'{text}' is too long; at most 100d are expected")
    return str(value)
