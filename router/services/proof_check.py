"""The part of the reckoning that is about proofs: what is called proven, and what was said.

Finds, and refuses to repair.
"""

from collections.abc import Iterator
from datetime import timedelta

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery

from router.models import (
    DONE_STATES,
    OPEN_PROOFS,
    Commitment,
    CommitmentState,
    JobItem,
    Proof,
    ProofAttempt,
    ProofGrade,
    ProofOutcome,
    ProofState,
)
from router.services import clock

MOST = 100
SETTLED_WITHIN = timedelta(minutes=5)
PROVEN_GRADES = (ProofGrade.VERIFIED, ProofGrade.COMMITTED)


def counts() -> dict[str, int]:
    """Return the proofs by state."""
    by_state = dict(Proof.objects.values_list("state").annotate(number=Count("pk")))
    return {f"proofs {state.value}": by_state.get(state, 0) for state in ProofState}


def gaps() -> Iterator[str]:
    """Yield a sentence for each contradiction."""
    yield from _unsaid()
    yield from _contradicted()
    yield from _states()
    yield from _forgotten()
    yield from _hanging()
    yield from _unsettled()


def _answers() -> QuerySet[ProofAttempt]:
    """The answers about the delivery under which the outer item stands."""
    return ProofAttempt.objects.filter(item=OuterRef("pk"), delivery=OuterRef("fence"))


def _unsaid() -> Iterator[str]:
    """What is called verified or committed has an answer that says so."""
    said = _answers().filter(outcome=ProofOutcome.PROVEN)
    as_much = said.filter(Q(grade=OuterRef("proof")) | Q(grade=ProofGrade.COMMITTED))
    called = JobItem.objects.filter(~Exists(as_much), proof__in=PROVEN_GRADES)
    for pk, proof in called.values_list("pk", "proof")[:MOST]:
        yield f"item {pk} is called {proof} and no answer says so"


def _contradicted() -> Iterator[str]:
    """Nor was it denied after that."""
    last = _answers().filter(outcome__in=[ProofOutcome.PROVEN, ProofOutcome.FAILED])
    newest = Subquery(last.order_by("-ended_at", "-fence").values("outcome")[:1])
    called = JobItem.objects.filter(proof__in=PROVEN_GRADES).annotate(newest=newest)
    for pk, proof in called.filter(newest=ProofOutcome.FAILED).values_list("pk", "proof")[:MOST]:
        yield f"item {pk} is called {proof} and the last answer denies it"


def _states() -> Iterator[str]:
    """The state of a proof is that of its item."""
    proven = Proof.objects.filter(state=ProofState.PROVEN)
    for pk in proven.exclude(item__proof__in=PROVEN_GRADES).values_list("pk", flat=True)[:MOST]:
        yield f"the proof of item {pk} is called proven and the item is not"
    undone = Proof.objects.filter(state__in=[*OPEN_PROOFS, ProofState.PROVEN])
    undone = undone.exclude(item__state__in=DONE_STATES, item__fence=F("delivery"))
    for pk, state in undone.values_list("pk", "state")[:MOST]:
        yield f"the proof of item {pk} is {state} and the item is not delivered"


def _forgotten() -> Iterator[str]:
    """What falls short of the grade that its destination needs is asked for, or will be."""
    asked = Proof.objects.filter(item=OuterRef("pk"), state__in=OPEN_PROOFS)
    short = JobItem.objects.delivered().short_of_grade().filter(~Exists(asked))
    short = short.filter(destination__lane__enrol_at=None)
    for pk in short.exclude(instance__state="purged").values_list("pk", flat=True)[:MOST]:
        yield f"item {pk} is short of the grade that is needed, and nothing asks for its proof"


def _hanging() -> Iterator[str]:
    """No question hangs in the air."""
    running = ProofAttempt.objects.filter(outcome=ProofOutcome.RUNNING)
    asked = [ProofState.ASKING, ProofState.AWAITED]
    for pk in running.exclude(item__proving__state__in=asked).values_list("pk", flat=True)[:MOST]:
        yield f"proof attempt {pk} never ended"


def _unsettled() -> Iterator[str]:
    """What was reported is settled."""
    reported = Commitment.objects.filter(
        state=CommitmentState.REPORTED, reported_at__lt=clock.now() - SETTLED_WITHIN
    )
    for uid in reported.values_list("transaction_uid", flat=True)[:MOST]:
        yield f"the report on commitment {uid} was never settled"
