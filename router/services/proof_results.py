"""Write what far ends said of what they got: proven, looked for again, asked again, sent again.

An item is called proven only while it stands as delivered under the very delivery that was asked
about; every write is conditional on that. What is not there is sent again, that object alone, a
bounded number of times, and then waits for a person with the reason.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models import F

from router import crashpoints, doorbell
from router.models import (
    DONE_STATES,
    AuditOutcome,
    CounterKind,
    Destination,
    JobItem,
    Proof,
    ProofOutcome,
    ProofState,
)
from router.services import audit, claims, clock, lanes, proofs, tallies
from router.services.actors import SYSTEM
from router.services.counters import Tally
from router.services.proof_claims import Asked, Round

log = logging.getLogger(__name__)

ENOUGH_ABSENCES = 2
"""So often in a row an object is not found before it is missing: far ends may index late."""
_END = (
    "UPDATE router_proofattempt SET ended_at = %s, outcome = %s, status = %s, detail = %s"
    " WHERE item_id = %s AND fence = %s AND outcome = ''"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to one question; `detail` is a sentence for the screen.

    `status` is a Failure Reason that was given. With `is_final` sending again would change nothing.
    """

    item_id: int
    outcome: ProofOutcome
    detail: str
    status: int | None = None
    is_final: bool = False


@transaction.atomic
def finish(asked: Round, answers: Sequence[Answer]) -> int:
    """Write answers, where the lease is still ours.

    Returns:
        How many proofs changed; the rest had been taken from us.
    """
    now = clock.now()
    mine = Proof.objects.filter(pk__in=[one.item_id for one in answers]).asked_by(asked.owner)
    ids = set(mine.select_for_update().values_list("pk", flat=True))
    ours = [one for one in answers if one.item_id in ids]
    _end_attempts(ours, {pk: asked.asked[pk].fence for pk in ids}, now)
    write(asked.destination, asked.grade, ours, asked.asked, now=now)
    crashpoints.reach("prove.before_commit")
    return len(ours)


def write(
    destination: Destination,
    grade: str,
    answers: Sequence[Answer],
    known: Mapping[int, Asked],
    *,
    now: datetime,
) -> None:
    """Carry out what answers mean for proofs and items; call in a transaction.

    Args:
        destination: with its version.
        grade: what was asked for.
        answers: of proofs that the caller may change.
        known: the counts of each of these proofs.
        now: the moment.
    """
    proven = [one for one in answers if one.outcome == ProofOutcome.PROVEN]
    failed = [one for one in answers if one.outcome == ProofOutcome.FAILED]
    _write_proven(grade, proven)
    disprove(destination, failed, {pk: one.failures for pk, one in known.items()}, now=now)
    for one in answers:
        if one.outcome in (ProofOutcome.ABSENT, ProofOutcome.UNANSWERED, ProofOutcome.NOT_ASKED):
            _ask_again(destination, one, known[one.item_id], now)


def judge_absence(item_id: int, detail: str, asked: Asked) -> Answer:
    """Return what it means that an object was not found."""
    if asked.absences + 1 >= ENOUGH_ABSENCES:
        return Answer(item_id, ProofOutcome.FAILED, detail)
    return Answer(item_id, ProofOutcome.ABSENT, detail)


def _end_attempts(answers: Sequence[Answer], fences: Mapping[int, int], now: datetime) -> None:
    moment = connection.ops.adapt_datetimefield_value(now)
    rows = [
        (moment, one.outcome.value, one.status, one.detail[:500], one.item_id, fences[one.item_id])
        for one in answers
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_END, rows)


def _write_proven(grade: str, answers: Sequence[Answer]) -> None:
    by_detail: dict[str, list[int]] = {}
    for one in answers:
        by_detail.setdefault(one.detail[:500], []).append(one.item_id)
    for detail, ids in by_detail.items():
        standing = standing_items(ids)
        JobItem.objects.filter(pk__in=standing).delivered().update(proof=grade)
        Proof.objects.filter(pk__in=standing).move(
            ProofState.PROVEN, reason=detail, tries=0, absences=0
        )


def standing_items(ids: Sequence[int]) -> list[int]:
    """Return those that stand as delivered under the delivery that their proof is of."""
    items = JobItem.objects.filter(pk__in=ids, state__in=DONE_STATES)
    return list(items.filter(proving__delivery=F("fence")).values_list("pk", flat=True))


def _ask_again(destination: Destination, answer: Answer, asked: Asked, now: datetime) -> None:
    mine = Proof.objects.filter(pk=answer.item_id)
    pauses, reason = proofs.delays(destination), answer.detail[:500]
    if answer.outcome == ProofOutcome.NOT_ASKED:
        mine.move(ProofState.WAITING, due_at=now)
    elif answer.outcome == ProofOutcome.ABSENT:
        due = now + lanes.retry_delay(1, pauses)
        mine.move(
            ProofState.WAITING, due_at=due, tries=0, absences=asked.absences + 1, reason=reason
        )
    else:
        tries = asked.tries + 1
        state = ProofState.UNCONFIRMED if tries >= len(pauses) else ProofState.WAITING
        mine.move(state, due_at=now + lanes.retry_delay(tries, pauses), tries=tries, reason=reason)


def disprove(
    destination: Destination,
    answers: Sequence[Answer],
    failures: Mapping[int, int],
    *,
    now: datetime,
) -> None:
    """Have items sent again, or parked, that the far end does not have; call in a transaction."""
    standing = set(standing_items([one.item_id for one in answers]))
    most = int(str(proofs.settings_of(destination)["proof_resends"]))
    groups: dict[tuple[bool, str, int | None], list[int]] = {}
    for one in answers:
        if one.item_id in standing:
            parks = one.is_final or failures[one.item_id] >= most
            groups.setdefault((parks, one.detail, one.status), []).append(one.item_id)
    held = claims.held(JobItem.objects.filter(pk__in=standing))
    for (parks, detail, status), ids in groups.items():
        _disprove(destination, ids, parks=parks, detail=detail, status=status)
        _count(destination, [held[pk] for pk in ids], parks=parks, now=now)
    if standing:
        doorbell.ring("deliver", destination.pk, 0)


def _disprove(
    destination: Destination, ids: Sequence[int], *, parks: bool, detail: str, status: int | None
) -> None:
    then = "It was not sent again." if parks else "It is sent again."
    items = JobItem.objects.filter(pk__in=ids)
    count = items.disprove(parked=parks, reason=f"{detail[:480]} {then}"[:500], status=status)
    proofs_of = Proof.objects.filter(pk__in=ids)
    # After a person has dealt with it, the count begins anew.
    proofs_of.move(
        ProofState.FAILED, reason=detail[:500], failures=0 if parks else F("failures") + 1
    )
    log.warning("proof.failed", extra={"destination": destination.name, "count": count})
    audit.record(
        "proof.failed",
        actor=SYSTEM,
        code="instances.transferred",
        outcome=AuditOutcome.MINOR_FAILURE,
        target=f"destination {destination.name}",
        details={"count": count, "reason": detail, "sent_again": not parks},
    )


def _count(
    destination: Destination, items: Sequence[claims.Held], *, parks: bool, now: datetime
) -> None:
    tally = Tally()
    kinds = [CounterKind.DISPROVED, *([CounterKind.PARKED] if parks else [])]
    for item in items:
        for kind in kinds:
            tallies.add(tally, item, destination, kind=kind, moment=now)
    tally.write()
