"""The reckoning: recount the ledger from files, rows and attempts, and name every gap.

Objects: acknowledged = inbox + current + versions + quarantined + identical duplicates + purged.
Pairs: chosen by decisions = items, in whatever state. Refuses to repair: it only finds.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from django.db.models import Count, F, IntegerField, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce

from router import storage
from router.models import (
    DONE_STATES,
    Attempt,
    AttemptOutcome,
    Decision,
    Instance,
    InstanceState,
    ItemState,
    JobItem,
    LaneState,
    QuietTimer,
    Receipt,
    ReceiptOutcome,
    RoutingMark,
    Study,
)
from router.services import archive, clock

UNDECIDED_AFTER = timedelta(seconds=60)
CHUNK = 1 << 20
STORED = (ReceiptOutcome.STORED, ReceiptOutcome.VERSION, ReceiptOutcome.QUARANTINED)


@dataclass
class Reckoning:
    """What was counted, and every gap that was found, by kind."""

    counts: dict[str, int] = field(default_factory=dict)
    gaps: list[tuple[str, str]] = field(default_factory=list)

    def gap(self, kind: str, what: str) -> None:
        """Note one gap."""
        self.gaps.append((kind, what))


def unfinished() -> dict[str, int]:
    """Return what is still to be done now, by kind; empty when idle."""
    now = clock.now()
    running = Q(destination__lane__state=LaneState.OPEN) | Q(
        destination__lane__state=LaneState.BACKOFF, destination__lane__resume_at__lte=now
    )
    due = JobItem.objects.due(now).filter(running, destination__enabled=True)
    due = due.filter(destination__removed=False)
    counts = {
        "objects in the inbox": len(archive.acknowledged()),
        "undecided marks": RoutingMark.objects.undecided().count(),
        "quiet timers due": QuietTimer.objects.filter(fired_at=None, due_at__lte=now).count(),
        "due items": due.count(),
        "items being sent": JobItem.objects.filter(state=ItemState.LEASED).count(),
    }
    return {kind: count for kind, count in counts.items() if count}


def reckon(*, deep: bool = False) -> Reckoning:
    """Recount everything.

    Args:
        deep: also hash every stored object and compare with its receipt.
    """
    found = Reckoning()
    _objects(found)
    _files(found, deep=deep)
    _decisions(found)
    _pairs(found)
    _attempts(found)
    _studies(found)
    return found


def _objects(found: Reckoning) -> None:
    """Balance of objects: every acknowledged store is somewhere."""
    receipts = Receipt.objects.exclude(outcome=ReceiptOutcome.REFUSED)
    by_state = dict(Instance.objects.values_list("state").annotate(number=Count("pk")))
    duplicates = receipts.filter(outcome=ReceiptOutcome.DUPLICATE).count()
    indexed = set(
        Receipt.objects.filter(
            uid__in=[path.name.split(".")[0] for path in archive.acknowledged()]
        ).values_list("uid", flat=True)
    )
    inbox = len([p for p in archive.acknowledged() if p.name.split(".")[0] not in indexed])
    found.counts |= {
        "acknowledged": receipts.count() + inbox,
        "inbox": inbox,
        **{state.value: by_state.get(state, 0) for state in InstanceState},
        "duplicates": duplicates,
    }
    parts = inbox + sum(by_state.values()) + duplicates
    if parts != found.counts["acknowledged"]:
        found.gap("objects", f"acknowledged {found.counts['acknowledged']}, accounted {parts}")
    for uid in receipts.filter(instance=None).values_list("uid", flat=True)[:100]:
        found.gap("objects", f"receipt {uid} names no object")
    file_ids = Instance.objects.values("file_id")
    lost = receipts.filter(outcome__in=STORED).exclude(uid__in=file_ids)
    for uid in lost.values_list("uid", flat=True)[:100]:
        found.gap("objects", f"receipt {uid} was stored and has no object row")


def _files(found: Reckoning, *, deep: bool) -> None:
    """Every kept object has its bytes, whole; every file has a row."""
    store = storage.objects()
    expected: set[str] = set()
    waiting = {path.name.split(".")[0]: path for path in archive.acknowledged()}
    for instance in Instance.objects.kept().order_by("pk").iterator(chunk_size=2000):
        expected.add(instance.location)
        _file(found, instance, _waiting_size(waiting, instance), deep=deep)
    strangers = [key for key in store.keys() if key not in expected]  # noqa: SIM118 - not a dict
    known = set(
        Instance.objects.kept()
        .filter(file_id__in=[_file_id(key) for key in strangers])
        .values_list("file_id", flat=True)
    )
    for key in strangers:
        if _file_id(key) not in known:
            found.gap("files", f"{key} has no row")
    found.counts["files"] = len(expected)


def _file_id(key: str) -> str:
    return key.rsplit("/", 1)[-1].removesuffix(".dcm")


def _waiting_size(waiting: dict[str, Path], instance: Instance) -> int | None:
    path = waiting.get(instance.file_id)
    try:
        return path.stat().st_size if path else None
    except FileNotFoundError:
        return None


def _file(found: Reckoning, instance: Instance, inbox: int | None, *, deep: bool) -> None:
    try:
        size = storage.objects().size(instance.location)
    except FileNotFoundError:
        if inbox is None:
            found.gap("files", f"instance {instance.sop_instance_uid} has no file")
            return
        size = inbox
    if size != instance.offset + instance.size:
        found.gap("files", f"instance {instance.sop_instance_uid} has {size} bytes on storage")
    elif deep and digest(instance) != instance.sha256:
        found.gap("hashes", f"instance {instance.sop_instance_uid} has changed on storage")


def digest(instance: Instance) -> str:
    """Return the SHA-256 of a stored object's data set."""
    found = hashlib.sha256()
    with archive.opened(instance) as file:
        file.seek(instance.offset)
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _decisions(found: Reckoning) -> None:
    """Every object that may be routed has a mark, and no mark waits for long."""
    routed = Instance.objects.filter(state__in=[InstanceState.CURRENT, InstanceState.VERSION])
    for uid in routed.filter(mark=None).values_list("sop_instance_uid", flat=True)[:100]:
        found.gap("decisions", f"instance {uid} was never marked for routing")
    late = RoutingMark.objects.undecided().older_than(clock.now() - UNDECIDED_AFTER).count()
    if late:
        found.gap("decisions", f"{late} instances wait for a decision for more than 60 s")
    found.counts["undecided"] = RoutingMark.objects.undecided().count()


def _pairs(found: Reckoning) -> None:
    """Balance of pairs: what decisions chose is what items there are."""
    sums = Decision.objects.aggregate(
        chosen=Coalesce(Sum("chosen_count"), 0), joined=Coalesce(Sum("joined_count"), 0)
    )
    by_state = dict(
        JobItem.objects.exclude(decision=None).values_list("state").annotate(number=Count("pk"))
    )
    found.counts |= {f"items {state.value}": by_state.get(state, 0) for state in ItemState}
    found.counts["pairs chosen"] = sums["chosen"] - sums["joined"]
    if sum(by_state.values()) == found.counts["pairs chosen"]:
        return
    items = JobItem.objects.filter(decision=OuterRef("pk")).order_by().values("decision")
    counted = Subquery(items.annotate(n=Count("pk")).values("n"), output_field=IntegerField())
    wrong = Decision.objects.annotate(items_count=Coalesce(counted, 0)).exclude(
        items_count=F("chosen_count") - F("joined_count")
    )
    for row in wrong[:100]:
        found.gap("pairs", f"decision {row.pk} chose {row.chosen_count}, {row.items_count} items")


def _attempts(found: Reckoning) -> None:
    """What is called delivered has an attempt that says so; no attempt hangs in the air."""
    said = Attempt.objects.filter(outcome__in=[AttemptOutcome.SUCCESS, AttemptOutcome.WARNING])
    unproven = JobItem.objects.filter(state__in=DONE_STATES).exclude(pk__in=said.values("item"))
    for pk in unproven.values_list("pk", flat=True)[:100]:
        found.gap("attempts", f"item {pk} is delivered and no attempt says so")
    hanging = Attempt.objects.filter(outcome=AttemptOutcome.RUNNING)
    hanging = hanging.exclude(item__state=ItemState.LEASED)
    for pk in hanging.values_list("pk", flat=True)[:100]:
        found.gap("attempts", f"attempt {pk} never ended")


def _studies(found: Reckoning) -> None:
    """The counts that studies carry are the counts of their rows."""
    for uid, said, counted in _recounted_studies():
        found.gap("studies", f"study {uid} says {said} instances, {counted} stand")


def _recounted_studies() -> Iterator[tuple[str, int, int]]:
    current = Instance.objects.current().filter(study=OuterRef("pk")).order_by().values("study")
    counted = Subquery(current.annotate(n=Count("pk")).values("n"), output_field=IntegerField())
    rows = Study.objects.annotate(counted=Coalesce(counted, 0))
    wrong = rows.exclude(counted=F("instances_count"))
    yield from wrong.values_list("study_instance_uid", "instances_count", "counted").iterator()
