"""How fast a destination is sent to: one account in the database, shared by all workers.

A claim is granted when the time that the one before it takes at the permitted rates has passed; the
grant moves that moment on, in one conditional UPDATE. Refuses to wait: the caller does.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any  # settings of a destination

from django.db.models import Q

from router.models import Destination, Lane
from router.services import clock

SPAN = 1.0
"""Seconds of sending that a grant is for, unless one object alone takes longer."""


def limits(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return the objects and the bytes a second that are permitted, 0 for any number."""
    return (
        float(settings.get("objects_per_second") or 0),
        float(settings.get("bytes_per_second") or 0),
    )


def is_paced(destination: Destination) -> bool:
    """Tell whether the destination has a limit."""
    return any(_limits(destination))


def forget(destination: Destination) -> None:
    """Begin anew, because the limits are others: what was granted under the old ones counts no
    more."""
    Lane.objects.filter(destination=destination).update(paced_until=None)


def fitting(destination: Destination, sizes: Sequence[int]) -> int:
    """Return how many of the first items, of `sizes` in bytes, one grant is for: at least one."""
    count, total = 0, 0
    for size in sizes:
        total += size
        if count and _seconds(destination, count + 1, total) > SPAN:
            break
        count += 1
    return count


def grant(destination: Destination, sizes: Sequence[int], *, now: datetime) -> bool:
    """Take what sending items of `sizes` bytes costs; False when it is too soon."""
    cost = timedelta(seconds=_seconds(destination, len(sizes), sum(sizes)))
    if not cost:
        return True
    lane = Lane.objects.filter(destination=destination)
    lane = lane.filter(destination__version=destination.version_id)  # else the limits are others
    free = lane.filter(Q(paced_until=None) | Q(paced_until__lte=now))
    return bool(free.update(paced_until=now + cost))


def left(destination: Destination) -> float:
    """Return in how many seconds the next grant may be asked for."""
    if not is_paced(destination):
        return 0.0
    until = Lane.objects.filter(destination=destination).values_list("paced_until", flat=True)
    moment = until.first()
    return max(0.0, (moment - clock.now()).total_seconds()) if moment else 0.0


def _limits(destination: Destination) -> tuple[float, float]:
    return limits(destination.version.settings if destination.version else {})


def _seconds(destination: Destination, count: int, total: int) -> float:
    objects, size = _limits(destination)
    return max(count / objects if objects else 0.0, total / size if size else 0.0)
