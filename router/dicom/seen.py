"""What is seen of an instance's fields, remembered while it repeats from image to image.

A scanner says the same of every image of a study, so what the leaves answer to it, and how that is
told, is worked out once. Bounded in number and in characters; a slot forgets everything when it is
full. It judges nothing itself.
"""

from router.dicom import compare
from router.dicom.fields import Facts, Fetcher
from router.dicom.header import Field
from router.dicom.outcomes import Stored, shown

_MOST_CHARACTERS = 500


class Seen:
    """A field's values, with what the leaves make of them; `lasts` when a slot remembers it."""

    __slots__ = ("_numbers", "_shown", "answers", "lasts", "problem", "reasons", "values", "vr")

    def __init__(self, field: Field, leaves: int) -> None:
        self.values, self.vr, self.problem = field
        self.lasts = False
        self.answers: list[bool | None] = [None] * leaves
        self.reasons: dict[int, Stored] = {}
        self._numbers: tuple[float, ...] | None = None
        self._shown: list[str] | None = None

    def numbers(self) -> tuple[float, ...]:
        """The values that convert by VR: numbers, days, seconds."""
        if self._numbers is None:
            convert = compare.BY_VR.get(self.vr, compare.AS_NUMBER)[0]
            found = map(convert, self.values)
            self._numbers = tuple([one for one in found if one is not None])
        return self._numbers

    def shown(self) -> list[str]:
        """The values as an explanation stores them."""
        if self._shown is None:
            self._shown = shown(self.values)
        return self._shown


class Slot:
    """A field that leaves ask for; it hands out one `Seen` for what reads alike."""

    __slots__ = ("_fetch", "_known", "_leaves", "_most")

    def __init__(self, fetch: Fetcher, leaves: int, *, most: int) -> None:
        self._fetch = fetch
        self._leaves = leaves
        self._most = most
        self._known: dict[Field, Seen] = {}

    def look(self, facts: Facts) -> Seen:
        """What this instance holds there."""
        field = self._fetch(facts)
        return self._known.get(field) or self._new(field)

    def _new(self, field: Field) -> Seen:
        seen = Seen(field, self._leaves)
        if sum(map(len, field.values)) + len(field.values) <= _MOST_CHARACTERS:
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[field] = seen
            seen.lasts = True
        return seen
