"""Items that leave as one: for the kinds whose unit is the study, those of a job that go together.

What was first tried together stays together at every later try, so the event they make keeps its
identity; the first attempts, which are never changed, say which those are. What came to the job
since then makes an event of its own.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.models import OuterRef, Subquery

from router.destinations import KINDS
from router.models import Attempt, Destination, ItemState, Job, JobItem

MOST = 20_000


@dataclass(frozen=True, slots=True)
class Unit:
    """The items of one event, and what it goes by at every try."""

    ids: tuple[int, ...]
    name: str


def is_for(destination: Destination) -> bool:
    """Tell whether the destination takes whole units."""
    return destination.kind in KINDS and KINDS[destination.kind].unit == "study"


def of(first: int, *, now: datetime) -> Unit:
    """Return the unit of the due item `first`; what of it still waits is due with it.

    Runs inside the caller's transaction, which then claims it; of two at once the second waits.
    """
    job = JobItem.objects.values_list("job_id", flat=True).get(pk=first)
    Job.objects.select_for_update().get(pk=job)
    tried = Attempt.objects.filter(item=OuterRef("pk")).order_by("fence").values("started_at")[:1]
    items = JobItem.objects.filter(job_id=job, finished_at=None).annotate(began=Subquery(tried))
    waits = items.filter(state__in=[ItemState.PENDING, ItemState.WAITING])
    found = waits.filter(pk=first).values_list("began").first()
    if found is None:  # another has claimed it meanwhile
        return Unit((), "")
    began = found[0]
    together = waits.filter(began=began) if began else waits.filter(began__isnull=True)
    ids = tuple(together.order_by("pk").values_list("pk", flat=True)[:MOST])
    JobItem.objects.filter(pk__in=ids, state=ItemState.WAITING, due_at__gt=now).update(due_at=now)
    moment = (began or now).astimezone(UTC).isoformat(timespec="microseconds")
    return Unit(ids, f"{job} {moment}")
