"""The JSON of a webhook: a template checked when it is saved, filled in for each event.

A template is a JSON object. In its texts `{name}` stands for a value: an attribute of the first
object by its DICOM keyword, or one of `FACTS`. A text that is one placeholder alone takes the value
as it is, a number or a list; `{{` and `}}` stand for braces. No patient is named unless the
template does.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from router.dicom.elements import TAGS
from router.dicom.errors import RuleError

MOST_BYTES: Final = 16_384
MOST_DEPTH: Final = 8

FACTS: Final[Mapping[str, str]] = {
    "event": "study.sent or series.sent",
    "event_id": "the same at each try of one event",
    "source": "the name of the source",
    "received_at": "when the first object came, ISO 8601 in UTC",
    "instances": "how many objects the event is of",
    "bytes": "their data sets together",
    "modalities": "a list",
    "series": "a list of {series_instance_uid, modality, instances}",
    "study_url": "the page of the study here",
    "viewer_url": "the viewer, opened with the study",
    "dicomweb_url": "the study by DICOMweb",
}
DEFAULT: Final[Mapping[str, object]] = {
    "type": "{event}",
    "id": "{event_id}",
    "study_instance_uid": "{StudyInstanceUID}",
    "accession_number": "{AccessionNumber}",
    "study_date": "{StudyDate}",
    "source": "{source}",
    "received_at": "{received_at}",
    "instances": "{instances}",
    "bytes": "{bytes}",
    "modalities": "{modalities}",
    "series": "{series}",
    "links": {
        "study": "{study_url}",
        "viewer": "{viewer_url}",
        "dicomweb": "{dicomweb_url}",
    },
}
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

Template = Mapping[str, object]


def parse(value: object) -> Template:
    """Return a template given as a mapping, or as the JSON of one.

    Raises:
        RuleError: it is none; the sentence says where and what is expected.
    """
    given = _decoded(value) if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not given:
        raise RuleError((), "this is no JSON object", "one with at least one key")
    if len(json.dumps(given)) > MOST_BYTES:
        raise RuleError((), f"it is longer than {MOST_BYTES} characters")
    _check(given, ())
    return given


def names(template: object) -> set[str]:
    """Return the names of the placeholders in a template that was parsed."""
    if isinstance(template, Mapping):
        return set().union(*(names(one) for one in template.values()))
    if isinstance(template, list):
        return set().union(*(names(one) for one in template))
    found = _PIECE.finditer(template) if isinstance(template, str) else ()
    return {piece[1] for piece in found if piece[1] is not None}


def render(template: object, values: Mapping[str, object]) -> object:
    """Return `template` with its placeholders filled; a value that is not there is null, or
    nothing inside a text."""
    if isinstance(template, Mapping):
        return {key: render(one, values) for key, one in template.items()}
    if isinstance(template, list):
        return [render(one, values) for one in template]
    if not isinstance(template, str):
        return template
    alone = _PIECE.fullmatch(template)
    if alone is not None and alone[1] is not None:
        return values.get(alone[1])

    def filled(piece: re.Match[str]) -> str:
        if piece[1] is None:
            return piece[0][0]
        value = values.get(piece[1])
        is_plain = isinstance(value, str | int) and not isinstance(value, bool)
        return str(value) if is_plain else "" if value is None else json.dumps(value)

    return _PIECE.sub(filled, template)


def _decoded(text: str) -> object:
    try:
        given: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RuleError((), "this is no JSON", 'something like {"id": "{event_id}"}') from error
    return given


def _check(node: object, path: tuple[str | int, ...]) -> None:
    if len(path) > MOST_DEPTH:
        raise RuleError(path, f"nested deeper than {MOST_DEPTH} levels")
    if isinstance(node, Mapping):
        for key, one in node.items():
            if not isinstance(key, str):
                raise RuleError(path, f"the key {key!r} is no text")
            _check(one, (*path, key))
    elif isinstance(node, list):
        for at, one in enumerate(node):
            _check(one, (*path, at))
    elif isinstance(node, str):
        _check_text(node, path)


def _check_text(text: str, path: tuple[str | int, ...]) -> None:
    for piece in _PIECE.finditer(text):
        if piece[0] in "{}":
            raise RuleError(path, f"a single {piece[0]!r}", "a placeholder, or the brace twice")
        name = piece[1]
        if name is not None and name not in FACTS and name not in TAGS:
            expected = f"a DICOM keyword or one of {', '.join(FACTS)}"
            raise RuleError(path, f"'{{{name}}}' is no placeholder", expected)
