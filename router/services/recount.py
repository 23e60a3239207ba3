"""Recount the counts by hour from receipts and attempts, and name every hour that differs.

Received, identical duplicates, quarantined and refused are receipts by hour and source; delivered
are attempts that succeeded, by hour and destination. How many were parked, or sent again for want
of proof, are events that leave no row of their own, so they are not recounted. Refuses to repair:
it only finds.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Sum
from django.db.models.functions import TruncHour

from router.models import (
    Attempt,
    AttemptOutcome,
    CounterKind,
    HourCount,
    Receipt,
    ReceiptOutcome,
)

# Any in this module: rows of values(), whose columns the query names.

COUNTED = {
    ReceiptOutcome.STORED: CounterKind.RECEIVED,
    ReceiptOutcome.VERSION: CounterKind.RECEIVED,
    ReceiptOutcome.DUPLICATE: CounterKind.DUPLICATE,
    ReceiptOutcome.QUARANTINED: CounterKind.QUARANTINED,
    ReceiptOutcome.REFUSED: CounterKind.REFUSED,
}
"""As what a receipt is counted."""

SUCCESSES = (AttemptOutcome.SUCCESS, AttemptOutcome.WARNING)

Key = tuple[datetime, str, str]
"""Hour, kind, and the name of the source; of the destination where it is about deliveries."""


@dataclass
class _Sums:
    """Objects and bytes by hour, kind and name."""

    objects: Counter[Key] = field(default_factory=Counter)
    bytes: Counter[Key] = field(default_factory=Counter)

    def add(self, key: Key, row: dict[str, Any]) -> None:
        """Add the figures of one row."""
        self.objects[key] += row["total"]
        self.bytes[key] += row["size"]

    def at(self, key: Key) -> tuple[int, int]:
        """Return objects and bytes."""
        return self.objects[key], self.bytes[key]


def differences() -> Iterator[str]:
    """Yield a sentence for each hour whose counts are not what the ledger says."""
    said, counted = _said(), _counted()
    for key in sorted({*said.objects, *counted.objects}):
        if said.at(key) != counted.at(key):
            hour, kind, name = key
            yield (
                f"the hour {hour:%Y-%m-%d %H} says {_words(said, key)} {kind} of "
                f"{name or '(none)'}; {_words(counted, key)} stand"
            )


def _words(sums: _Sums, key: Key) -> str:
    return "{} objects ({} bytes)".format(*sums.at(key))


def _said() -> _Sums:
    sums = _Sums()
    rows = HourCount.objects.exclude(kind__in=[CounterKind.PARKED, CounterKind.DISPROVED])
    columns = ("hour", "kind", "source", "destination")
    for row in rows.values(*columns).annotate(total=Sum("objects_count"), size=Sum("bytes")):
        by_source = row["kind"] != CounterKind.DELIVERED
        name = row["source"] if by_source else row["destination"]
        sums.add((row["hour"], row["kind"], name), row)
    return sums


def _counted() -> _Sums:
    sums = _Sums()
    receipts = Receipt.objects.order_by().values(
        "outcome", hour=TruncHour("received_at"), source=F("association__source")
    )
    for row in receipts.annotate(total=Count("pk"), size=Sum("size")):
        kind = COUNTED[ReceiptOutcome(row["outcome"])]
        sums.add((row["hour"], kind.value, row["source"]), row)
    done = Attempt.objects.filter(outcome__in=SUCCESSES).order_by()
    delivered = done.values(hour=TruncHour("ended_at"), to=F("item__destination__name"))
    for row in delivered.annotate(total=Count("pk"), size=Sum("item__size")):
        sums.add((row["hour"], CounterKind.DELIVERED.value, row["to"]), row)
    return sums
