"""Bytes of text elements to str under any Specific Character Set (PS3.5 6.1, PS3.3 C.12.1.1.2).

It never raises for what a sender wrote: what cannot be decoded comes out with replacement
characters and the flag that says so.
"""

import codecs
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, STAND_ALONE_ENCODINGS, python_encoding

DEFAULT: Final = ("iso8859",)
_ESCAPE = b"\x1b"
_FRAGMENTS = re.compile(b"(^[^\x1b]+|\x1b[^\x1b]*)")
_DELIMITERS = re.compile(rb"[\t\n\f\r\\]")
_NAME_DELIMITERS = re.compile(rb"[\t\n\f\r\\^=]")
_STATEFUL = frozenset({"iso2022_jp", "iso2022_jp_2"})  # their codecs want the escape sequence


@lru_cache(maxsize=256)
def encodings(character_set: bytes) -> tuple[tuple[str, ...], bool]:
    """Python codecs for the value of (0008,0005), and whether every term of it was understood.

    Term by term; an unknown one counts as the default repertoire. Misspellings seen in the field
    (`ISO-IR 100`, `ISO 2022-IR-87`) are understood. A stand-alone set ends the list.
    """
    terms = [term.strip(b" \x00").decode("ascii", "replace") for term in character_set.split(b"\\")]
    found, known = [], True
    for term in terms:
        codec = python_encoding.get(term) or python_encoding.get(_respell(term))
        known = known and codec is not None
        found.append(codec or DEFAULT[0])
    if terms[0] in STAND_ALONE_ENCODINGS:
        return (found[0],), known
    alone = {python_encoding[term] for term in STAND_ALONE_ENCODINGS}
    return (found[0], *(codec for codec in found[1:] if codec not in alone)), known


def _respell(term: str) -> str:
    words = re.sub(r"[^A-Z0-9]+", " ", term.upper()).strip()
    if words.startswith("ISO IR "):
        return f"ISO_IR {words[7:]}"
    return words


def decode(value: bytes, charset: Sequence[str], *, person_name: bool = False) -> tuple[str, bool]:
    """The text of `value` and whether all of it could be decoded.

    A backslash, a control character and, in a person name, `^` and `=` go back to the first
    character set (PS3.5 6.1.2.5.3).
    """
    if _ESCAPE not in value:
        return _decode(value, charset[0])
    delimiters = _NAME_DELIMITERS if person_name else _DELIMITERS
    parts = [_fragment(part, charset[0], delimiters) for part in _FRAGMENTS.findall(value)]
    return "".join(text for text, _ in parts), all(good for _, good in parts)


def _decode(value: bytes, codec: str) -> tuple[str, bool]:
    try:
        return value.decode(codec), True
    except UnicodeDecodeError:
        return value.decode(codec, "replace"), False


def _fragment(part: bytes, first: str, delimiters: re.Pattern[bytes]) -> tuple[str, bool]:
    if not part.startswith(_ESCAPE):
        return _decode(part, first)
    sequence = next((part[:n] for n in (3, 4) if part[:n] in CODES_TO_ENCODINGS), None)
    if sequence is None:
        return part.decode(first, "replace"), False
    codec = CODES_TO_ENCODINGS[sequence]
    if codec in _STATEFUL:
        return _decode(part, codec)
    body = part[len(sequence) :]
    border = delimiters.search(body)
    if border is None:
        return _decode(body, codec)
    text, good = _decode(body[: border.start()], codec)
    rest, rest_good = _decode(body[border.start() :], first)
    return text + rest, good and rest_good


for _codec in {*python_encoding.values()}:
    codecs.lookup(
        _codec
    )  # a codec that this Python lacks must show at start, not at the first name
