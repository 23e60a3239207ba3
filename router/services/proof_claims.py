"""What one round of questions holds: proofs claimed with a lease, by study, and their attempts.

The attempts, and the requests for commitment that they belong to, stand before the network is
touched. A study is asked about as a whole where that is possible: while objects of it are still
on their way it waits, for a few minutes at most. Decides nothing about answers.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import uuid4

from django.db import connection, transaction

from router import stopping
from router.destinations import grades
from router.destinations.base import CommitRequest
from router.destinations.fields import seconds
from router.models import (
    DONE_STATES,
    Commitment,
    Destination,
    ItemState,
    JobItem,
    LaneSlot,
    Proof,
    ProofAttempt,
    ProofState,
)
from router.services import claims, clock, liveness, outgoing, proofs
from router.services.claims import Held
from router.services.outages import TROUBLE, forget

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
RENEW_SECONDS = 10.0
LOOKED_AT = 2000
MOST_ASKED = 200
"""Questions in a round, where each is a question of its own or a part of a C-FIND."""
LEAST_COMMITTED = 1000
"""Objects in a round of requests for commitment, or as many as one request may have."""
TOGETHER = timedelta(minutes=5)
"""The longest that a study waits for objects of it that are still on their way."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One proof of a round as it was when it was claimed, with its item."""

    item: Held
    fence: int
    tries: int
    absences: int
    failures: int
    study_id: int


@dataclass
class Round:
    """The proofs that one drain asks for under one owner's name; `renewed` is monotonic."""

    owner: str
    slot: LaneSlot
    destination: Destination
    grade: str
    asked: dict[int, Asked]
    requests: dict[str, Sequence[int]] = field(default_factory=dict)
    renewed: float = field(default_factory=time.monotonic)
    lost: bool = False

    def keep(self) -> bool:
        """Renew the lease when it is time to; tell whether the round must end at once."""
        if not self.lost and time.monotonic() - self.renewed > RENEW_SECONDS:
            self._renew()
        return self.lost or stopping.overdue()

    def _renew(self) -> None:
        asked, until = time.monotonic(), clock.now() + LEASE
        try:
            slot = LaneSlot.objects.filter(pk=self.slot.pk, owner=self.slot.owner)
            self.lost = not slot.update(lease_until=until)
            Proof.objects.all().asked_by(self.owner).update(lease_until=until)
        except TROUBLE:
            if connection.in_atomic_block:
                raise
            forget()
            return
        self.renewed = asked

    def commit_requests(self) -> list[CommitRequest]:
        """Return the requests for commitment of this round."""
        return [
            CommitRequest(uid, [outgoing.of_item(self.asked[pk].item) for pk in items])
            for uid, items in self.requests.items()
        ]


def claim(destination: Destination, slot: LaneSlot) -> Round | None:
    """Claim the proofs that are to be asked for next.

    Returns:
        None when nothing is due, or the destination is not to be asked now, or the slot is lost.
    """
    rows = Destination.objects.active().select_related("version", "lane")
    fresh, now = rows.filter(pk=destination.pk).first(), clock.now()
    if fresh is None or not proofs.may_ask(fresh, now):
        return None
    ids = _ready(fresh, now)
    return _take(fresh, slot, ids, now) if ids else None


def most(destination: Destination) -> int:
    """Return how many proofs a round is about at most; of a destination that gave no answer lately
    it is one, as a probe."""
    if destination.lane.proof_failures:
        return 1
    if proofs.grade(destination) != grades.COMMITTED:
        return MOST_ASKED
    return max(LEAST_COMMITTED, _in_a_request(destination))


def _in_a_request(destination: Destination) -> int:
    return int(str(proofs.settings_of(destination)["commit_batch"]))


def _ready(destination: Destination, now: datetime) -> list[int]:
    """Return the proofs due of studies of which nothing is on its way, the oldest first."""
    due = Proof.objects.filter(destination=destination).due(now).order_by("due_at", "pk")
    studies: dict[int, list[int]] = {}
    first: dict[int, datetime] = {}
    for pk, study, due_at in due.values_list("pk", "study_id", "due_at")[:LOOKED_AT]:
        studies.setdefault(study, []).append(pk)
        first.setdefault(study, due_at or now)
    busy = _busy(destination, list(studies), now)
    ready = [pks for study, pks in studies.items() if study not in busy or _late(first[study], now)]
    return [pk for pks in ready for pk in pks][: most(destination)]


def _late(first: datetime, now: datetime) -> bool:
    return first < now - TOGETHER


def _busy(destination: Destination, studies: Sequence[int], now: datetime) -> set[int]:
    """Return those studies of which objects are being sent there, or were just delivered."""
    items = JobItem.objects.filter(destination=destination).open()
    items = items.filter(state__in=[ItemState.PENDING, ItemState.LEASED])
    sending = items.filter(instance__study__in=studies).order_by()
    fresh = Proof.objects.filter(
        destination=destination, study__in=studies, state=ProofState.WAITING, due_at__gt=now
    ).filter(tries=0, absences=0)
    return {
        *sending.values_list("instance__study_id", flat=True).distinct(),
        *fresh.order_by().values_list("study_id", flat=True).distinct(),
    }


@transaction.atomic
def _take(
    destination: Destination, slot: LaneSlot, ids: Sequence[int], now: datetime
) -> Round | None:
    asked, owner, until = time.monotonic(), liveness.new_name(), now + LEASE
    if not LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner).update(lease_until=until):
        return None
    Proof.objects.filter(pk__in=ids).lease(now=now, until=until, owner=owner)
    found = Round(owner, slot, destination, proofs.grade(destination), {}, renewed=asked)
    _put_aside(found)
    _fill(found)
    if found.grade == grades.COMMITTED:
        _open_requests(found, now)
    _begin_attempts(found, now)
    return found


def _put_aside(found: Round) -> None:
    """What was delivered to another address cannot be asked for any more."""
    mine = Proof.objects.all().asked_by(found.owner)
    mine.exclude(item__endpoint=found.destination.endpoint).move(
        ProofState.UNCONFIRMED,
        reason=f"The address of {found.destination.name} has changed since this was delivered, so "
        "it cannot be asked for; send it again to have it proven.",
    )


def _fill(found: Round) -> None:
    """Read what was claimed; what is not delivered any more is no proof to ask for."""
    mine = Proof.objects.all().asked_by(found.owner)
    fields = ("pk", "fence", "tries", "absences", "failures", "study_id", "delivery")
    rows = {row[0]: row[1:] for row in mine.values_list(*fields)}
    held = claims.held(JobItem.objects.filter(pk__in=rows, state__in=DONE_STATES))
    for pk, (fence, tries, absences, failures, study, delivery) in rows.items():
        if pk in held and held[pk].fence == delivery:
            found.asked[pk] = Asked(held[pk], fence, tries, absences, failures, study)
    mine.exclude(pk__in=found.asked).move(ProofState.FAILED, reason="It is not delivered any more.")


def _open_requests(found: Round, now: datetime) -> None:
    """Make the rows of the requests: one a study, or several where it is large."""
    settings = proofs.settings_of(found.destination)
    until = now + timedelta(seconds=seconds(str(settings["commit_timeout"])))
    size = _in_a_request(found.destination)
    studies: dict[int, list[int]] = {}
    for pk, one in found.asked.items():
        studies.setdefault(one.study_id, []).append(pk)
    parts = [pks[at : at + size] for pks in studies.values() for at in range(0, len(pks), size)]
    found.requests = {f"2.25.{uuid4().int}": part for part in parts}
    Commitment.objects.bulk_create(
        Commitment(
            transaction_uid=uid,
            destination=found.destination,
            version=found.destination.version,
            references_count=len(part),
            requested_at=now,
            until=until,
        )
        for uid, part in found.requests.items()
    )


def _begin_attempts(found: Round, now: datetime) -> None:
    rows = Commitment.objects.filter(transaction_uid__in=found.requests)
    keys = dict(rows.values_list("transaction_uid", "pk"))
    requests = {pk: keys[uid] for uid, part in found.requests.items() for pk in part}
    ProofAttempt.objects.bulk_create(
        ProofAttempt(
            item_id=pk,
            fence=one.fence,
            delivery=one.item.fence,
            grade=found.grade,
            commitment_id=requests.get(pk),
            started_at=now,
        )
        for pk, one in found.asked.items()
    )
