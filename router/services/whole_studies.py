"""Show that no study of a group is split: what waits is at its member, and the member has it all.

Refuses to repair: it only finds.
"""

from collections.abc import Iterator

from django.db.models import Exists, F, OuterRef, Q

from router.models import DONE_STATES, ItemShare, ItemState, JobItem
from router.models.jobs import JobItemQuerySet
from router.services import failover

MOST = 100
_NEVER = "not all of it was ever chosen for that"
_COLUMNS = (
    *("job__study__study_instance_uid", "job__assignment__group__name"),
    "job__assignment__member__name",
)


def gaps() -> Iterator[str]:
    """Yield a sentence for each study that is split, a hundred of each kind at most."""
    for items, what in ((_strayed(), "some of it waits elsewhere"), (_missing(), _NEVER)):
        found = items.order_by(*_COLUMNS).values_list(*_COLUMNS).distinct()
        for study, group, member in found[:MOST]:
            yield f"study {study} is {member}'s in {group}, and {what}"


def _of_groups() -> JobItemQuerySet:
    items = JobItem.objects.filter(job__assignment__isnull=False)
    return items.exclude(destination=F("job__assignment__member"))


def _strayed() -> JobItemQuerySet:
    """What is open at another than the member, and there for nothing else."""
    others = ItemShare.objects.filter(item=OuterRef("pk"))
    unsent = ~Q(state__in=[*DONE_STATES, ItemState.CANCELLED])
    return _of_groups().filter(unsent, ~Exists(others), finished_at=None)


def _missing() -> JobItemQuerySet:
    """What another had before, and the member never got an item of."""
    at_member = JobItem.objects.filter(
        destination=OuterRef("job__assignment__member"),
        instance=OuterRef("instance"),
        transform=OuterRef("transform"),
    )
    moved = _of_groups().filter(job__assignment__number__gt=1)
    moved = moved.filter(~Q(state=ItemState.CANCELLED) | Q(reason__contains=failover.INSTEAD))
    return moved.filter(~Exists(at_member))
