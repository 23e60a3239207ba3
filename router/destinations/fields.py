"""Form fields whose values are the same from a YAML file and from a page; canonical and
JSON-safe."""

import re
from collections.abc import Mapping

from django import forms
from django.core.exceptions import ValidationError

from router.destinations.outcomes import STATUS_OUTCOMES, Outcome, Overrides

URGENCIES = ("urgent", "normal", "low")
"""The priorities of jobs, the first first."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d{1,7})([smhd])\Z")
STATUS_PATTERN = re.compile(r"[0-9A-Fa-f]{1,4}[xX]{0,3}\Z")


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as `30s` or `5m`.

    Raises:
        ValueError: it is none.
    """
    found = DURATION.match(duration)
    if found is None:
        raise ValueError(f"{duration!r} is no duration; write it like 30s, 5m, 2h or 1d")
    return int(found[1]) * UNITS[found[2]]


def duration_text(value: int) -> str:
    """Return `value` seconds as a duration in the largest unit that fits."""
    unit = next(u for u in ("d", "h", "m", "s") if value % UNITS[u] == 0 and (value or u == "s"))
    return f"{value // UNITS[unit]}{unit}"


class TextField(forms.CharField):
    """Text; a list, a mapping or yes/no is refused instead of being spelled out."""

    def to_python(self, value: object) -> str:
        """Return the text, stripped."""
        if isinstance(value, list | dict | bool):
            raise ValidationError("Text is expected.")
        return super().to_python(value) or ""


class DurationField(TextField):
    """A duration; its value is the duration in canonical text."""

    def __init__(self, *, least: str = "1s", most: str = "7d", initial: str | None) -> None:
        super().__init__(initial=initial, required=False)
        self._least, self._most = seconds(least), seconds(most)

    def to_python(self, value: object) -> str:
        """Return the canonical text of the duration; none where none is needed or usual."""
        text = super().to_python(value)
        if not text and self.initial is None:
            return ""
        return _duration(text, self._least, self._most)


class FlagField(forms.Field):
    """Yes or no: true and false of YAML, or the words that a page sends."""

    WORDS: Mapping[object, bool] = {True: True, False: False, "true": True, "false": False}

    def __init__(self, *, initial: bool) -> None:
        widget = forms.Select(choices=[("true", "yes"), ("false", "no")])
        super().__init__(initial=initial, required=False, widget=widget)

    def prepare_value(self, value: object) -> object:
        """Return what the page chooses its option by."""
        return str(value).lower() if isinstance(value, bool) else value

    def to_python(self, value: object) -> bool:
        """Return true or false."""
        given = value.strip().lower() if isinstance(value, str) else value
        if not isinstance(given, str | bool) or given not in self.WORDS:
            raise ValidationError("true or false is expected.")
        return self.WORDS[given]


class DurationsField(forms.Field):
    """A list of durations, from a YAML list or from text with commas."""

    def __init__(self, *, initial: list[str]) -> None:
        super().__init__(initial=initial, required=False)

    def to_python(self, value: object) -> list[str]:
        """Return the canonical texts in order."""
        given = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(given, list) or not 1 <= len(given) <= 20:
            raise ValidationError("A list of one to twenty durations is expected.")
        return [_duration(one, 1, UNITS["d"]) for one in given]


class OutcomesField(forms.Field):
    """What a status means at this destination, where the table of the house does not fit."""

    def __init__(self) -> None:
        super().__init__(required=False)

    def to_python(self, value: object) -> dict[str, str]:
        """Return the mapping of status pattern to outcome name, in order of the patterns."""
        given = _pairs(value) if isinstance(value, str) else value or {}
        if not isinstance(given, Mapping):
            raise ValidationError("A mapping of status to outcome is expected.")
        return dict(sorted(_override(key, given[key]) for key in given))


def _duration(value: object, least: int, most: int) -> str:
    try:
        found = seconds(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise ValidationError(f"{error}.") from error
    if not least <= found <= most:
        raise ValidationError(
            f"{value} is not between {duration_text(least)} and {duration_text(most)}."
        )
    return duration_text(found)


def _pairs(text: str) -> Overrides:
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return {key.strip(): value.strip() for key, _, value in parts}


def _override(key: object, value: object) -> tuple[str, str]:
    if not isinstance(key, str) or len(key) != 4 or not STATUS_PATTERN.match(key):
        raise ValidationError(
            f'{key!r} is no status; write four hexadecimal digits in quotes, like "B007", '
            'or a class like "A7xx".'
        )
    if not isinstance(value, str) or value not in STATUS_OUTCOMES:
        names = ", ".join(sorted(STATUS_OUTCOMES))
        raise ValidationError(f"{value!r} is no outcome of a status; one of {names} is expected.")
    return key.upper().replace("X", "x"), str(Outcome(value))
