"""Folder layouts: a template with placeholders, rendered into a safe relative path.

It never touches a disk and gives no two objects different names on its own.
"""

import re
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import DicomDictionary

from router.dicom.errors import RuleError
from router.dicom.header import TAGS, Header

RECEIVED_DATE: Final = "ReceivedDate"
SOURCE: Final = "Source"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_MAX_VALUE = 64
_MAX_TEMPLATE = 1024
_BULK = ("SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN")
_EXPECTED = "a relative path such as {StudyDate}/{StudyInstanceUID}/{SOPInstanceUID}.dcm"


@dataclass(frozen=True)
class Layout:
    """A parsed template: literal text and placeholders in turn, beginning with a literal."""

    text: str
    pieces: tuple[str, ...]


def parse_layout(text: str) -> Layout:
    """Check and parse a template; RuleError says what is wrong with it."""
    if not text or len(text) > _MAX_TEMPLATE:
        raise RuleError((), "the layout is empty or too long", _EXPECTED)
    pieces = _PLACEHOLDER.split(text)
    for name in pieces[1::2]:
        _check_placeholder(name)
    literal = "x".join(pieces[::2])
    if "{" in literal or "}" in literal:
        raise RuleError((), "a brace without its partner", _EXPECTED)
    _check_path(literal)
    cleaned = [
        piece if index % 2 else "/".join(_UNSAFE.sub("_", part) for part in piece.split("/"))
        for index, piece in enumerate(pieces)
    ]
    return Layout(text, tuple(cleaned))


def _check_placeholder(name: str) -> None:
    if name in {RECEIVED_DATE, SOURCE}:
        return
    tag = TAGS.get(name)
    if tag is None:
        expected = "a DICOM keyword, ReceivedDate or Source"
        raise RuleError((), f"unknown placeholder {{{name}}}", expected)
    if DicomDictionary[tag][0].startswith(_BULK):
        raise RuleError((), f"{{{name}}} holds no text", "a keyword of an element with text")


def _check_path(literal: str) -> None:
    """`literal` is the template with each placeholder replaced by one harmless letter."""
    if "\\" in literal or any(ord(sign) < 32 or ord(sign) == 127 for sign in literal):
        raise RuleError((), "a backslash or control character", _EXPECTED)
    if literal.startswith("/") or literal.endswith("/"):
        raise RuleError((), "the layout begins or ends with /", _EXPECTED)
    for part in literal.split("/"):
        if not part.strip(".") or part.startswith("."):
            raise RuleError((), f"the folder or file name {part!r}", "names without a leading dot")


def clean(value: str) -> str:
    """One value in a name: [A-Za-z0-9._-] only, no leading dots, 64 at most, never empty."""
    return _UNSAFE.sub("_", value).lstrip(".")[:_MAX_VALUE] or "UNKNOWN"


def render(layout: Layout, header: Header, *, received_date: str, source: str) -> str:
    """The relative path for one object; `received_date` is YYYYMMDD."""
    extra = {RECEIVED_DATE: received_date, SOURCE: source}
    return "".join(
        clean(extra[piece] if piece in extra else header.text(piece)) if index % 2 else piece
        for index, piece in enumerate(layout.pieces)
    )
