"""What a rule's value means beside an element's: numbers, dates and times by VR (PS3.5 6.2).

Every converter returns None for what it cannot read; nothing here raises for a value.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final

_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*\Z", re.ASCII)
_DATE = re.compile(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)\Z", re.ASCII)
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d{1,6})?)?)?\Z", re.ASCII)
_DATE_TIME = re.compile(
    r"(\d{4})(?:-?(\d\d)(?:-?(\d\d)(?:[T ]?(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d{1,6})?)?)?)?)?)?"
    r"([+-]\d\d:?\d\d)?\Z",
    re.ASCII,
)


def number(text: str) -> float | None:
    """A decimal number (IS, DS and the binary ones); whole ones stay exact."""
    if _NUMBER.match(text) is None:
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def day(text: str) -> float | None:
    """A DA value, also in the dotted form of ACR-NEMA, as a day number."""
    found = _DATE.match(text.strip())
    if found is None:
        return None
    try:
        return date(*(int(part) for part in found.groups())).toordinal()
    except ValueError:
        return None


def time(text: str) -> float | None:
    """A TM value in seconds; parts that are left out count from their beginning."""
    found = _TIME.match(text.strip())
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return None
    return hour * 3600 + minute * 60 + second + float(found[4] or 0)


def moment(text: str) -> float | None:
    """A DT value in seconds; left-out parts count from their beginning, no offset counts as UTC."""
    found = _DATE_TIME.match(text.strip())
    if found is None:
        return None
    year, month, of_month = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    clock = "".join(part or "00" for part in found.group(4, 5, 6)) + (found[7] or "")
    seconds = time(clock)
    try:
        start = datetime(year, month, of_month)  # noqa: DTZ001 - a plain count of days
    except ValueError:
        return None
    if seconds is None:
        return None
    return (start - datetime(1, 1, 1)) / timedelta(seconds=1) + seconds - _offset(found[8])  # noqa: DTZ001


def _offset(text: str | None) -> int:
    if not text:
        return 0
    digits = text[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if text[0] == "-" else seconds


Converter = Callable[[str], float | None]

NUMERIC_VRS: Final = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"})
BY_VR: Final[dict[str, tuple[Converter, str]]] = {
    **dict.fromkeys(NUMERIC_VRS, (number, "not a number")),
    "DA": (day, "not a date"),
    "TM": (time, "not a time"),
    "DT": (moment, "not a date and time"),
}
AS_NUMBER: Final[tuple[Converter, str]] = (number, "not a number")
