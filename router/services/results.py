"""Write what became of items: delivered, tried again or parked, where the lease is ours."""

from collections.abc import Sequence
from datetime import datetime

from django.db import connection, transaction
from django.db.models import F

from router import crashpoints
from router.destinations.base import Result
from router.destinations.outcomes import Outcome, classify
from router.models import (
    Attempt,
    AttemptOutcome,
    CounterKind,
    ItemState,
    JobItem,
)
from router.services import clock, lanes, proofs, tallies
from router.services.claims import Claim, Held
from router.services.counters import Tally

FEW_TRIES = 3

_ATTEMPTS = {
    Outcome.DELIVERED: AttemptOutcome.SUCCESS,
    Outcome.WARNING: AttemptOutcome.WARNING,
    Outcome.DATA_ERROR: AttemptOutcome.REFUSED,
    Outcome.FEW_TRIES: AttemptOutcome.REFUSED,
    Outcome.CONFIGURATION: AttemptOutcome.REFUSED,
    Outcome.UNKNOWN: AttemptOutcome.UNKNOWN,
    Outcome.NOT_SENT: AttemptOutcome.NOT_SENT,
    Outcome.EXCLUDED: AttemptOutcome.NOT_SENT,
}
_DELIVER = (
    "UPDATE router_jobitem SET state = %s, status = %s, reason = %s, egress_sha256 = %s,"
    " egress_syntax = %s, finished_at = %s, proof = 'accepted', owner = '', lease_until = NULL,"
    " due_at = NULL"
    " WHERE id = %s AND state = 'leased' AND owner = %s"
)
_END = (
    "UPDATE router_attempt SET ended_at = %s, outcome = %s, status = %s, detail = %s,"
    " bytes_sent = %s WHERE item_id = %s AND fence = %s AND outcome = ''"
)
_TRIES = (AttemptOutcome.REFUSED, AttemptOutcome.TRANSPORT, AttemptOutcome.UNKNOWN)
ARRIVED = (Outcome.DELIVERED, Outcome.WARNING)
_DONE = {
    Outcome.DELIVERED: ItemState.DELIVERED,
    Outcome.WARNING: ItemState.DELIVERED_WITH_WARNING,
}


@transaction.atomic
def finish(claim: Claim, results: Sequence[Result]) -> int:
    """Write a group of results, where the lease is still ours.

    Returns:
        How many items changed; the rest had been taken from us.
    """
    done = [result for result in results if result.outcome in _DONE]
    failed = [result for result in results if result.outcome not in _DONE]
    now = clock.now()
    count = _finish_delivered(claim, done, now=now)
    count += sum(_finish_failed(claim, result) for result in failed)
    _end_attempts(claim, results, now=now)
    crashpoints.reach("deliver.before_lane")
    lanes.update(claim.destination, results, delivered=bool(done))
    crashpoints.reach("deliver.before_commit")
    return count


def _finish_delivered(claim: Claim, results: Sequence[Result], *, now: datetime) -> int:
    """Write what arrived; return how many items were still ours."""
    if not results:
        return 0
    tally = Tally()
    mine = JobItem.objects.filter(pk__in=[r.item_id for r in results]).leased_by(claim.owner)
    ids = set(mine.select_for_update().values_list("pk", flat=True))
    ours = [result for result in results if result.item_id in ids]
    for result in ours:
        item = claim.items[result.item_id]
        tallies.add(tally, item, claim.destination, kind=CounterKind.DELIVERED, moment=now)
    moment = connection.ops.adapt_datetimefield_value(now)
    rows = [
        (*_delivered(result, claim.items[result.item_id]), moment, result.item_id, claim.owner)
        for result in ours
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_DELIVER, rows)
    tally.write()
    proofs.expect(claim.destination, [claim.items[result.item_id] for result in ours], now=now)
    return len(ours)


def _delivered(result: Result, item: Held) -> tuple[str, int | None, str, str, str]:
    remark = result.detail if result.outcome == Outcome.WARNING else ""
    reason = (" ".join(result.warnings) or remark)[:500]
    syntax = result.transfer_syntax or ""
    turned = syntax if syntax != item.instance.transfer_syntax_uid else ""
    sha256 = result.egress_sha256 or ""
    return _DONE[result.outcome].value, result.status, reason, sha256, turned


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
    elif result.outcome == Outcome.EXCLUDED:
        change |= {"state": ItemState.CANCELLED, "due_at": None}
    elif parks:
        change |= {"state": ItemState.PARKED, "tries": F("tries") + 1, "due_at": None}
    elif result.lane == "configuration":
        change |= {"state": ItemState.PENDING}  # the destination's trouble costs no try
    else:
        due = clock.now() + lanes.retry_delay(item.tries + 1, lanes.delays(claim.destination))
        change |= {"state": ItemState.WAITING, "tries": F("tries") + 1, "due_at": due}
    changed = JobItem.objects.filter(pk=item.pk).leased_by(claim.owner).update(**change)
    if changed and parks:
        tallies.parked(item, claim.destination)
    return changed


def _parks(claim: Claim, item: Held, result: Result) -> bool:
    if result.outcome == Outcome.DATA_ERROR:
        return True
    if result.outcome == Outcome.CONFIGURATION:
        return result.lane is None
    return result.outcome == Outcome.FEW_TRIES and _refusals(claim, item) + 1 >= FEW_TRIES


def _refusals(claim: Claim, item: Held) -> int:
    """Return how often this kind of answer came since the tries were last counted anew.

    A destination that was full or away for hours has used up none of the few tries.
    """
    if not item.tries:
        return 0
    assert claim.destination.version is not None  # noqa: S101 - drain() has checked
    overrides = claim.destination.version.settings.get("outcomes") or {}
    tried = Attempt.objects.filter(item_id=item.pk, outcome__in=_TRIES).order_by("-fence")
    tried = tried.exclude(outcome=AttemptOutcome.REFUSED, status=None)  # the lane, not the item
    statuses = tried.values_list("status", flat=True)[: item.tries]
    found = [classify(status, overrides) for status in statuses if status is not None]
    return found.count(Outcome.FEW_TRIES)


def _end_attempts(claim: Claim, results: Sequence[Result], *, now: datetime) -> None:
    """End the attempts at the moment at which the deliveries are counted."""
    moment = connection.ops.adapt_datetimefield_value(now)
    rows = [
        (
            moment,
            _attempt_outcome(result).value,
            result.status,
            result.detail[:500],
            result.bytes_sent,
            result.item_id,
            claim.items[result.item_id].fence,
        )
        for result in results
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_END, rows)


def _attempt_outcome(result: Result) -> AttemptOutcome:
    if result.outcome == Outcome.RETRY:
        return AttemptOutcome.TRANSPORT if result.status is None else AttemptOutcome.REFUSED
    return _ATTEMPTS[result.outcome]
