"""What a rule can look at: elements, paths into sequences, private elements and association facts.

It parses the written form and fetches values; it judges nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import DicomDictionary

from router.dicom.errors import RuleError
from router.dicom.header import ABSENT, EMPTY, TAGS, Field, Header, Key

FACTS: Final = ("calling_ae", "called_ae", "source", "remote_host", "origin")
NO_SEQUENCE: Final = "no such sequence"

_STEP = re.compile(
    r'\(\s*([0-9A-Fa-f]{4})\s*,\s*(xx|[0-9A-Fa-f]{2})([0-9A-Fa-f]{2})\s*(?:,\s*"([^"]+)"\s*)?\)'
    r"|([A-Za-z][A-Za-z0-9_]*)"
)
_EXPECTED = (
    'a DICOM keyword, (gggg,eeee), (gggg,xxee, "CREATOR"), Sequence.Keyword, or one of '
    + ", ".join(FACTS)
)


@dataclass(frozen=True)
class Facts:
    """What a rule is asked about: an instance's header and how it came."""

    header: Header
    calling_ae: str = ""
    called_ae: str = ""
    source: str = ""
    remote_host: str = ""
    origin: str = ""


@dataclass(frozen=True)
class FieldPath:
    """A parsed field: `fact` is the name of an association fact, or '' and `steps` lead to it."""

    text: str
    fact: str
    steps: tuple[Key, ...]

    @property
    def vr(self) -> str:
        """The dictionary's VR of the last step, '' when it is not known before the data is."""
        if not self.steps or not isinstance(self.steps[-1], int):
            return ""
        return _vr(self.steps[-1])


def parse_field(text: str, path: tuple[str | int, ...] = ()) -> FieldPath:
    """Parse the written form of a field; RuleError says what was expected."""
    if text in FACTS:
        return FieldPath(text, text, ())
    steps: list[Key] = []
    position = 0
    while True:
        found = _STEP.match(text, position)
        if found is None:
            raise RuleError(path, f"unknown field {text!r}", _EXPECTED)
        steps.append(_step(found, path))
        position = found.end()
        if position == len(text):
            break
        if text[position] != ".":
            raise RuleError(path, f"unknown field {text!r}", _EXPECTED)
        position += 1
    _check_steps(steps, text, path)
    return FieldPath(text, "", tuple(steps))


def _step(found: re.Match[str], path: tuple[str | int, ...]) -> Key:
    group, block, element, creator, keyword = found.groups()
    if keyword:
        if keyword not in TAGS:
            raise RuleError(path, f"unknown keyword {keyword!r}", _EXPECTED)
        return TAGS[keyword]
    number = int(group, 16)
    if (block == "xx") != (creator is not None) or (creator and not number % 2):
        raise RuleError(path, f"unknown field {found[0]!r}", _EXPECTED)
    if creator:
        return number, int(element, 16), creator.rstrip()
    return number << 16 | int(block + element, 16)


def _check_steps(steps: list[Key], text: str, path: tuple[str | int, ...]) -> None:
    for step in steps[:-1]:
        if isinstance(step, int) and step in DicomDictionary and _vr(step) != "SQ":
            raise RuleError(path, f"{text!r} goes into an element that is no sequence", _EXPECTED)
    if isinstance(steps[0], int) and steps[0] >= 0x7FE00000:
        raise RuleError(path, f"{text!r} is pixel data or comes after it", "a header element")


def _vr(tag: int) -> str:
    entry = DicomDictionary.get(tag)
    return str(entry[0]) if entry else ""


Fetcher = Callable[[Facts], Field]


def fetcher(field: FieldPath) -> Fetcher:
    """A function that fetches the field's values, empty ones left out."""
    if field.fact:
        name = field.fact
        return lambda facts: _of_fact(str(getattr(facts, name)))
    steps = field.steps
    if len(steps) == 1 and isinstance(steps[0], int):
        tag = steps[0]
        return lambda facts: _filled(facts.header.field(tag), facts.header, tag)
    return lambda facts: _gather(facts.header, steps)


def _of_fact(value: str) -> Field:
    value = value.rstrip(" \x00")
    return Field((value,), "", "") if value else Field((), "", EMPTY)


def _filled(field: Field, header: Header, key: Key) -> Field:
    if field.vr == "SQ":
        return field if header.sequence(key) else Field((), "SQ", field.problem or EMPTY)
    if "" not in field.values:
        return field
    values = tuple(value for value in field.values if value)
    return Field(values, field.vr, field.problem if values else field.problem or EMPTY)


def _gather(header: Header, steps: tuple[Key, ...]) -> Field:
    """All values that any item at any level holds; sound ones win over those with a problem."""
    level = [header]
    for step in steps[:-1]:
        level = [item for outer in level for item in outer.sequence(step)]
    if not level:
        return Field((), "", NO_SEQUENCE)
    fields = [_filled(one.field(steps[-1]), one, steps[-1]) for one in level]
    sound = [field for field in fields if not field.problem]
    if not sound:
        return next((field for field in fields if field.problem != ABSENT), fields[0])
    return Field(tuple(value for field in sound for value in field.values), sound[0].vr, "")
