"""Deliver what is due: claim with a lease, write the attempts, send, finish or retry or park.

One drain works for one slot of one destination: it takes no new item after 20 s and returns; the
item in flight ends under its own deadlines. Every write after the claim says "where the lease is
mine", so a late worker changes nothing. What becomes of an item is decided in ``results``.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import F

from router import crashpoints, doorbell
from router.destinations import KINDS
from router.destinations.base import Context, Outgoing, Result, Sender
from router.models import (
    Attempt,
    AttemptOutcome,
    Destination,
    InstanceState,
    ItemState,
    JobItem,
    LaneSlot,
)
from router.services import archive, clock, lanes, liveness, results
from router.services.results import Claim, LeaseLost, lease

log = logging.getLogger(__name__)

CLAIM = 100
DRAIN_SECONDS = 20.0
LINGER_SECONDS = 0.5
FLUSH_RESULTS = 25
FLUSH_SECONDS = 0.5
MOST_LOST = 5


def drain(destination_id: int, slot_number: int, *, stop: Callable[[], bool]) -> int:
    """Deliver what is due to one destination until nothing is left, for at most 20 s.

    Args:
        destination_id: row id.
        slot_number: which of the destination's parallel associations, from 0.
        stop: asked between items and PDUs; true ends the drain.

    Returns:
        How many items got an answer.
    """
    destination = Destination.objects.active().select_related("version", "lane")
    row = destination.filter(pk=destination_id).first()
    if row is None or row.version is None or slot_number >= lanes.slots(row):
        return 0
    slot = _take_slot(row, slot_number)
    if slot is None:
        return 0
    try:
        return _drain(row, slot, stop)
    finally:
        LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner).update(owner="", lease_until=None)


def _take_slot(destination: Destination, number: int) -> LaneSlot | None:
    slot, _is_new = LaneSlot.objects.get_or_create(destination=destination, number=number)
    now = clock.now()
    owner = liveness.new_name()
    free = LaneSlot.objects.filter(pk=slot.pk)
    free = free.filter(owner="") | free.filter(lease_until__lt=now)
    if not free.update(owner=owner, lease_until=now + lease(destination)):
        return None
    slot.owner = owner
    return slot


def _drain(destination: Destination, slot: LaneSlot, stop: Callable[[], bool]) -> int:
    count = 0
    started = idle_since = time.monotonic()
    while not stop() and time.monotonic() - started < DRAIN_SECONDS:
        claim = _claim(destination, slot)
        if claim is None:
            if not lanes.may_run(destination) or time.monotonic() - idle_since > LINGER_SECONDS:
                return count
            time.sleep(0.05)
            continue
        _ring_next(destination, slot)
        crashpoints.reach("deliver.after_claim")
        count += _deliver(claim, stop)
        idle_since = time.monotonic()
    doorbell.ring("deliver", destination.pk, slot.number)
    return count


def _ring_next(destination: Destination, slot: LaneSlot) -> None:
    """Have the next slot help while a backlog stands."""
    if slot.number + 1 < lanes.slots(destination):
        waiting = JobItem.objects.filter(destination=destination).due(clock.now())
        if waiting.exists():
            doorbell.ring("deliver", destination.pk, slot.number + 1)


def _claim(destination: Destination, slot: LaneSlot) -> Claim | None:
    """Claim the oldest due items; after a failure or a lost worker only one, as a probe."""
    fresh = Destination.objects.active().select_related("version").filter(pk=destination.pk).first()
    if fresh is None or not lanes.may_run(fresh):
        return None
    now = clock.now()
    due = JobItem.objects.filter(destination=fresh).due(now).oldest_first()
    first = due.values_list("pk", "lost").first()
    if first is None:
        return None
    limit = 1 if first[1] or fresh.lane.failures else CLAIM
    due = due if first[1] else due.filter(lost=0)
    ids = list(due.values_list("pk", flat=True)[:limit])
    owner, until = liveness.new_name(), now + lease(fresh)
    if not LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner).update(lease_until=until):
        return None  # we were held up for so long that the slot is another's now
    JobItem.objects.filter(pk__in=ids).lease(now=now, until=until, owner=owner)
    mine = JobItem.objects.filter(pk__in=ids).leased_by(owner).oldest_first()
    rows = mine.select_related("instance__study", "instance__series", "decision", "job")
    items = {item.pk: item for item in rows}
    return Claim(owner, slot, fresh, items) if items else None


# --- sending -------------------------------------------------------------------------------------
def _deliver(claim: Claim, stop: Callable[[], bool]) -> int:
    """Send the items of a claim and write what became of each."""
    version = claim.destination.version
    assert version is not None  # noqa: S101 - drain() has checked
    _refuse_changed(claim)
    if not claim.items:
        return 0
    _begin_attempts(claim)
    crashpoints.reach("deliver.after_attempts")
    outgoing = [_outgoing(item) for item in claim.items.values()]
    sender = KINDS[claim.destination.kind].sender(version.settings)
    first_use = claim.destination.lane.verified_endpoint != version.endpoint
    context = Context(
        progress=claim.progress, stop=stop, abort=claim.must_end, echo_first=first_use
    )
    crashpoints.reach("deliver.before_send")
    return _gather(claim, sender, outgoing, context)


def _gather(claim: Claim, sender: Sender, outgoing: Sequence[Outgoing], context: Context) -> int:
    """Write results in small groups, as they come."""
    count, known, flushed = 0, list[Result](), time.monotonic()
    try:
        for result in sender.send(outgoing, context):
            known.append(result)
            crashpoints.reach("deliver.after_send")
            late = time.monotonic() - flushed > FLUSH_SECONDS
            if len(known) >= FLUSH_RESULTS or late:
                count += results.finish(claim, known)
                crashpoints.reach("deliver.after_commit")
                known, flushed = [], time.monotonic()
    except LeaseLost:
        log.warning("delivery.lease_lost", extra={"destination": claim.destination.name})
    finally:
        if known:
            count += results.finish(claim, known)
            crashpoints.reach("deliver.after_commit")
    return count


def _refuse_changed(claim: Claim) -> None:
    """Hold what was decided for another address; park what is not the object any more (R20)."""
    for item in list(claim.items.values()):
        state, reason = _objection(item, claim.destination)
        if state is not None:
            _take_out(claim, item, state=state, reason=reason)


@transaction.atomic
def _take_out(claim: Claim, item: JobItem, *, state: ItemState, reason: str) -> None:
    mine = JobItem.objects.filter(pk=item.pk).leased_by(claim.owner)
    changed = mine.update(state=state, reason=reason, owner="", lease_until=None)
    if changed and state == ItemState.PARKED:
        results.count_parked(item, claim.destination)
    del claim.items[item.pk]


def _objection(item: JobItem, destination: Destination) -> tuple[ItemState | None, str]:
    if item.endpoint != destination.endpoint:
        return ItemState.HELD, (
            f"The address of {destination.name} has changed since this was decided; release to "
            "send it there."
        )
    if item.instance.state not in {InstanceState.CURRENT, InstanceState.VERSION}:
        return ItemState.PARKED, "The object is not current any more; it was not sent."
    try:
        size = archive.stored_size(item.instance)
    except FileNotFoundError:
        return ItemState.PARKED, "The stored object is missing; run verify_ledger."
    if size != item.instance.offset + item.instance.size:
        return ItemState.PARKED, "The stored object has another length; run verify_ledger."
    return None, ""


def _outgoing(item: JobItem) -> Outgoing:
    instance = item.instance
    return Outgoing(
        item_id=item.pk,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax=instance.transfer_syntax_uid,
        sha256=instance.sha256,
        size=instance.size,
        offset=instance.offset,
        open=lambda: archive.opened(instance),
        header=lambda: archive.header_of(instance),
        received_at=instance.received_at,
        source=instance.study.source,
    )


def _begin_attempts(claim: Claim) -> None:
    """Write the attempts before the network is touched (R15)."""
    now = clock.now()
    rows = Attempt.objects.bulk_create(
        [
            Attempt(item=item, fence=item.fence, version=claim.destination.version, started_at=now)
            for item in claim.items.values()
        ]
    )
    claim.attempts = {row.item_id: row for row in rows}


# --- what workers left ---------------------------------------------------------------------------
def recover_lost(limit: int = 500) -> int:
    """Take back items whose lease ran out: the worker was lost, and that counts as an attempt.

    An item that outlived ``MOST_LOST`` workers is parked, so it cannot stop the others.

    Returns:
        How many items were taken back.
    """
    now = clock.now()
    _end_leases_of_dead_workers(now)
    expired = list(JobItem.objects.expired(now).order_by("lease_until")[:limit])
    return sum(_take_back(item, now) for item in expired)


def _end_leases_of_dead_workers(now: datetime) -> None:
    leased = JobItem.objects.filter(state=ItemState.LEASED).order_by()
    slots = LaneSlot.objects.exclude(owner="")
    names = {*leased.values_list("owner", flat=True).distinct()}
    names |= {*slots.values_list("owner", flat=True)}
    for token in liveness.dead(names):
        log.warning("delivery.worker_lost", extra={"worker": token})
        JobItem.objects.all().abandon(token, now=now)
        LaneSlot.objects.filter(owner__startswith=token).update(owner="", lease_until=None)


@transaction.atomic
def _take_back(item: JobItem, now: datetime) -> int:
    parked = item.lost + 1 >= MOST_LOST
    changed = (
        JobItem.objects.filter(pk=item.pk, fence=item.fence)
        .expired(now)
        .update(
            state=ItemState.PARKED if parked else ItemState.PENDING,
            lost=F("lost") + 1,
            owner="",
            lease_until=None,
            reason=f"{item.lost + 1} workers were lost while sending this." if parked else "",
        )
    )
    if changed:
        Attempt.objects.filter(item=item, fence=item.fence, outcome=AttemptOutcome.RUNNING).update(
            ended_at=now, outcome=AttemptOutcome.WORKER_LOST, detail="The worker was lost."
        )
    if changed and parked:
        results.count_parked(item, item.destination)
    return changed
