"""Deliver what is due: claim with a lease, send, write what became of it; take back what was lost.

One drain works for one slot of one destination: it begins no item after 20 s and returns; the one
in flight ends under its own deadlines. Every write after the claim says "where the lease is
mine", so a late worker changes nothing. What becomes of an item is decided in ``results``; a
database that is away delays what is to be written and loses none of it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from django.db import connection, transaction
from django.db.models import F

from router import crashpoints, doorbell, stopping
from router.destinations import KINDS
from router.destinations.base import Context
from router.models import Attempt, AttemptOutcome, Destination, ItemState, JobItem, LaneSlot
from router.services import (
    claims,
    clock,
    lanes,
    liveness,
    outgoing,
    pacing,
    precedence,
    results,
    slots,
    tallies,
)
from router.services.claims import Claim, Held
from router.services.outages import TROUBLE, forget, insist
from router.services.results import ARRIVED
from router.services.sending import Line, Load, News

log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0
FIRST = 10
"""What a drain claims at first, of a destination that may be slow; then as much as it will send."""
LINGER_SECONDS = 0.5
FLUSH_SECONDS = 0.5
EASE_SECONDS = 0.1
"""Least time between two claims that were not full: of what trickles in, several go together."""
MOST_PACED = 2.0
"""A pause for the sake of the rate that a drain waits for; after a longer one the sweep rings."""
MOST_LOST = 5


def drain(destination_id: int, slot_number: int, *, stop: Callable[[], bool]) -> int:
    """Deliver what is due to one destination until nothing is left, for at most 20 s.

    Args:
        destination_id: row id.
        slot_number: which of the destination's parallel associations, from 0.
        stop: asked between items and PDUs, by more than one thread; true ends the drain.

    Returns:
        How many items got an answer.
    """
    destination = Destination.objects.active().select_related("version", "lane")
    row = destination.filter(pk=destination_id).first()
    if row is None or row.version is None or slot_number >= lanes.slots(row):
        return 0
    gives_way = precedence.has_patience(row, clock.now())
    slot = slots.take(row, slot_number)
    if slot is None:
        _ring_next(row, slot_number)
        return 0
    line = Line()
    work = _Drain(row, slot, line, stop, gives_way=gives_way)
    try:
        with line:
            return work.run()
    except BaseException:
        work.write_rest()
        raise
    finally:
        insist(partial(slots.leave, slot), give_up=stopping.overdue)


def _ring_next(destination: Destination, number: int) -> None:
    """Have the next slot help while a backlog stands; the sweep rings too if this fails."""
    if number + 1 >= lanes.slots(destination):
        return
    try:
        if lanes.due(destination, clock.now()).exists() and lanes.admits(destination, number + 1):
            doorbell.ring("deliver", destination.pk, number + 1)
    except TROUBLE:
        if connection.in_atomic_block:
            raise
        forget()


class _Drain:
    """One run of one slot: claims and writes here, while the line sends.

    The next claim is made when the present one is half answered, so that its attempts stand
    before its turn comes and the wire never waits for the database.
    """

    def __init__(
        self,
        destination: Destination,
        slot: LaneSlot,
        line: Line,
        stop: Callable[[], bool],
        *,
        gives_way: bool,
    ) -> None:
        self._destination, self._slot, self._line, self._stop = destination, slot, line, stop
        self._gives_way = gives_way
        self._claims: list[Claim] = []
        self._news: list[News] = []
        self._count = 0
        self._started = self._idle_since = self._renewed = time.monotonic()
        self._eased = 0.0
        self._has_sent = self._is_idle = False

    def run(self) -> int:
        """Deliver; return how many items got an answer."""
        try:
            while self._claims or self._goes_on():
                self._step()
        except BaseException:
            for claim in self._claims:
                claim.lost = True  # so that the sending ends now
            raise
        return self._count

    def _goes_on(self) -> bool:
        """With nothing in hand: tell whether to look for more."""
        if self._is_idle:
            return False
        if self._must_end() or self._must_give_way():
            doorbell.ring("deliver", self._destination.pk, self._slot.number)
            return False
        return True

    def _must_give_way(self) -> bool:
        return self._gives_way and precedence.must_give_way(self._destination, clock.now())

    def _must_end(self) -> bool:
        return time.monotonic() - self._started >= DRAIN_SECONDS or self._stop()

    def _ends_here(self) -> bool:
        """Asked by the sender before each item: whether it is not begun. The first one is begun
        however late it is: else a far end that takes long to answer at all would get nothing."""
        is_over = self._must_end() if self._has_sent else self._stop()
        self._has_sent = True
        return is_over

    def _most(self) -> int:
        """Return how many items more will leave in the time that is left, as far as is known."""
        if not self._count:
            return FIRST
        gone = time.monotonic() - self._started
        rest = self._count / gone * (DRAIN_SECONDS - gone)
        in_hand = sum(claim.remaining() for claim in self._claims)
        return max(1, min(claims.CLAIM, int(rest) - in_hand))

    def _step(self) -> None:
        if not self._claims:
            time.sleep(max(0.0, self._eased - time.monotonic()))
            most = self._most()
            self._begin(claims.claim(self._destination, self._slot, most=most), most=most)
        elif self._may_fetch():
            most = self._most()
            self._begin(self._fetch(most), most=most)
        if self._claims:
            self._write(self._line.collect(FLUSH_SECONDS))
            self._renew()
            self._idle_since = time.monotonic()
        else:
            self._wait()

    def _wait(self) -> None:
        pause = pacing.left(self._destination)
        if 0.0 < pause <= MOST_PACED:
            time.sleep(pause)
            self._idle_since = time.monotonic()
            return
        late = time.monotonic() - self._idle_since > LINGER_SECONDS
        self._is_idle = late or not lanes.may_run(self._destination)
        if not self._is_idle:
            time.sleep(0.05)

    def _may_fetch(self) -> bool:
        """Whether the next claim may be made beside the one under way, which goes well."""
        one = self._claims[0]
        is_half_done = one.delivered > 0 and one.remaining() <= claims.CLAIM // 2
        is_alone = len(self._claims) == 1 and not one.is_ordered
        return is_alone and is_half_done and not self._must_end()

    def _fetch(self, most: int) -> Claim | None:
        try:
            if self._must_give_way():
                return None
            return claims.claim(self._destination, self._slot, most=most, beside=True)
        except TROUBLE:
            if connection.in_atomic_block:
                raise
            forget()
            return None

    def _begin(self, claim: Claim | None, *, most: int) -> None:
        if claim is None:
            return
        crashpoints.reach("deliver.after_attempts")
        is_full = len(claim.items) >= min(most, claims.CLAIM // 2)
        self._eased = 0.0 if is_full else time.monotonic() + EASE_SECONDS
        self._claims.append(claim)
        crashpoints.reach("deliver.before_send")
        self._line.give(_load(claim, self._ends_here), first=len(self._claims) == 1)
        _ring_next(self._destination, self._slot.number)

    def _write(self, news: Sequence[News]) -> None:
        """Write what became known, however long the database is away."""
        self._news += news
        while self._news:
            self._write_one(self._news.pop(0))
        error = next((one.error for one in news if one.error is not None), None)
        if error is not None:
            raise error

    def _write_one(self, one: News) -> None:
        if one.results:
            write = partial(results.finish, one.claim, one.results)
            self._count += insist(write, give_up=stopping.overdue)
            _note(one)
            crashpoints.reach("deliver.after_commit")
        if one.is_over:
            self._claims.remove(one.claim)

    def write_rest(self) -> None:
        """After a failure, when the line has ended: write what became known and stands nowhere."""
        self._news += self._line.collect(0)
        while self._news:
            self._write_one(self._news.pop(0))

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < claims.RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        try:
            claims.renew(self._claims, self._slot, gives_way=self._gives_way)
        except TROUBLE:
            if connection.in_atomic_block:
                raise
            forget()


def _note(news: News) -> None:
    """Keep in mind what is written."""
    news.claim.answered.update(result.item_id for result in news.results)
    arrived = sum(result.outcome in ARRIVED for result in news.results)
    news.claim.delivered += arrived


def _load(claim: Claim, stop: Callable[[], bool]) -> Load:
    destination = claim.destination
    version = destination.version
    assert version is not None  # noqa: S101 - drain() has checked
    context = Context(
        progress=claim.progress,
        stop=lambda: claim.gives_up or claim.must_end() or stop(),
        abort=claim.must_end,
        echo_first=destination.lane.verified_endpoint != version.endpoint,
        is_probe=destination.lane.failures > 0,
    )
    items = [outgoing.of_item(item, claim.unit) for item in claim.items.values()]
    return Load(claim, KINDS[destination.kind].sender(version.settings), items, context)


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
        tallies.parked(_counted(item), item.destination)
    return changed


def _counted(item: JobItem) -> Held:
    return claims.held(JobItem.objects.filter(pk=item.pk))[item.pk]
