"""Proofs of delivery: what is yet to be asked of the far ends, what they said, and commitments.

A `Proof` is the queue's row: one for each item that was delivered to a destination which needs more
than its answer. A `ProofAttempt` is one question about one item and stays; a `Commitment` is one
request for storage commitment, to which a report belongs that may come at any time.
"""

from datetime import datetime

from django.db import models
from django.db.models import F, Q

from router.models.jobs import JobItem, ProofGrade


class ProofState(models.TextChoices):
    """How far the proof of an item is."""

    WAITING = "waiting", "Not proven yet"
    ASKING = "asking", "Being asked"
    AWAITED = "awaited", "Commitment awaited"
    UNCONFIRMED = "unconfirmed", "Unconfirmed"
    PROVEN = "proven", "Proven"
    FAILED = "failed", "Proof failed"


OPEN_PROOFS = (
    ProofState.WAITING,
    ProofState.ASKING,
    ProofState.AWAITED,
    ProofState.UNCONFIRMED,
)
"""Neither proven nor failed."""


class ProofQuerySet(models.QuerySet["Proof"]):
    """Sentences about proofs."""

    def due(self, now: datetime) -> "ProofQuerySet":
        """Proofs to be asked for now."""
        return self.filter(state__in=[ProofState.WAITING, ProofState.UNCONFIRMED], due_at__lte=now)

    def overdue(self, now: datetime) -> "ProofQuerySet":
        """Proofs whose report of commitment did not come in time."""
        return self.filter(state=ProofState.AWAITED, due_at__lte=now)

    def expired(self, now: datetime) -> "ProofQuerySet":
        """Proofs whose asker let its lease run out."""
        return self.filter(state=ProofState.ASKING, lease_until__lt=now)

    def lease(self, *, now: datetime, until: datetime, owner: str) -> int:
        """Claim due proofs: waiting or unconfirmed → asking, with the next fencing number."""
        return self.due(now).update(
            state=ProofState.ASKING,
            fence=F("fence") + 1,
            owner=owner,
            lease_until=until,
            due_at=None,
        )

    def asked_by(self, owner: str) -> "ProofQuerySet":
        """Proofs whose lease is still the caller's."""
        return self.filter(state=ProofState.ASKING, owner=owner)

    def move(self, state: ProofState, *, due_at: datetime | None = None, **fields: object) -> int:
        """Go on to a state; a lease ends with it."""
        return self.update(state=state, due_at=due_at, owner="", lease_until=None, **fields)


class Proof(models.Model):
    """Where the proof of one delivered item stands.

    `delivery` is the fencing number under which the item was delivered: what is said of an earlier
    delivery does not count. `tries` are questions in a row without an answer, `absences` answers in
    a row that it was not found, `failures` how often it was sent again for want of proof.
    """

    item = models.OneToOneField(
        JobItem, on_delete=models.PROTECT, primary_key=True, related_name="proving"
    )
    destination = models.ForeignKey(
        "Destination", on_delete=models.PROTECT, db_index=False, related_name="proofs"
    )  # the indexes below begin with it
    study = models.ForeignKey("Study", on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=12, choices=ProofState, default=ProofState.WAITING)
    due_at = models.DateTimeField(null=True)
    fence = models.PositiveIntegerField(default=0)
    owner = models.CharField(max_length=64, blank=True, default="")
    lease_until = models.DateTimeField(null=True)
    delivery = models.PositiveIntegerField()
    tries = models.PositiveIntegerField(default=0)
    absences = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    reason = models.CharField(max_length=500, blank=True, default="")

    objects = ProofQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["destination", "due_at"],
                condition=Q(due_at__isnull=False),
                name="proof_due",
            ),
            models.Index(fields=["destination", "state"], name="proof_state"),
            models.Index(fields=["lease_until"], condition=Q(state="asking"), name="proof_leased"),
        ]

    def __str__(self) -> str:
        return f"proof of {self.item_id}: {self.state}"


class CommitmentState(models.TextChoices):
    """What became of a request for storage commitment; a report may come in every state."""

    ASKED = "asked", "Asked"
    ACCEPTED = "accepted", "Report awaited"
    REFUSED = "refused", "Refused"
    TIMED_OUT = "timed_out", "No report in time"
    REPORTED = "reported", "Reported"
    SETTLED = "settled", "Settled"


class Commitment(models.Model):
    """One request for storage commitment (PS3.4 J.3.2); the row stands before it leaves.

    `report` is what was reported of the objects that were asked for: `committed` and, each with its
    Failure Reason, `failed`.
    """

    transaction_uid = models.CharField(max_length=64, unique=True)
    destination = models.ForeignKey(
        "Destination", on_delete=models.PROTECT, related_name="commitments"
    )
    version = models.ForeignKey("DestinationVersion", on_delete=models.PROTECT, db_index=False)
    state = models.CharField(max_length=10, choices=CommitmentState, default=CommitmentState.ASKED)
    status = models.PositiveIntegerField(null=True)
    detail = models.CharField(max_length=500, blank=True, default="")
    references_count = models.PositiveIntegerField()
    requested_at = models.DateTimeField()
    until = models.DateTimeField()
    reported_at = models.DateTimeField(null=True)
    report = models.JSONField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["destination"], condition=Q(state="reported"), name="commitment_reported"
            ),
            models.Index(
                fields=["destination", "until"],
                condition=Q(state="accepted"),
                name="commitment_awaited",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.transaction_uid}: {self.state}"


class ProofOutcome(models.TextChoices):
    """What was said to one question."""

    RUNNING = "", "Under way"
    PROVEN = "proven", "Proven"
    ABSENT = "absent", "Not found, looked for again"
    FAILED = "failed", "Proof failed"
    UNANSWERED = "unanswered", "No answer"
    LOST = "lost", "Worker lost"
    NOT_ASKED = "not_asked", "Not asked"


UNSAID = (ProofOutcome.RUNNING, ProofOutcome.UNANSWERED, ProofOutcome.LOST)
"""The far end has said nothing yet; a late report still may."""


class ProofAttempt(models.Model):
    """One question about one item; the row stands before the network is touched.

    `delivery` is the delivery it was about, `status` the Failure Reason that was given.
    """

    item = models.ForeignKey(
        JobItem, on_delete=models.PROTECT, db_index=False, related_name="proof_attempts"
    )  # the constraint below begins with it
    fence = models.PositiveIntegerField()
    delivery = models.PositiveIntegerField()
    grade = models.CharField(max_length=10, choices=ProofGrade)
    commitment = models.ForeignKey(
        Commitment, on_delete=models.PROTECT, null=True, related_name="attempts"
    )
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=10, choices=ProofOutcome, blank=True, default="")
    status = models.PositiveIntegerField(null=True)
    detail = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["item", "fence"], name="one_question_per_lease")
        ]
        indexes = [
            models.Index(fields=["ended_at"], condition=Q(outcome="failed"), name="proof_failed"),
        ]

    def __str__(self) -> str:
        return f"question {self.fence} about {self.item_id}"
