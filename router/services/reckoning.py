"""The reckoning: recount the ledger from files, rows and attempts, and name every gap.

Objects: acknowledged = inbox + current + versions + quarantined + identical duplicates + purged.
Pairs: chosen by decisions = items, in whatever state; meant by replays = their pairs, and released
= their items. Proofs: what is called proven was said to be. Hours: what was counted = receipts and
attempts. Refuses to repair: it only finds.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from django.db import connection, transaction
from django.db.models import (
    Aggregate,
    BigIntegerField,
    Count,
    Exists,
    F,
    IntegerField,
    OuterRef,
    Q,
    Subquery,
    Sum,
)
from django.db.models.functions import Coalesce
from django.db.models.lookups import Exact

from router.models import (
    DONE_STATES,
    Attempt,
    AttemptOutcome,
    AuditOutcome,
    Cause,
    Decision,
    Instance,
    InstanceState,
    ItemState,
    JobItem,
    LaneState,
    LedgerCheck,
    PairState,
    QuietTimer,
    Receipt,
    ReceiptOutcome,
    Replay,
    ReplayPair,
    ReplayState,
    RoutingMark,
    Series,
    Study,
)
from router.models.studies import InstanceQuerySet
from router.services import (
    archive,
    audit,
    clock,
    failover,
    proof_check,
    proofs,
    recount,
    replay_release,
    stocktaking,
    whole_studies,
)
from router.services.actors import SYSTEM

NIGHT = 2
MOST_KEPT = 200
IDS = 5000
UNDECIDED_AFTER = timedelta(seconds=60)
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
    in_time = Q(destination__lane__drain_to=None) | Q(pk__lte=F("destination__lane__drain_to"))
    due = due.filter(in_time, destination__removed=False)
    counts = {
        "objects in the inbox": len(archive.acknowledged()),
        "undecided marks": RoutingMark.objects.undecided().count(),
        "quiet timers due": QuietTimer.objects.filter(fired_at=None, due_at__lte=now).count(),
        "due items": due.count(),
        "items being sent": JobItem.objects.filter(state=ItemState.LEASED).count(),
        "studies to be moved": failover.movable(),
        "replays under way": replay_release.unfinished(),
        **proofs.unfinished(),
    }
    return {kind: count for kind, count in counts.items() if count}


def reckon(*, deep: bool = False) -> Reckoning:
    """Recount everything.

    Args:
        deep: also hash every stored object and compare with its receipt.
    """
    found = Reckoning()
    waiting = [path.name.split(".")[0] for path in archive.acknowledged()]
    with _one_moment():
        _objects(found, waiting)
        _decisions(found)
        _pairs(found)
        _groups(found)
        _replays(found)
        _attempts(found)
        _proofs(found)
        _studies(found)
        _hours(found)
    _files(found, deep=deep)
    return found


@contextmanager
def _one_moment() -> Iterator[None]:
    """See the database as it was at one moment, while the product goes on working.

    A caller's own transaction is left as it is.
    """
    if connection.in_atomic_block:
        yield
        return
    if connection.vendor == "sqlite":  # Django would begin by taking the lock of writers
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _objects(found: Reckoning, waiting: Sequence[str]) -> None:
    """Balance of objects: every acknowledged store is somewhere."""
    receipts = Receipt.objects.exclude(outcome=ReceiptOutcome.REFUSED)
    by_state = dict(Instance.objects.values_list("state").annotate(number=Count("pk")))
    duplicates = receipts.filter(outcome=ReceiptOutcome.DUPLICATE).count()
    inbox = len(waiting) - sum(
        Receipt.objects.filter(uid__in=waiting[at : at + IDS]).count()
        for at in range(0, len(waiting), IDS)
    )
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
    row = Instance.objects.filter(file_id=OuterRef("uid"))
    lost = receipts.filter(~Exists(row), outcome__in=STORED)
    for uid in lost.values_list("uid", flat=True)[:100]:
        found.gap("objects", f"receipt {uid} was stored and has no object row")
    nobodys = Instance.objects.filter(~Exists(receipts.filter(uid=OuterRef("file_id"))))
    for uid in nobodys.values_list("sop_instance_uid", flat=True)[:100]:
        found.gap("objects", f"instance {uid} has no receipt")


def _files(found: Reckoning, *, deep: bool) -> None:
    """Every kept object has its bytes, whole; every file has a row."""
    for what in stocktaking.take(deep=deep):
        if isinstance(what, int):
            found.counts["files"] = what
        else:
            found.gap(*what)


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
    items = JobItem.objects.filter(decision=OuterRef("pk")).order_by().values("decision")
    counted = Subquery(items.annotate(n=Count("pk")).values("n"), output_field=IntegerField())
    wrong = Decision.objects.annotate(items_count=Coalesce(counted, 0)).exclude(
        items_count=F("chosen_count") - F("joined_count")
    )
    for row in wrong[:100]:
        found.gap("pairs", f"decision {row.pk} chose {row.chosen_count}, {row.items_count} items")


def _replays(found: Reckoning) -> None:
    """What a replay was to send is what its pairs are; what it released has its items."""
    meant = (PairState.PLANNED, PairState.RELEASED, PairState.ENDED, PairState.DROPPED)
    pairs = ReplayPair.objects.filter(replay=OuterRef("pk"), state__in=meant).order_by()
    number = pairs.values("replay").annotate(n=Count("pk")).values("n")
    counted = Coalesce(Subquery(number, output_field=IntegerField()), 0)
    planned = Replay.objects.exclude(planned_at=None).exclude(state=ReplayState.DISCARDED)
    wrong = planned.exclude(Exact(counted, F("objects_count")))
    for pk, said, stand in wrong.values_list("pk", "objects_count", counted)[:100]:
        found.gap("replays", f"replay {pk} says {said} objects, {stand} pairs stand")
    sent = ReplayPair.objects.filter(state__in=[PairState.RELEASED, PairState.ENDED])
    for pk in sent.filter(item=None).values_list("pk", flat=True)[:100]:
        found.gap("replays", f"pair {pk} was released and has no item")
    items = JobItem.objects.filter(cause=Cause.REPLAY)
    for pk in items.filter(replay_pair=None).values_list("pk", flat=True)[:100]:
        found.gap("replays", f"item {pk} is of a replay and none of its pairs")
    found.counts["pairs replayed"] = items.count()


def _groups(found: Reckoning) -> None:
    """No study of a group is split between its members."""
    for gap in whole_studies.gaps():
        found.gap("groups", gap)


def _attempts(found: Reckoning) -> None:
    """What is called delivered has an attempt that says so; no attempt hangs in the air."""
    said = Attempt.objects.filter(
        item=OuterRef("pk"), outcome__in=[AttemptOutcome.SUCCESS, AttemptOutcome.WARNING]
    )
    unsaid = JobItem.objects.filter(~Exists(said), state__in=DONE_STATES)
    for pk in unsaid.values_list("pk", flat=True)[:100]:
        found.gap("attempts", f"item {pk} is delivered and no attempt says so")
    hanging = Attempt.objects.filter(outcome=AttemptOutcome.RUNNING)
    hanging = hanging.exclude(item__state=ItemState.LEASED)
    for pk in hanging.values_list("pk", flat=True)[:100]:
        found.gap("attempts", f"attempt {pk} never ended")


def _proofs(found: Reckoning) -> None:
    """What is called proven was said to be, and nothing is forgotten."""
    found.counts |= proof_check.counts()
    for gap in proof_check.gaps():
        found.gap("proofs", gap)


def _studies(found: Reckoning) -> None:
    """The counts that studies carry are the counts of their rows."""
    current, quarantined = Instance.objects.current(), Instance.objects.quarantined()
    for rows, total, kind, column in (
        (current, Count("pk"), Study, "instances_count"),
        (current, Sum("size"), Study, "bytes"),
        (quarantined, Count("pk"), Study, "quarantined_count"),
        (current, Count("pk"), Series, "instances_count"),
    ):
        for uid, said, counted in _recounted(rows, total, kind=kind, column=column):
            name = kind._meta.model_name
            found.gap("studies", f"{name} {uid} says {said} for {column}, {counted} stand")


def _recounted(
    instances: InstanceQuerySet, total: Aggregate, *, kind: type[Study | Series], column: str
) -> Iterator[tuple[str, int, int]]:
    parent = str(kind._meta.model_name)
    mine = instances.filter(**{parent: OuterRef("pk")}).order_by().values(parent)
    counted = Subquery(mine.annotate(n=total).values("n"), output_field=BigIntegerField())
    rows = kind._default_manager.annotate(counted=Coalesce(counted, 0))
    wrong = rows.exclude(Exact(F("counted"), F(column)))
    yield from wrong.values_list(f"{parent}_instance_uid", column, "counted")[:100]


def _hours(found: Reckoning) -> None:
    """The counts by hour are those of receipts and attempts."""
    for difference in islice(recount.differences(), 100):
        found.gap("counts", difference)


def reckon_and_keep() -> LedgerCheck:
    """Recount everything and keep the result as a row, for the dashboard and the metrics."""
    started = time.monotonic()
    found = reckon()
    check = LedgerCheck.objects.create(
        at=clock.now(),
        seconds=time.monotonic() - started,
        gaps_count=len(found.gaps),
        gaps=[f"{kind}: {what}" for kind, what in found.gaps[:MOST_KEPT]],
        counts=found.counts,
    )
    if found.gaps:
        audit.record(
            "ledger.gaps",
            actor=SYSTEM,
            code="security",
            outcome=AuditOutcome.SERIOUS_FAILURE,
            details={"count": len(found.gaps)},
        )
    return check


def is_check_due() -> bool:
    """Tell whether the nightly reckoning is to run: at 2 o'clock, or when 26 hours have passed."""
    now = clock.now()
    last = LedgerCheck.objects.order_by("-at").values_list("at", flat=True).first()
    if last is None:
        return Receipt.objects.filter(received_at__lt=now - timedelta(hours=1)).exists()
    age = now - last
    return age > timedelta(hours=26) or (now.hour == NIGHT and age > timedelta(hours=2))
