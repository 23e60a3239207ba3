"""Counts by hour, as small rows; written in the transaction of what they count."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F

from router.models import CounterKind, HourCount


@dataclass(frozen=True)
class CountKey:
    """What one row of counts is about."""

    hour: datetime
    kind: CounterKind
    modality: str = ""
    source: str = ""
    destination: str = ""


class Tally:
    """Objects and bytes to be added, gathered before they are written in one go."""

    def __init__(self) -> None:
        self.objects: Counter[CountKey] = Counter()
        self.bytes: Counter[CountKey] = Counter()

    def add(
        self,
        moment: datetime,
        kind: CounterKind,
        *,
        size: int,
        modality: str = "",
        source: str = "",
        destination: str = "",
    ) -> None:
        """Count one object of ``size`` bytes in the hour of ``moment``."""
        hour = moment.replace(minute=0, second=0, microsecond=0)
        modality = modality.replace("\x00", "")[:16]  # a header's own text; PostgreSQL takes no NUL
        key = CountKey(hour, kind, modality, source, destination)
        self.objects[key] += 1
        self.bytes[key] += size

    def write(self) -> None:
        """Add everything to the rows; call inside the transaction of what was counted."""
        _write(self.objects, self.bytes)


def _write(objects: Mapping[CountKey, int], sizes: Mapping[CountKey, int]) -> None:
    # A fixed order keeps two writers from waiting for each other.
    ordered = sorted(objects, key=lambda k: (k.hour, k.kind, k.modality, k.source, k.destination))
    for key in ordered:
        row = HourCount.objects.filter(**vars(key))
        added = {
            "objects_count": F("objects_count") + objects[key],
            "bytes": F("bytes") + sizes[key],
        }
        if row.update(**added):
            continue
        HourCount.objects.bulk_create([HourCount(**vars(key))], ignore_conflicts=True)
        row.update(**added)
