"""Requests for storage commitment and the reports on them, whichever way these come.

A report is stored before it is answered, by the process that hears it: a worker on the association
of the request, or a receiver on one that the far end opened. It is settled later, by a worker. It
counts in every state of its request, since it may come before the answer to it, or long after it
was given up.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from router import crashpoints, doorbell
from router.destinations import base, grades
from router.dicom import commitment
from router.dicom.commitment import Reference, Report
from router.models import (
    UNSAID,
    Commitment,
    CommitmentState,
    Destination,
    JobItem,
    Proof,
    ProofAttempt,
    ProofOutcome,
    ProofState,
)
from router.services import claims, clock, lanes, proof_results, proofs
from router.services.proof_claims import Asked, Round
from router.services.proof_results import Answer

log = logging.getLogger(__name__)

UNASKABLE = frozenset({0x0131})
"""A Failure Reason that says nothing of the object: the Transaction UID was in use."""
FINAL = frozenset({0x0119, 0x0122})
"""Failure Reasons that sending again does not change: what SOP class the object is of."""
SETTLED_AT_ONCE, GIVEN_UP_AT_ONCE = 50, 1000


# --- what is heard -------------------------------------------------------------------------------
def receive(report: Report, *, reporter: str) -> int:
    """Store a report durably.

    Args:
        report: what was reported.
        reporter: the AE title of who reports it.

    Returns:
        The status to answer with: success once it is stored, also when it was before; a failure
        for a transaction that is not ours, or was another peer's.
    """
    with transaction.atomic():
        row = _of(report.transaction_uid, reporter)
        if row is None:
            log.warning("commitment.unknown", extra={"reporter": reporter})
            return commitment.INVALID_ARGUMENT
        said = _as_json(report, row)
        if row.report != said:
            Commitment.objects.filter(pk=row.pk).update(
                report=said, reported_at=clock.now(), state=CommitmentState.REPORTED
            )
            doorbell.ring("prove", row.destination_id)
    crashpoints.reach("prove.after_report")
    return 0


def _of(transaction_uid: str, reporter: str) -> Commitment | None:
    rows = Commitment.objects.filter(transaction_uid=transaction_uid).select_related("version")
    row = rows.first()
    if row is None or str(row.version.settings.get("ae_title", "")).strip() != reporter.strip():
        return None
    return row


def _as_json(report: Report, row: Commitment) -> dict[str, list[list[str | int]]]:
    """Only what was asked for is kept of what a stranger wrote."""
    asked = _references(row)
    return {
        "committed": [[*one] for one in sorted(asked & report.committed)],
        "failed": [[*one, report.failed[one]] for one in sorted(asked & report.failed.keys())],
    }


def _references(row: Commitment) -> frozenset[Reference]:
    objects = ("item__instance__sop_class_uid", "item__instance__sop_instance_uid")
    return frozenset(row.attempts.values_list(*objects))


def note(asked: Round, answer: base.Asked) -> bool:
    """Write what became of a request.

    Returns:
        Whether a report may be awaited: the far end took the request, or has reported already.
    """
    items = asked.requests[answer.transaction_uid]
    with transaction.atomic():
        rows = Commitment.objects.filter(transaction_uid=answer.transaction_uid)
        row = rows.select_for_update().get()
        taken = answer.is_accepted or row.state != CommitmentState.ASKED
        if row.state == CommitmentState.ASKED:
            state = CommitmentState.ACCEPTED if taken else CommitmentState.REFUSED
            rows.update(state=state, status=answer.status, detail=answer.detail[:500])
        mine = Proof.objects.filter(pk__in=items).asked_by(asked.owner)
        if taken:
            mine.move(ProofState.AWAITED, due_at=row.until, reason=answer.detail[:500])
    crashpoints.reach("prove.after_request")
    return taken


# --- what is settled -----------------------------------------------------------------------------
def settle(destination: Destination) -> int:
    """Carry out the reports that came; return how many."""
    rows = Commitment.objects.filter(destination=destination, state=CommitmentState.REPORTED)
    keys = list(rows.order_by("reported_at").values_list("pk", flat=True)[:SETTLED_AT_ONCE])
    for pk in keys:
        _settle(destination, pk)
    return len(keys)


@transaction.atomic
def _settle(destination: Destination, pk: int) -> None:
    """A report is the answer to each question of its request that has none yet; that something
    failed is heard even where it was said to be committed before."""
    rows = Commitment.objects.filter(pk=pk, state=CommitmentState.REPORTED)
    row = rows.select_for_update().first()
    if row is None:
        return
    now, said = clock.now(), _Said.of(row)
    answers: list[Answer] = []
    for attempt in _attempts(row):
        answer = said.of_item(attempt, destination)
        if _may_answer(attempt, answer):
            _end(attempt, answer, now)
            answers.append(answer)
    known = _standing(row, answers)
    counted = [one for one in answers if one.item_id in known]
    proof_results.write(destination, grades.COMMITTED, counted, known, now=now)
    _end_others(row, [one.item_id for one in counted if one.outcome == ProofOutcome.PROVEN], now)
    rows.update(state=CommitmentState.SETTLED)


def _attempts(row: Commitment) -> QuerySet[ProofAttempt]:
    return row.attempts.select_related("item__instance").order_by("item")


def _may_answer(attempt: ProofAttempt, answer: Answer) -> bool:
    if answer.outcome == ProofOutcome.FAILED:
        return attempt.outcome != ProofOutcome.FAILED
    if answer.outcome == ProofOutcome.PROVEN:
        return attempt.outcome in UNSAID
    return attempt.outcome == ProofOutcome.RUNNING


def _end(attempt: ProofAttempt, answer: Answer, now: datetime) -> None:
    ProofAttempt.objects.filter(pk=attempt.pk).update(
        ended_at=now, outcome=answer.outcome, status=answer.status, detail=answer.detail[:500]
    )


def _standing(row: Commitment, answers: Sequence[Answer]) -> Mapping[int, Asked]:
    """Return the proofs that answers count for: of the delivery that was asked about, and for want
    of an answer only those that still wait for this very request."""
    unanswered = {one.item_id for one in answers if one.outcome == ProofOutcome.UNANSWERED}
    ids = set(proof_results.standing_items([one.item_id for one in answers]))
    held = claims.held(JobItem.objects.filter(pk__in=ids))
    attempts = row.attempts.filter(item__in=ids).values_list("item_id", "fence", "delivery")
    asked = {pk: (fence, delivery) for pk, fence, delivery in attempts}
    found: dict[int, Asked] = {}
    for proof in Proof.objects.filter(pk__in=ids).select_for_update():
        fence, delivery = asked[proof.pk]
        is_this = proof.fence == fence and proof.state in (ProofState.ASKING, ProofState.AWAITED)
        if delivery == proof.delivery and (is_this or proof.pk not in unanswered):
            counts = (proof.fence, proof.tries, proof.absences, proof.failures, proof.study_id)
            found[proof.pk] = Asked(held[proof.pk], *counts)
    return found


def _end_others(row: Commitment, ids: Sequence[int], now: datetime) -> None:
    """Questions that were asked again meanwhile need no answer any more."""
    others = ProofAttempt.objects.filter(item__in=ids, outcome=ProofOutcome.RUNNING)
    others.exclude(commitment=row).update(
        ended_at=now,
        outcome=ProofOutcome.UNANSWERED,
        detail="An earlier request was reported on first.",
    )


class _Said:
    """A stored report, asked for one object at a time."""

    def __init__(self, committed: frozenset[Reference], failed: Mapping[Reference, int]) -> None:
        self._committed, self._failed = committed, failed

    @classmethod
    def of(cls, row: Commitment) -> "_Said":
        said = row.report or {}
        failed = {(uid, instance): int(why) for uid, instance, why in said.get("failed", [])}
        return cls(frozenset((uid, one) for uid, one in said.get("committed", [])), failed)

    def of_item(self, attempt: ProofAttempt, destination: Destination) -> Answer:
        instance = attempt.item.instance
        reference = instance.sop_class_uid, instance.sop_instance_uid
        name, reason = destination.name, self._failed.get(reference)
        if reason is not None:
            detail = f"{name} does not commit to keep it ({commitment.reason_words(reason)})."
            if reason in UNASKABLE:
                return Answer(attempt.item_id, ProofOutcome.UNANSWERED, detail, status=reason)
            return Answer(
                attempt.item_id,
                ProofOutcome.FAILED,
                detail,
                status=reason,
                is_final=reason in FINAL,
            )
        if reference in self._committed:
            detail = f"{name} has committed to keep it (storage commitment)."
            return Answer(attempt.item_id, ProofOutcome.PROVEN, detail)
        detail = f"{name} has reported on the request without naming this object."
        return Answer(attempt.item_id, ProofOutcome.UNANSWERED, detail)


# --- what did not come ---------------------------------------------------------------------------
def expire(destination: Destination) -> int:
    """Give up waiting for reports that are overdue: unconfirmed, and asked for again.

    Returns:
        How many objects are unconfirmed by that.
    """
    now = clock.now()
    overdue = Proof.objects.filter(destination=destination).overdue(now).order_by("due_at")
    count = sum(_give_up(proof, destination, now) for proof in overdue[:GIVEN_UP_AT_ONCE])
    late = Commitment.objects.filter(destination=destination, state=CommitmentState.ACCEPTED)
    late.filter(until__lte=now).update(state=CommitmentState.TIMED_OUT)
    return count


@transaction.atomic
def _give_up(proof: Proof, destination: Destination, now: datetime) -> int:
    tries = proof.tries + 1
    detail = f"{destination.name} did not report on the request for commitment in time."
    mine = Proof.objects.filter(pk=proof.pk, fence=proof.fence).overdue(now)
    changed = mine.move(
        ProofState.UNCONFIRMED,
        due_at=now + lanes.retry_delay(tries, proofs.delays(destination)),
        tries=tries,
        reason=detail,
    )
    if changed:
        asked = ProofAttempt.objects.filter(item=proof.pk, fence=proof.fence)
        asked.filter(outcome=ProofOutcome.RUNNING).update(
            ended_at=now, outcome=ProofOutcome.UNANSWERED, detail=detail
        )
    return changed
