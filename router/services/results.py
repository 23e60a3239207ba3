"""Write what became of items: delivered, tried again or parked, where the lease is ours."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import BigIntegerField, Case, CharField, F, Value, When

from router import crashpoints, stopping
from router.destinations.base import Result
from router.destinations.fields import seconds
from router.destinations.outcomes import Outcome, classify
from router.models import (
    Attempt,
    AttemptOutcome,
    CounterKind,
    Destination,
    ItemState,
    JobItem,
    LaneSlot,
    ProofGrade,
)
from router.services import clock, lanes
from router.services.counters import Tally

LEASE = timedelta(seconds=30)
RENEW_SECONDS = 5.0
FEW_TRIES = 3

_ATTEMPTS = {
    Outcome.DELIVERED: AttemptOutcome.SUCCESS,
    Outcome.WARNING: AttemptOutcome.WARNING,
    Outcome.DATA_ERROR: AttemptOutcome.REFUSED,
    Outcome.FEW_TRIES: AttemptOutcome.REFUSED,
    Outcome.CONFIGURATION: AttemptOutcome.REFUSED,
    Outcome.UNKNOWN: AttemptOutcome.UNKNOWN,
    Outcome.NOT_SENT: AttemptOutcome.NOT_SENT,
}
_TRIES = (AttemptOutcome.REFUSED, AttemptOutcome.TRANSPORT, AttemptOutcome.UNKNOWN)
_DONE = {
    Outcome.DELIVERED: ItemState.DELIVERED,
    Outcome.WARNING: ItemState.DELIVERED_WITH_WARNING,
}


class LeaseLost(Exception):
    """Our lease ran out and somebody else may be sending; sending must end at once."""


@dataclass
class Claim:
    """The items one drain holds, with their open attempts."""

    owner: str
    slot: LaneSlot
    destination: Destination
    items: dict[int, JobItem]
    attempts: dict[int, Attempt] = field(default_factory=dict)
    renewed: float = field(default_factory=time.monotonic)

    answered: set[int] = field(default_factory=set)

    def progress(self, _moved: int) -> None:
        """Renew the lease as bytes move. Raises LeaseLost when it is not ours any more."""
        crashpoints.reach("deliver.mid_object")
        self._renew()

    def must_end(self) -> bool:
        """Tell whether what is in flight must be broken off.

        It is asked several times a second while an answer is awaited, which has a deadline of its
        own and may take longer than a lease; so the lease is renewed here too.
        """
        self._renew()
        return stopping.overdue()

    def _renew(self) -> None:
        if time.monotonic() - self.renewed < RENEW_SECONDS:
            return
        self.renewed = time.monotonic()
        until = clock.now() + lease(self.destination)
        waiting = set(self.items) - self.answered
        mine = JobItem.objects.filter(pk__in=waiting).leased_by(self.owner)
        held = LaneSlot.objects.filter(pk=self.slot.pk, owner=self.slot.owner)
        if mine.update(lease_until=until) != len(waiting) or not held.update(lease_until=until):
            raise LeaseLost(self.destination.name)


def lease(destination: Destination) -> timedelta:
    """Return how long a lease lasts: nothing renews it while a connection is being made."""
    assert destination.version is not None  # noqa: S101 - drain() has checked
    connecting = destination.version.settings.get("connect_timeout", "0s")
    return LEASE + timedelta(seconds=seconds(connecting))


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
    claim.answered.update(result.item_id for result in results)
    crashpoints.reach("deliver.before_lane")
    lanes.update(claim.destination, results, delivered=bool(done))
    crashpoints.reach("deliver.before_commit")
    return count


def _finish_delivered(claim: Claim, results: Sequence[Result]) -> int:
    now, count, tally = clock.now(), 0, Tally()
    for (outcome, status, reason), group in _alike(results, _delivered_key).items():
        mine = JobItem.objects.filter(pk__in=[r.item_id for r in group]).leased_by(claim.owner)
        ids = set(mine.select_for_update().values_list("pk", flat=True))
        for result in group:
            if result.item_id in ids:
                _count(tally, claim.items[result.item_id], claim.destination, now)
        count += mine.update(
            state=_DONE[outcome],
            proof=ProofGrade.ACCEPTED,
            finished_at=now,
            owner="",
            lease_until=None,
            due_at=None,
            status=status,
            reason=reason,
            egress_sha256=Case(
                *(When(pk=r.item_id, then=Value(r.egress_sha256 or "")) for r in group),
                default=Value(""),
                output_field=CharField(),
            ),
        )
    tally.write()
    return count


def _alike(
    results: Sequence[Result], key: Callable[[Result], tuple[Outcome, int | None, str]]
) -> dict[tuple[Outcome, int | None, str], list[Result]]:
    """Put results that are written alike together: a group is one statement."""
    groups: dict[tuple[Outcome, int | None, str], list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _delivered_key(result: Result) -> tuple[Outcome, int | None, str]:
    remark = result.detail if result.outcome == Outcome.WARNING else ""
    return result.outcome, result.status, (" ".join(result.warnings) or remark)[:500]


def count_parked(item: JobItem, destination: Destination) -> None:
    """Count an item that was just parked; call in the transaction that parked it."""
    tally = Tally()
    _count(tally, item, destination, clock.now(), kind=CounterKind.PARKED)
    tally.write()


def _count(
    tally: Tally,
    item: JobItem,
    destination: Destination,
    now: datetime,
    *,
    kind: CounterKind = CounterKind.DELIVERED,
) -> None:
    tally.add(
        now,
        kind,
        size=item.size,
        modality=item.instance.series.modality,
        source=item.instance.study.source,
        destination=destination.name,
    )


def _finish_failed(claim: Claim, result: Result) -> int:
    item = claim.items[result.item_id]
    parks = _parks(claim, item, result)
    change: dict[str, object] = {
        "owner": "",
        "lease_until": None,
        "status": result.status,
        "reason": result.detail[:500],
    }
    if result.outcome == Outcome.NOT_SENT:
        change |= {"state": ItemState.PENDING, "reason": item.reason, "status": item.status}
    elif parks:
        change |= {"state": ItemState.PARKED, "tries": F("tries") + 1, "due_at": None}
    elif result.lane == "configuration":
        change |= {"state": ItemState.PENDING}  # the destination's trouble costs no try
    else:
        due = clock.now() + lanes.retry_delay(item.tries + 1, lanes.delays(claim.destination))
        change |= {"state": ItemState.WAITING, "tries": F("tries") + 1, "due_at": due}
    changed = JobItem.objects.filter(pk=item.pk).leased_by(claim.owner).update(**change)
    if changed and parks:
        count_parked(item, claim.destination)
    return changed


def _parks(claim: Claim, item: JobItem, result: Result) -> bool:
    if result.outcome == Outcome.DATA_ERROR:
        return True
    if result.outcome == Outcome.CONFIGURATION:
        return result.lane is None
    return result.outcome == Outcome.FEW_TRIES and _refusals(claim, item) + 1 >= FEW_TRIES


def _refusals(claim: Claim, item: JobItem) -> int:
    """Return how often this kind of answer came since the tries were last counted anew.

    A destination that was full or away for hours has used up none of the few tries.
    """
    if not item.tries:
        return 0
    assert claim.destination.version is not None  # noqa: S101 - drain() has checked
    overrides = claim.destination.version.settings.get("outcomes") or {}
    tried = Attempt.objects.filter(item=item, outcome__in=_TRIES).order_by("-fence")
    tried = tried.exclude(outcome=AttemptOutcome.REFUSED, status=None)  # the lane, not the item
    statuses = tried.values_list("status", flat=True)[: item.tries]
    found = [classify(status, overrides) for status in statuses if status is not None]
    return found.count(Outcome.FEW_TRIES)


def _end_attempts(claim: Claim, results: Sequence[Result]) -> None:
    now = clock.now()
    for (_outcome, status, detail), group in _alike(results, _attempt_key).items():
        attempts = {claim.attempts[result.item_id].pk: result for result in group}
        Attempt.objects.filter(pk__in=attempts, outcome=AttemptOutcome.RUNNING).update(
            ended_at=now,
            outcome=_attempt_outcome(group[0]),
            status=status,
            detail=detail,
            bytes_sent=Case(
                *(When(pk=pk, then=Value(r.bytes_sent)) for pk, r in attempts.items()),
                default=Value(0),
                output_field=BigIntegerField(),
            ),
        )


def _attempt_key(result: Result) -> tuple[Outcome, int | None, str]:
    return result.outcome, result.status, result.detail[:500]


def _attempt_outcome(result: Result) -> AttemptOutcome:
    if result.outcome == Outcome.RETRY:
        return AttemptOutcome.TRANSPORT if result.status is None else AttemptOutcome.REFUSED
    return _ATTEMPTS[result.outcome]
