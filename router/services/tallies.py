"""Counts by hour of what was delivered and parked; written in the transaction that did it."""

from datetime import datetime
from typing import Protocol

from router.models import CounterKind, Destination
from router.services import clock
from router.services.counters import Tally


class Counted(Protocol):
    """What is known of an item that is counted; `size` in bytes."""

    @property
    def size(self) -> int: ...
    @property
    def modality(self) -> str: ...
    @property
    def source(self) -> str: ...


def add(
    tally: Tally, item: Counted, destination: Destination, *, kind: CounterKind, moment: datetime
) -> None:
    """Count `item` in `tally`."""
    tally.add(
        moment,
        kind,
        size=item.size,
        modality=item.modality,
        source=item.source,
        destination=destination.name,
    )


def parked(item: Counted, destination: Destination) -> None:
    """Count an item that was just parked; call in the transaction that parked it."""
    tally = Tally()
    add(tally, item, destination, kind=CounterKind.PARKED, moment=clock.now())
    tally.write()
