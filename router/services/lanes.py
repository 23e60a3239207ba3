"""The lane of a destination: may it run, how many at once, and what a failure does to it."""

import logging
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any  # values of columns

from django.conf import settings
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce

from router.destinations import windows
from router.destinations.base import Result
from router.destinations.fields import seconds
from router.models import Destination, ItemState, JobItem, Lane, LaneState, Priority
from router.models.jobs import JobItemQuerySet
from router.services import clock

MOST_CUTS = 3
"""So often an item may end without an answer before it is left to its own pauses."""

OPENED: dict[str, Any] = {
    "state": LaneState.OPEN,
    "failures": 0,
    "resume_at": None,
    "reason": "",
    "ill_since": None,
}
"""What a lane is that is well again."""
DRAINED = "Drained: what was open is done; what came later waits until it is resumed."
log = logging.getLogger(__name__)


def retry_delay(tries: int, delays: Sequence[int]) -> timedelta:
    """Return the pause after ``tries`` failures: the table, its last entry for ever, ±10 %."""
    pause = delays[min(max(tries, 1), len(delays)) - 1]
    return timedelta(seconds=pause * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, no secret


def delays(destination: Destination) -> Sequence[int]:
    """Return the destination's retry table, in seconds."""
    assert destination.version is not None  # noqa: S101 - drain() has checked
    return [seconds(text) for text in destination.version.settings["retry"]]


def slots(destination: Destination) -> int:
    """Return how many associations may run at once: its own limit, half of the workers at most.

    Where the order is kept it is one.
    """
    assert destination.version is not None  # noqa: S101 - callers have checked
    if is_ordered(destination):
        return 1
    wanted = destination.version.settings.get("associations", 1)
    return max(1, min(int(wanted), settings.WORKERS // 2))


def is_ordered(destination: Destination) -> bool:
    """Tell whether the instances of a series leave in the order in which they were chosen."""
    return bool(destination.version and destination.version.settings.get("ordered"))


def priority(destination: Destination) -> Priority:
    """Return the priority of what is chosen for it by rules that say none."""
    return Priority.of(destination.version.settings.get("urgency") if destination.version else None)


def opens_at(destination: Destination) -> datetime | None:
    """Return when the next of its windows begins, None when it may be sent to now."""
    given = destination.version.settings.get("windows") if destination.version else None
    return windows.opens_at(given or [], clock.now())


def alarm_at(destination: Destination, oldest: datetime | None) -> datetime | None:
    """Return when an item of that age is one to tell of, None where nobody asked for that."""
    age = destination.version.settings.get("alarm_age") if destination.version else None
    return oldest + timedelta(seconds=seconds(age)) if age and oldest else None


def may_run(destination: Destination) -> bool:
    """Tell whether the lane takes work now: open, or due for a probe after a failure, and within
    its windows."""
    if opens_at(destination) is not None:
        return False
    lane = Lane.objects.filter(destination=destination).first()
    if lane is None or lane.state == LaneState.OPEN:
        return True
    return (
        lane.state == LaneState.BACKOFF
        and lane.resume_at is not None
        and lane.resume_at <= clock.now()
    )


def due(destination: Destination, now: datetime) -> JobItemQuerySet:
    """Return the items that may be claimed for a destination now, were its lane to run; of one that
    is drained those that came too late are not."""
    items = JobItem.objects.filter(destination=destination).due(now)
    last = destination.lane.drain_to
    return items if last is None else items.filter(pk__lte=last)


def admits(destination: Destination, slot_number: int) -> bool:
    """Tell whether a slot may claim now; of a lane that failed only the first one probes, so that a
    dead destination costs one connection for each pause however wide its lane is."""
    return may_run(destination) and (slot_number == 0 or not destination.lane.failures)


def update(destination: Destination, results: Sequence[Result], *, delivered: bool) -> None:
    """Back off or stop the lane of a destination that failed as a whole; open it once it answers.

    An answer that refuses one object says that the far end is there, as a success does.
    """
    lane = Lane.objects.filter(destination=destination)
    failed = next((result for result in results if result.lane is not None), None)
    now = clock.now()
    if failed is not None:
        _fail_lane(destination, failed, now)
    elif delivered or any(result.status is not None for result in results):
        open_again(destination)
    if delivered and failed is None:
        assert destination.version is not None  # noqa: S101 - drain() has checked
        lane.update(last_success_at=now, verified_endpoint=destination.version.endpoint)


def open_again(destination: Destination) -> bool:
    """Open a lane that had failed, since the far end has answered; False where it was open."""
    lane = Lane.objects.filter(destination=destination).exclude(failures=0, state=LaneState.OPEN)
    recovered = lane.filter(state__in=[LaneState.OPEN, LaneState.BACKOFF])
    well = Case(When(drain_to=None, then=None), default=F("ill_since"))
    opened = recovered.update(**OPENED | {"ill_since": well})
    if opened:
        _wake_waiting(destination, clock.now())
    return bool(opened)


def _fail_lane(destination: Destination, failed: Result, now: datetime) -> None:
    lane = Lane.objects.filter(destination=destination)
    since = Coalesce(F("ill_since"), Value(now))
    change: dict[str, object] = {
        "reason": failed.detail[:500],
        "last_failure_at": now,
        "ill_since": since,
    }
    if failed.lane == "configuration":
        change |= {"state": LaneState.STOPPED, "resume_at": None}
    else:
        failures = destination.lane.failures + 1
        asked = timedelta(seconds=failed.pause)  # by the far end (Retry-After)
        resume = now + max(retry_delay(failures, delays(destination)), asked)
        change |= {"state": LaneState.BACKOFF, "failures": failures, "resume_at": resume}
    if lane.exclude(state__in=[LaneState.PAUSED, LaneState.STOPPED]).update(**change):
        log.warning("lane.failed", extra={"destination": destination.name, "detail": failed.detail})


def _wake_waiting(destination: Destination, now: datetime) -> None:
    """After the first good answer everything that waits for this destination is due at once, but
    for what was cut off again and again: that would close the lane once more."""
    waiting = JobItem.objects.filter(destination=destination, state=ItemState.WAITING)
    suspect = Q(status=None, tries__gte=MOST_CUTS)
    waiting.filter(due_at__gt=now).exclude(suspect).update(due_at=now)


def due_destinations() -> Iterator[int]:
    """Yield the destinations that have due items and a lane that may run."""
    now = clock.now()
    for destination in Destination.objects.active().select_related("lane", "version"):
        if due(destination, now).exists() and may_run(destination):
            yield destination.pk


def end_drains() -> int:
    """Pause the lanes that have finished all that they were to finish; return how many."""
    return sum(_end_drain(lane) for lane in Lane.objects.exclude(drain_to=None))


def _end_drain(lane: Lane) -> int:
    items = JobItem.objects.filter(destination=lane.destination_id, pk__lte=lane.drain_to)
    if items.open().exists():
        return 0
    mine = Lane.objects.filter(pk=lane.pk, drain_to=lane.drain_to)
    return mine.update(state=LaneState.PAUSED, drain_to=None, resume_at=None, reason=DRAINED)
