"""The answer to a STOW-RS request: which instances a server names, and what it says of each.

Reads the data set of PS3.18 10.5.3 (Annex I) in its DICOM JSON form (PS3.18 Annex F) and its XML
form (PS3.19 Annex A). It judges no reason, and takes no text out of the answer but UIDs: the rest
may name the patient.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.parsers import expat

from router.dicom.errors import DicomError

MOST_BYTES: Final = 16 << 20
MOST_DEPTH: Final = 32

FAILED, REFERENCED, OTHERS = "00081198", "00081199", "0008119A"
INSTANCE, WARNING_REASON, FAILURE_REASON = "00081155", "00081196", "00081197"
_SEQUENCES: Final = frozenset({FAILED, REFERENCED, OTHERS})

Item = Mapping[str, object]


class UnreadableAnswer(DicomError):
    """An answer that is no such data set."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of one instance. Failed: `reason` is the Failure Reason, if one is given.
    Stored: it is the Warning Reason, None when there is nothing to warn of."""

    stored: bool
    reason: int | None


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What is said by SOP Instance UID; `others` are the Failure Reasons of parts whose instance
    could not be told (Other Failures Sequence)."""

    instances: Mapping[str, Said]
    others: tuple[int | None, ...]


def read(body: bytes, content_type: str) -> StoreAnswer:
    """Read the answer; the first byte tells the form where the content type does not.

    Raises:
        UnreadableAnswer: it is too long, or no such data set.
    """
    if len(body) > MOST_BYTES:
        raise UnreadableAnswer("the answer is too long")
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        raise UnreadableAnswer("the answer is empty")
    is_xml = "xml" in content_type.lower() or text.startswith(b"<")
    if text.startswith((b"{", b"[")):
        is_xml = False
    return _sorted_out(list(_from_xml(text) if is_xml else _from_json(text)))


def _sorted_out(found: Sequence[tuple[str, Item]]) -> StoreAnswer:
    """An instance named as stored and as failed counts as failed."""
    instances: dict[str, Said] = {}
    for tag, item in found:
        uid = _uid(item)
        if tag == REFERENCED and uid:
            instances.setdefault(uid, Said(stored=True, reason=_number(item, WARNING_REASON)))
    for tag, item in found:
        uid = _uid(item)
        if tag == FAILED and uid:
            instances[uid] = Said(stored=False, reason=_number(item, FAILURE_REASON))
    unnamed = [item for tag, item in found if tag == OTHERS or (tag == FAILED and not _uid(item))]
    return StoreAnswer(instances, tuple(_number(item, FAILURE_REASON) for item in unnamed))


def _uid(item: Item) -> str:
    value = item.get(INSTANCE)
    return value.strip(" \0") if isinstance(value, str) else ""


def _number(item: Item, tag: str) -> int | None:
    value = item.get(tag)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value.strip())
    is_status = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF
    return value if is_status else None  # type: ignore[return-value]  # is_status says it is int


# --- JSON ----------------------------------------------------------------------------------------
def _from_json(text: bytes) -> Iterator[tuple[str, Item]]:
    """Yield (sequence, item) pairs. Some servers answer a list of one data set."""
    try:
        given: Any = json.loads(text)  # Any: whatever a stranger wrote
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswer("the answer is no JSON") from error
    data_sets = given if isinstance(given, list) else [given]
    if not all(isinstance(one, dict) for one in data_sets):
        raise UnreadableAnswer("the answer is no DICOM JSON data set")
    for data_set in data_sets:
        for key, element in data_set.items():
            if key.upper() in _SEQUENCES:
                yield from ((key.upper(), item) for item in _items(element))


def _items(element: object) -> Iterator[Item]:
    for item in _values(element):
        if isinstance(item, dict):
            yield {key.upper(): _first(value) for key, value in item.items()}


def _values(element: object) -> Sequence[object]:
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else ()


def _first(element: object) -> object:
    return next(iter(_values(element)), None)


# --- XML -----------------------------------------------------------------------------------------
def _from_xml(text: bytes) -> Iterator[tuple[str, Item]]:
    reader = _XmlReader()
    try:
        reader.parser.Parse(text, True)  # noqa: FBT003 - expat takes no keywords
    except expat.ExpatError as error:
        raise UnreadableAnswer("the answer is no XML") from error
    if not reader.is_model:
        raise UnreadableAnswer("the answer is no NativeDicomModel")
    yield from reader.found


class _XmlReader:
    """The Native DICOM Model: `DicomAttribute` in `Item` in `DicomAttribute` in the root."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Item]] = []
        self.is_model = False
        self._path: list[str] = []
        self._item: dict[str, object] = {}
        self._text: list[str] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append
        self.parser.StartDoctypeDeclHandler = _refuse  # and with it every entity of its own

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if not self._path:
            self.is_model = local == "NativeDicomModel"
        self._path.append(attributes.get("tag", "").upper() or local)
        if len(self._path) > MOST_DEPTH:
            raise UnreadableAnswer("the answer is nested too deep")
        if self._is_item():
            self._item = {}
        self._text.clear()

    def _end(self, _name: str) -> None:
        if self._is_item():
            self.found.append((self._path[1], self._item))
        elif len(self._path) == 5 and self._path[1] in _SEQUENCES and self._path[4] == "Value":
            self._item.setdefault(self._path[3], "".join(self._text))
        self._path.pop()

    def _is_item(self) -> bool:
        path = self._path
        return len(path) == 3 and path[1] in _SEQUENCES and path[2] == "Item"


def _refuse(*_: object) -> None:
    raise UnreadableAnswer("the answer has a document type of its own")
