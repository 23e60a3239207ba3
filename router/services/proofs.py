"""The queue of proofs: what was delivered and has yet to be proven, and where something is due.

A proof is expected in the transaction that delivers its item. A destination whose grade was raised
later has what it got before enrolled, in bounded steps. Asking is `proving`'s business.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F

from router.destinations import grades
from router.destinations.fields import seconds
from router.models import (
    Commitment,
    CommitmentState,
    Destination,
    InstanceState,
    JobItem,
    Lane,
    LaneState,
    Proof,
    ProofAttempt,
    ProofOutcome,
    ProofState,
)
from router.services import clock, lanes, liveness
from router.services.claims import Held

log = logging.getLogger(__name__)

ENROL_AFTER = timedelta(seconds=60)
"""Longer than any delivery's transaction that may not have seen yet that a grade was raised."""
ENROL = 1000
_NEW = (
    "destination",
    "study",
    "state",
    "due_at",
    "owner",
    "lease_until",
    "delivery",
    "tries",
    "absences",
    "reason",
)


def settings_of(destination: Destination) -> Mapping[str, object]:
    """Return the settings of a destination as its row has them."""
    return destination.version.settings if destination.version else {}


def grade(destination: Destination) -> str:
    """Return the grade that a destination needs."""
    return grades.required(settings_of(destination))


def delays(destination: Destination) -> Sequence[int]:
    """Return the pauses between questions without an answer, in seconds."""
    given = settings_of(destination)["proof_retry"]
    assert isinstance(given, list)  # noqa: S101 - the form made it
    return [seconds(text) for text in given]


def expect(destination: Destination, items: Sequence[Held], *, now: datetime) -> None:
    """Have items proven that are being written as delivered, if the destination needs that now.

    Its settings are read anew: they may be others than those that were sent under.
    """
    rows = Destination.objects.filter(pk=destination.pk)
    settings = rows.values_list("version__settings", flat=True).first() or {}
    if not items or grades.required(settings) == grades.ACCEPTED:
        return
    due = now + timedelta(seconds=seconds(settings["proof_after"]))
    Proof.objects.bulk_create(
        [
            Proof(
                item_id=item.pk,
                destination=destination,
                study_id=item.instance.study_id,
                due_at=due,
                delivery=item.fence,
            )
            for item in items
        ],
        update_conflicts=True,
        unique_fields=["item"],
        update_fields=_NEW,
    )


# --- a grade that was raised ---------------------------------------------------------------------
def raised(destination: Destination) -> None:
    """Have what a destination got before enrolled; call where its grade is raised."""
    begin = clock.now() + ENROL_AFTER
    Lane.objects.filter(destination=destination).update(enrol_at=begin, enrolled_to=0)


def is_enrolling(lane: Lane, now: datetime) -> bool:
    """Tell whether there may be items to enrol now."""
    return lane.enrol_at is not None and lane.enrol_at <= now


@transaction.atomic
def enrol(destination: Destination) -> int:
    """Enrol the next items that were delivered and fall short of the grade.

    Returns:
        How many; after the last ones the enrolment is over.
    """
    now, lane = clock.now(), Lane.objects.get(destination=destination)
    if not is_enrolling(lane, now):
        return 0
    kept = [InstanceState.CURRENT, InstanceState.VERSION]
    short = JobItem.objects.filter(destination=destination, pk__gt=lane.enrolled_to)
    short = short.delivered().short_of_grade().filter(instance__state__in=kept)
    rows = list(short.order_by("pk").values_list("pk", "instance__study_id", "fence")[:ENROL])
    _enrol(destination, rows, now)
    is_over = len(rows) < ENROL
    change: dict[str, object] = {"enrol_at": None} if is_over else {"enrolled_to": rows[-1][0]}
    Lane.objects.filter(destination=destination, enrol_at=lane.enrol_at).update(**change)
    return len(rows)


def _enrol(destination: Destination, rows: Sequence[tuple[int, int, int]], now: datetime) -> None:
    """What waits already stays as it is; what was proven to a weaker grade is asked for anew."""
    new = [
        Proof(item_id=pk, destination=destination, study_id=study, delivery=fence, due_at=now)
        for pk, study, fence in rows
    ]
    Proof.objects.bulk_create(new, ignore_conflicts=True)
    known = Proof.objects.filter(item__in=[pk for pk, _study, _fence in rows])
    known.filter(state=ProofState.PROVEN).move(
        ProofState.WAITING, due_at=now, tries=0, absences=0, reason=""
    )


# --- what is due ---------------------------------------------------------------------------------
def may_ask(destination: Destination, now: datetime) -> bool:
    """Tell whether a destination may be asked now: it needs more than answers, its lane is open and
    within its windows, and its last questions did not fail just now."""
    if grade(destination) == grades.ACCEPTED or not destination.enabled or destination.removed:
        return False
    lane = destination.lane
    if lane.state != LaneState.OPEN or lanes.opens_at(destination) is not None:
        return False
    return lane.proof_resume_at is None or lane.proof_resume_at <= now


def due_destinations() -> Iterator[int]:
    """Yield the destinations of which something is to be done: a question, a report to settle, a
    time-out, an enrolment."""
    now = clock.now()
    for row in Destination.objects.filter(lane__isnull=False).select_related("lane", "version"):
        if is_due(row, now):
            yield row.pk


def is_due(destination: Destination, now: datetime) -> bool:
    """Tell whether something is to be done for a destination now."""
    reported = Commitment.objects.filter(destination=destination, state=CommitmentState.REPORTED)
    proofs = Proof.objects.filter(destination=destination)
    return (
        is_enrolling(destination.lane, now)
        or (may_ask(destination, now) and proofs.due(now).exists())
        or reported.exists()
        or proofs.overdue(now).exists()
    )


def unfinished() -> dict[str, int]:
    """Return what is to be done now, by kind; kinds of which there is nothing are 0."""
    now = clock.now()
    rows = Destination.objects.filter(lane__isnull=False).select_related("lane", "version")
    asked = [row.pk for row in rows if may_ask(row, now)]
    return {
        "proofs due": Proof.objects.due(now).filter(destination__in=asked).count(),
        "proofs being asked for": Proof.objects.filter(state=ProofState.ASKING).count(),
        "commitment reports": Commitment.objects.filter(state=CommitmentState.REPORTED).count(),
    }


# --- what workers left ---------------------------------------------------------------------------
def owners() -> set[str]:
    """Return the names under which proofs are being asked for."""
    asking = Proof.objects.filter(state=ProofState.ASKING).order_by()
    return {*asking.values_list("owner", flat=True).distinct()}


def recover_lost(limit: int = 500) -> int:
    """Take back proofs whose asker was lost; a report that it brought about may still come.

    Returns:
        How many were taken back.
    """
    now = clock.now()
    for token in liveness.dead(owners()):
        log.warning("proof.worker_lost", extra={"worker": token})
        mine = Proof.objects.filter(state=ProofState.ASKING, owner__startswith=token)
        mine.update(lease_until=now - timedelta(microseconds=1))
    expired = Proof.objects.expired(now).select_related("destination__version")
    return sum(_take_back(proof, now) for proof in expired.order_by("lease_until")[:limit])


@transaction.atomic
def _take_back(proof: Proof, now: datetime) -> int:
    due = now + lanes.retry_delay(proof.tries + 1, delays(proof.destination))
    mine = Proof.objects.filter(pk=proof.pk, fence=proof.fence).expired(now)
    changed = mine.move(ProofState.WAITING, due_at=due, tries=F("tries") + 1)
    if changed:
        asked = ProofAttempt.objects.filter(item=proof.pk, fence=proof.fence)
        asked.filter(outcome=ProofOutcome.RUNNING).update(
            ended_at=now, outcome=ProofOutcome.LOST, detail="The worker was lost."
        )
    return changed
