"""Hours in which a destination takes objects: weekdays and times of a named zone.

A window begins at `from` of each of its days and ends at the next `to`, past midnight where that is
not later; both are times of the clock on the wall there, so that a change of summer time moves
them. Knows no clock of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django import forms
from django.core.exceptions import ValidationError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
KEYS = ("days", "from", "to", "zone")
MOST = 20
_A_DAY = timedelta(days=1)

Window = Mapping[str, object]
"""As the form leaves it: `days`, a list; `from` and `to`, "HH:MM"; `zone`."""


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Tell whether `now` lies in a window; without any, always."""
    return not windows or any(first <= now < last for first, last in _spans(windows, now))


def opens_at(windows: Sequence[Window], now: datetime) -> datetime | None:
    """Return when the next window begins, None when one is open now."""
    if is_open(windows, now):
        return None
    return min(first for first, _last in _spans(windows, now) if first > now)


def _spans(windows: Sequence[Window], now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield the beginnings and ends from yesterday's windows to those of the next week, in UTC."""
    for window in windows:
        zone = ZoneInfo(str(window["zone"]))
        begin, end = (time.fromisoformat(str(window[key])) for key in ("from", "to"))
        today = now.astimezone(zone).date()
        for day in (today + n * _A_DAY for n in range(-1, 9)):
            if DAYS[day.weekday()] in window["days"]:  # type: ignore[operator] # a list
                last = day if end > begin else day + _A_DAY
                yield (
                    datetime.combine(day, begin, zone).astimezone(UTC),
                    datetime.combine(last, end, zone).astimezone(UTC),
                )


class WindowsField(forms.Field):
    """A list of windows, as YAML gives it, or as text: `mon tue 22:00-06:00 Europe/Berlin; …`."""

    def __init__(self) -> None:
        super().__init__(required=False)

    def prepare_value(self, value: object) -> object:
        """Return them as text that stands in a field of a page."""
        if not isinstance(value, list):
            return value
        return "; ".join(
            f"{' '.join(one['days'])} {one['from']}-{one['to']} {one['zone']}" for one in value
        )

    def to_python(self, value: object) -> list[dict[str, object]]:
        """Return the windows in canonical form."""
        given = _from_text(value) if isinstance(value, str) else value or []
        if not isinstance(given, list) or len(given) > MOST:
            raise ValidationError(f"A list of at most {MOST} windows is expected.")
        return [_window(one) for one in given]


def _from_text(text: str) -> list[dict[str, object]]:
    return [_one_from_text(part.split()) for part in text.split(";") if part.strip()]


def _one_from_text(words: list[str]) -> dict[str, object]:
    if len(words) < 2:
        raise ValidationError("Windows like mon tue 22:00-06:00 Europe/Berlin are expected.")
    *days, times, zone = words
    begin, _dash, end = times.partition("-")
    return {"days": days or list(DAYS), "from": begin, "to": end, "zone": zone}


def _window(given: object) -> dict[str, object]:
    if not isinstance(given, Mapping) or not set(given) <= set(KEYS):
        raise ValidationError(f"A window is a mapping of {', '.join(KEYS)}.")
    return {
        "days": _days(given.get("days", list(DAYS))),
        "from": _time(given.get("from"), "from"),
        "to": _time(given.get("to"), "to"),
        "zone": _zone(given.get("zone")),
    }


def _days(given: object) -> list[str]:
    if not isinstance(given, list) or not given or not all(day in DAYS for day in given):
        raise ValidationError(f"days is a list of {', '.join(DAYS)}.")
    return [day for day in DAYS if day in given]


def _time(given: object, key: str) -> str:
    text = given if isinstance(given, str) else ""
    try:
        found = time.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or len(text) != len("22:00"):
        raise ValidationError(f'{key} is a time in quotes, from "00:00" to "23:59".')
    return text


def _zone(given: object) -> str:
    try:
        return str(ZoneInfo(given if isinstance(given, str) else ""))
    except (ValueError, OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ValidationError(
            f"{given!r} is no time zone; a name such as Europe/Berlin is expected."
        ) from error
