"""Ask the far ends for proof: one drain a destination, in rounds, for at most 20 s.

What was reported meanwhile is settled first, then what is due is asked for: by the question of the
kind where the grade is *verified*, by a request for storage commitment where it is *committed*. A
destination that answers nothing is left alone for a while, so that a dead one costs one
association each pause. A database that is away ends the drain; what it held is taken up again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from router import crashpoints, doorbell, stopping
from router.destinations import KINDS, grades
from router.destinations.base import Committing, Confirmation, Confirming, Context, Sender
from router.models import (
    PROOF_SLOT,
    Destination,
    Lane,
    LaneSlot,
    Proof,
    ProofOutcome,
    ProofState,
)
from router.services import (
    clock,
    commitments,
    lanes,
    outgoing,
    proof_claims,
    proof_results,
    proofs,
    slots,
)
from router.services.outages import insist
from router.services.proof_claims import Round
from router.services.proof_results import Answer

log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0
GROUP, GROUP_SECONDS = 50, 1.0
MOST_SILENT = 5
"""So many questions in a row without an answer are the far end's silence."""


def drain(destination_id: int, *, stop: Callable[[], bool]) -> int:
    """Settle what was reported by one destination, and ask it for what is due.

    Returns:
        How many proofs were asked for.
    """
    rows = Destination.objects.filter(lane__isnull=False).select_related("version", "lane")
    row = rows.filter(pk=destination_id).first()
    slot = slots.take(row, PROOF_SLOT) if row is not None and row.version is not None else None
    if row is None or slot is None:
        return 0
    try:
        return _Drain(row, slot, stop).run()
    finally:
        insist(partial(slots.leave, slot), give_up=stopping.overdue)


class _Drain:
    """The rounds of one drain."""

    def __init__(self, destination: Destination, slot: LaneSlot, stop: Callable[[], bool]) -> None:
        self._destination, self._slot, self._stop = destination, slot, stop
        self._started = time.monotonic()

    def run(self) -> int:
        """Go on until nothing is due; return how many proofs were asked for."""
        count = 0
        while not self._must_end():
            found = proof_claims.claim(self._destination, self._slot)
            if found is None:
                return count
            count += len(found.asked)
            crashpoints.reach("prove.after_attempts")
            self._ask(found)
        doorbell.ring("prove", self._destination.pk)
        return count

    def _must_end(self) -> bool:
        """Do what needs no question; tell whether the time is over."""
        self._settle()
        while proofs.enrol(self._destination) and not self._is_over():
            continue
        return self._is_over()

    def _is_over(self) -> bool:
        return self._stop() or time.monotonic() - self._started >= DRAIN_SECONDS

    def _settle(self) -> None:
        while commitments.settle(self._destination):
            continue
        commitments.expire(self._destination)

    def _ask(self, found: Round) -> None:
        version = found.destination.version
        assert version is not None  # noqa: S101 - drain() has checked
        sender = KINDS[found.destination.kind].sender(version.settings)
        context = Context(
            progress=lambda _moved: None,
            stop=lambda: self._stop() or found.keep(),
            abort=found.keep,
        )
        ask = _commit if found.grade == grades.COMMITTED else _confirm
        if found.asked and not found.lost:
            heard = ask(found, sender, context)
            if heard.is_answer or not context.stop():
                _note_lane(found, heard)


@dataclass(frozen=True, slots=True)
class _Heard:
    """Whether the far end answered anything in a round, and the last sentence."""

    is_answer: bool
    sentence: str


def _confirm(found: Round, sender: Sender, context: Context) -> _Heard:
    """Ask for each object; of a far end that falls silent the rest is not asked for one by one."""
    assert isinstance(sender, Confirming)  # noqa: S101 - the form allows the grade to no other
    items = [outgoing.of_item(one.item) for one in found.asked.values()]
    rest, silent, is_answer, sentence = dict.fromkeys(found.asked), 0, False, ""
    for group in _groups(sender.confirm(items, context)):
        proof_results.finish(found, [_judged(found, one, context) for one in group])
        for one in group:
            del rest[one.item_id]
            silent = silent + 1 if one.state == "unknown" else 0
            is_answer, sentence = is_answer or not silent, one.detail
        if silent >= MOST_SILENT or context.stop():
            break
    proof_results.finish(found, [Answer(pk, _unsaid(context), sentence) for pk in rest])
    return _Heard(is_answer, sentence)


def _groups(answers: Iterator[Confirmation]) -> Iterator[list[Confirmation]]:
    """Yield answers in groups, so that they are written together and yet soon."""
    group: list[Confirmation] = []
    began = time.monotonic()
    for one in answers:
        group.append(one)
        if len(group) >= GROUP or time.monotonic() - began >= GROUP_SECONDS:
            yield group
            group, began = [], time.monotonic()
    if group:
        yield group


def _judged(found: Round, said: Confirmation, context: Context) -> Answer:
    if said.state == "present":
        return Answer(said.item_id, ProofOutcome.PROVEN, said.detail)
    if said.state == "absent":
        return proof_results.judge_absence(said.item_id, said.detail, found.asked[said.item_id])
    if said.state == "different":
        return Answer(said.item_id, ProofOutcome.FAILED, said.detail, is_final=True)
    return Answer(said.item_id, _unsaid(context), said.detail)


def _unsaid(context: Context) -> ProofOutcome:
    """What is not answered because we were told to stop costs no try."""
    return ProofOutcome.NOT_ASKED if context.stop() else ProofOutcome.UNANSWERED


def _commit(found: Round, sender: Sender, context: Context) -> _Heard:
    """Make the requests of a round, and take what is reported meanwhile."""
    assert isinstance(sender, Committing)  # noqa: S101 - the form allows the grade to no other
    is_answer, sentence = False, ""
    reporter = str(proofs.settings_of(found.destination)["ae_title"])
    take = partial(commitments.receive, reporter=reporter)
    for one in sender.commit(found.commit_requests(), context, take=take):
        is_answer, sentence = is_answer or one.status is not None, one.detail
        if not commitments.note(found, one):
            outcome = _unsaid(context) if one.status is None else ProofOutcome.UNANSWERED
            items = found.requests[one.transaction_uid]
            answers = [Answer(pk, outcome, one.detail, status=one.status) for pk in items]
            proof_results.finish(found, answers)
    return _Heard(is_answer, sentence)


def _note_lane(found: Round, heard: _Heard) -> None:
    """Leave a destination alone for a while that answered nothing; when it answers again, ask at
    once for what waited for that."""
    destination, now = found.destination, clock.now()
    lane = Lane.objects.filter(destination=destination)
    if not heard.is_answer:
        failures = destination.lane.proof_failures + 1
        resume = now + lanes.retry_delay(failures, proofs.delays(destination))
        lane.update(
            proof_failures=failures, proof_resume_at=resume, proof_reason=heard.sentence[:500]
        )
    elif lane.exclude(proof_failures=0).update(
        proof_failures=0, proof_resume_at=None, proof_reason=""
    ):
        waiting = [ProofState.WAITING, ProofState.UNCONFIRMED]
        due = Proof.objects.filter(destination=destination, state__in=waiting, tries__gt=0)
        due.filter(due_at__gt=now).update(due_at=now)
