"""Deliver what is due: claim with a lease, write the attempts, send, finish or retry or park.

One drain works for one slot of one destination: it takes no new item after 20 s and returns; the
item in flight ends under its own deadlines. Every write after the claim says "where the lease is
mine", so a late worker changes nothing. What the peer's answer means is decided by the outcome
table of ``router.destinations``; what becomes of the item is decided here.
"""

import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Case, CharField, F, Value, When

from router import doorbell
from router.destinations import KINDS
from router.destinations.base import Context, Outgoing, Result, Sender
from router.destinations.outcomes import Outcome
from router.models import (
    Attempt,
    AttemptOutcome,
    CounterKind,
    Destination,
    InstanceState,
    ItemState,
    JobItem,
    Lane,
    LaneSlot,
    LaneState,
    ProofGrade,
)
from router.services import archive, clock
from router.services.counters import Tally

log = logging.getLogger(__name__)

CLAIM = 100
DRAIN_SECONDS = 20.0
LINGER_SECONDS = 0.5
LEASE = timedelta(seconds=30)
RENEW_SECONDS = 5.0
FLUSH_RESULTS = 25
FLUSH_SECONDS = 0.5
FEW_TRIES = 3
MOST_LOST = 5
RETRY_DELAYS = (30, 60, 300, 900, 1800)

_ATTEMPTS = {
    Outcome.DELIVERED: AttemptOutcome.SUCCESS,
    Outcome.WARNING: AttemptOutcome.WARNING,
    Outcome.DATA_ERROR: AttemptOutcome.REFUSED,
    Outcome.FEW_TRIES: AttemptOutcome.REFUSED,
    Outcome.CONFIGURATION: AttemptOutcome.REFUSED,
    Outcome.UNKNOWN: AttemptOutcome.UNKNOWN,
    Outcome.NOT_SENT: AttemptOutcome.NOT_SENT,
}
_DONE = {
    Outcome.DELIVERED: ItemState.DELIVERED,
    Outcome.WARNING: ItemState.DELIVERED_WITH_WARNING,
}


class LeaseLost(Exception):
    """Our lease ran out and somebody else may be sending; sending must end at once."""


def retry_delay(tries: int, delays: Sequence[int] = RETRY_DELAYS) -> timedelta:
    """Return the pause after ``tries`` failures: the table, its last entry for ever, ±10 %."""
    seconds = delays[min(max(tries, 1), len(delays)) - 1]
    return timedelta(seconds=seconds * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, no secret


@dataclass
class Claim:
    """The items one drain holds, with their open attempts."""

    owner: str
    slot: LaneSlot
    destination: Destination
    items: dict[int, JobItem]
    attempts: dict[int, Attempt] = field(default_factory=dict)
    renewed: float = field(default_factory=time.monotonic)

    def progress(self, _moved: int) -> None:
        """Renew the lease as bytes move. Raises LeaseLost when it is not ours any more."""
        if time.monotonic() - self.renewed < RENEW_SECONDS:
            return
        self.renewed = time.monotonic()
        until = clock.now() + LEASE
        mine = JobItem.objects.filter(pk__in=self.items).leased_by(self.owner)
        held = LaneSlot.objects.filter(pk=self.slot.pk, owner=self.slot.owner)
        if not mine.update(lease_until=until) or not held.update(lease_until=until):
            raise LeaseLost(self.destination.name)


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
    if row is None or row.version is None or slot_number >= slots(row):
        return 0
    slot = _take_slot(row, slot_number)
    if slot is None:
        return 0
    try:
        return _drain(row, slot, stop)
    finally:
        LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner).update(owner="", lease_until=None)


def slots(destination: Destination) -> int:
    """Return how many associations may run at once: its own limit, half of the workers at most."""
    assert destination.version is not None  # noqa: S101 - callers have checked
    wanted = destination.version.settings.get("associations", 1)
    return max(1, min(int(wanted), settings.WORKERS // 2))


def _take_slot(destination: Destination, number: int) -> LaneSlot | None:
    slot, _is_new = LaneSlot.objects.get_or_create(destination=destination, number=number)
    now = clock.now()
    owner = f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
    free = LaneSlot.objects.filter(pk=slot.pk)
    free = free.filter(owner="") | free.filter(lease_until__lt=now)
    if not free.update(owner=owner, lease_until=now + LEASE):
        return None
    slot.owner = owner
    return slot


def _drain(destination: Destination, slot: LaneSlot, stop: Callable[[], bool]) -> int:
    count = 0
    started = idle_since = time.monotonic()
    while not stop() and time.monotonic() - started < DRAIN_SECONDS:
        claim = _claim(destination, slot)
        if claim is None:
            if not _may_run(destination) or time.monotonic() - idle_since > LINGER_SECONDS:
                return count
            time.sleep(0.05)
            continue
        _ring_next(destination, slot)
        count += _deliver(claim, stop)
        idle_since = time.monotonic()
    doorbell.ring("deliver", destination.pk, slot.number)
    return count


def _ring_next(destination: Destination, slot: LaneSlot) -> None:
    """Have the next slot help while a backlog stands."""
    if slot.number + 1 < slots(destination):
        waiting = JobItem.objects.filter(destination=destination).due(clock.now())
        if waiting.exists():
            doorbell.ring("deliver", destination.pk, slot.number + 1)


def _may_run(destination: Destination) -> bool:
    lane = Lane.objects.filter(destination=destination).first()
    if lane is None or lane.state == LaneState.OPEN:
        return True
    return (
        lane.state == LaneState.BACKOFF
        and lane.resume_at is not None
        and (lane.resume_at <= clock.now())
    )


def _claim(destination: Destination, slot: LaneSlot) -> Claim | None:
    """Claim the oldest due items; after a failure or a lost worker only one, as a probe."""
    fresh = Destination.objects.active().select_related("version").filter(pk=destination.pk).first()
    if fresh is None or not _may_run(fresh):
        return None
    now = clock.now()
    due = JobItem.objects.filter(destination=fresh).due(now).oldest_first()
    first = due.values_list("pk", "lost").first()
    if first is None:
        return None
    limit = 1 if first[1] or fresh.lane.failures else CLAIM
    due = due if first[1] else due.filter(lost=0)
    ids = list(due.values_list("pk", flat=True)[:limit])
    owner = uuid.uuid4().hex
    JobItem.objects.filter(pk__in=ids).lease(now=now, until=now + LEASE, owner=owner)
    LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner).update(lease_until=now + LEASE)
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
    outgoing = [_outgoing(item) for item in claim.items.values()]
    sender = KINDS[claim.destination.kind].sender(version.settings)
    first_use = claim.destination.lane.verified_endpoint != version.endpoint
    context = Context(progress=claim.progress, stop=stop, echo_first=first_use)
    return _gather(claim, sender, outgoing, context)


def _gather(claim: Claim, sender: Sender, outgoing: Sequence[Outgoing], context: Context) -> int:
    """Write results in small groups, as they come."""
    count, results, flushed = 0, [], time.monotonic()
    try:
        for result in sender.send(outgoing, context):
            results.append(result)
            late = time.monotonic() - flushed > FLUSH_SECONDS
            if len(results) >= FLUSH_RESULTS or late:
                count += finish(claim, results)
                results, flushed = [], time.monotonic()
    except LeaseLost:
        log.warning("delivery.lease_lost", extra={"destination": claim.destination.name})
    finally:
        if results:
            count += finish(claim, results)
    return count


def _refuse_changed(claim: Claim) -> None:
    """Hold what was decided for another address; park what is not the object any more (R20)."""
    for item in list(claim.items.values()):
        state, reason = _objection(item, claim.destination)
        if state is None:
            continue
        mine = JobItem.objects.filter(pk=item.pk).leased_by(claim.owner)
        mine.update(state=state, reason=reason, owner="", lease_until=None)
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
        archive.opened(item.instance).close()
    except OSError:
        return ItemState.PARKED, "The stored object is missing; run verify_ledger."
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


# --- results -------------------------------------------------------------------------------------
@transaction.atomic
def finish(claim: Claim, results: Sequence[Result]) -> int:
    """Write a group of results, where the lease is still ours.

    Returns:
        How many items changed; the rest had been taken from us.
    """
    done = [result for result in results if result.outcome in _DONE]
    failed = [result for result in results if result.outcome not in _DONE]
    count = _finish_delivered(claim, done)
    count += sum(_finish_failed(claim, result) for result in failed)
    _end_attempts(claim, results)
    _update_lane(claim.destination, results, delivered=bool(done))
    return count


def _finish_delivered(claim: Claim, results: Sequence[Result]) -> int:
    now, count, tally = clock.now(), 0, Tally()
    for outcome, state in _DONE.items():
        group = [result for result in results if result.outcome == outcome]
        if not group:
            continue
        mine = JobItem.objects.filter(pk__in=[r.item_id for r in group]).leased_by(claim.owner)
        ids = set(mine.values_list("pk", flat=True))
        for result in group:
            if result.item_id in ids:
                _count(tally, claim, result, CounterKind.DELIVERED, now)
        count += mine.update(
            state=state,
            proof=ProofGrade.ACCEPTED,
            finished_at=now,
            owner="",
            lease_until=None,
            due_at=None,
            status=group[0].status,
            reason=_by_item(group, lambda r: " ".join(r.warnings) or _remark(r)),
            egress_sha256=_by_item(group, lambda r: r.egress_sha256 or ""),
        )
    tally.write()
    return count


def _remark(result: Result) -> str:
    return result.detail if result.outcome == Outcome.WARNING else ""


def _by_item(results: Sequence[Result], text: Callable[[Result], str]) -> Case:
    whens = [When(pk=result.item_id, then=Value(text(result)[:500])) for result in results]
    return Case(*whens, default=Value(""), output_field=CharField())


def _count(tally: Tally, claim: Claim, result: Result, kind: CounterKind, now: datetime) -> None:
    item = claim.items[result.item_id]
    tally.add(
        now,
        kind,
        size=item.size,
        modality=item.instance.series.modality,
        source=item.instance.study.source,
        destination=claim.destination.name,
    )


def _finish_failed(claim: Claim, result: Result) -> int:
    item = claim.items[result.item_id]
    now, tally = clock.now(), Tally()
    change: dict[str, object] = {
        "owner": "",
        "lease_until": None,
        "status": result.status,
        "reason": result.detail[:500],
    }
    if result.outcome == Outcome.NOT_SENT:
        change |= {"state": ItemState.PENDING, "reason": item.reason, "status": item.status}
    elif _parks(item, result):
        change |= {"state": ItemState.PARKED, "tries": F("tries") + 1, "due_at": None}
        _count(tally, claim, result, CounterKind.PARKED, now)
    elif result.lane == "configuration":
        change |= {"state": ItemState.PENDING, "tries": F("tries") + 1}
    else:
        delay = retry_delay(item.tries + 1, _delays(claim.destination))
        change |= {"state": ItemState.WAITING, "tries": F("tries") + 1, "due_at": now + delay}
    changed = JobItem.objects.filter(pk=item.pk).leased_by(claim.owner).update(**change)
    if changed:
        tally.write()
    return changed


def _parks(item: JobItem, result: Result) -> bool:
    if result.outcome == Outcome.DATA_ERROR:
        return True
    if result.outcome == Outcome.CONFIGURATION:
        return result.lane is None
    return result.outcome == Outcome.FEW_TRIES and item.tries + 1 >= FEW_TRIES


def _delays(destination: Destination) -> Sequence[int]:
    assert destination.version is not None  # noqa: S101 - drain() has checked
    delays = destination.version.settings.get("retry") or RETRY_DELAYS
    return [int(seconds) for seconds in delays]


def _end_attempts(claim: Claim, results: Sequence[Result]) -> None:
    now = clock.now()
    for result in results:
        attempt = claim.attempts[result.item_id]
        Attempt.objects.filter(pk=attempt.pk, outcome=AttemptOutcome.RUNNING).update(
            ended_at=now,
            outcome=_attempt_outcome(result),
            status=result.status,
            detail=result.detail[:500],
            bytes_sent=result.bytes_sent,
        )


def _attempt_outcome(result: Result) -> AttemptOutcome:
    if result.outcome == Outcome.RETRY:
        return AttemptOutcome.TRANSPORT if result.status is None else AttemptOutcome.REFUSED
    return _ATTEMPTS[result.outcome]


# --- the lane ------------------------------------------------------------------------------------
def _update_lane(destination: Destination, results: Sequence[Result], *, delivered: bool) -> None:
    """Back off or stop the lane of a destination that failed as a whole; open it on success."""
    lane = Lane.objects.filter(destination=destination)
    failed = next((result for result in results if result.lane is not None), None)
    now = clock.now()
    if failed is not None:
        _fail_lane(destination, failed, now)
    elif delivered:
        recovered = lane.exclude(failures=0, state=LaneState.OPEN)
        recovered = recovered.filter(state__in=[LaneState.OPEN, LaneState.BACKOFF])
        if recovered.update(state=LaneState.OPEN, failures=0, resume_at=None, reason=""):
            _wake_waiting(destination, now)
        assert destination.version is not None  # noqa: S101 - drain() has checked
        lane.update(last_success_at=now, verified_endpoint=destination.version.endpoint)


def _fail_lane(destination: Destination, failed: Result, now: datetime) -> None:
    lane = Lane.objects.filter(destination=destination)
    change: dict[str, object] = {"reason": failed.detail[:500], "last_failure_at": now}
    if failed.lane == "configuration":
        change |= {"state": LaneState.STOPPED, "resume_at": None}
    else:
        failures = destination.lane.failures + 1
        resume = now + retry_delay(failures, _delays(destination))
        change |= {"state": LaneState.BACKOFF, "failures": failures, "resume_at": resume}
    if lane.exclude(state__in=[LaneState.PAUSED, LaneState.STOPPED]).update(**change):
        log.warning("lane.failed", extra={"destination": destination.name, "detail": failed.detail})


def _wake_waiting(destination: Destination, now: datetime) -> None:
    """After the first good answer everything that waits for this destination is due at once."""
    waiting = JobItem.objects.filter(destination=destination, state=ItemState.WAITING)
    waiting.filter(due_at__gt=now).update(due_at=now)


# --- what workers left ---------------------------------------------------------------------------
def recover_lost(limit: int = 500) -> int:
    """Take back items whose lease ran out: the worker was lost, and that counts as an attempt.

    An item that outlived ``MOST_LOST`` workers is parked, so it cannot stop the others.

    Returns:
        How many items were taken back.
    """
    now = clock.now()
    expired = list(JobItem.objects.expired(now).order_by("lease_until")[:limit])
    return sum(_take_back(item, now) for item in expired)


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
    return changed


def due_destinations() -> Iterator[int]:
    """Yield the destinations that have due items and a lane that may run."""
    now = clock.now()
    for destination in Destination.objects.active().select_related("lane"):
        items = JobItem.objects.filter(destination=destination).due(now)
        if items.exists() and _may_run(destination):
            yield destination.pk
