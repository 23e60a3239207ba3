"""Ask members of groups that do not answer whether they are well again.

Any other destination is tried with what waits for it. From a member of a group that has moved on,
so that it would stay ill for ever: once each pause it is verified instead. Sends no object.
"""

import logging
from collections.abc import Iterator
from datetime import datetime

from django.db.models import F

from router.destinations import KINDS
from router.models import Destination, DestinationGroup, JobItem, Lane, LaneState
from router.services import clock, lanes

log = logging.getLogger(__name__)


def due() -> Iterator[int]:
    """Yield the destinations that are to be asked now."""
    names = {name for group in DestinationGroup.objects.present() for name in group.members}
    now = clock.now()
    rows = Destination.objects.active().filter(name__in=names).select_related("lane", "version")
    failing = rows.filter(lane__state=LaneState.BACKOFF, lane__resume_at__lte=now)
    for row in failing:
        if not JobItem.objects.filter(destination=row).due(now).exists():
            yield row.pk


def probe(destination_id: int) -> bool:
    """Ask one; the lane opens when it answers well, and waits for the next pause otherwise.

    Returns:
        Whether it is well again.
    """
    row = Destination.objects.active().select_related("lane", "version").get(pk=destination_id)
    if row.version is None or not _take(row, clock.now()):
        return False
    verification = KINDS[row.kind].sender(row.version.settings).verify()
    if verification.ok:
        return lanes.open_again(row)
    detail = next(step.detail for step in verification.steps if not step.ok)
    log.info("lane.probed", extra={"destination": row.name, "detail": detail})
    failing = Lane.objects.filter(destination=row, state=LaneState.BACKOFF)
    failing.update(failures=F("failures") + 1, reason=detail[:500], last_failure_at=clock.now())
    return False


def _take(row: Destination, now: datetime) -> bool:
    """Take the turn of this pause; of two who ask at once one does."""
    lane = Lane.objects.filter(destination=row, state=LaneState.BACKOFF, resume_at__lte=now)
    pause = lanes.retry_delay(row.lane.failures + 1, lanes.delays(row))
    return bool(lane.update(resume_at=now + pause))
