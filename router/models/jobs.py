"""Jobs, items and attempts: the ledger of what leaves.

Transitions of an item are methods of its queryset; each is one conditional UPDATE with a counted
result, so the same code is right on PostgreSQL and on SQLite.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import models
from django.db.models import F, Q, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce

from router.models.priorities import Priority


class Cause(models.TextChoices):
    """Why a job exists."""

    RULE = "rule", "Rule"
    REPLAY = "replay", "Replay"
    MOVE = "move", "C-MOVE"
    MANUAL = "manual", "By hand"
    FAILOVER = "failover", "Fail-over"


class Job(models.Model):
    """One study, for one destination, from one cause; with ``assignment`` for a group of which that
    destination is, or was, the study's member."""

    key = models.CharField(max_length=200, unique=True)
    study = models.ForeignKey("Study", on_delete=models.PROTECT, related_name="jobs")
    destination = models.ForeignKey("Destination", on_delete=models.PROTECT, related_name="jobs")
    cause = models.CharField(max_length=8, choices=Cause)
    rule = models.CharField(max_length=64, blank=True, default="")
    replay = models.ForeignKey(
        "Replay", on_delete=models.PROTECT, null=True, blank=True, related_name="jobs"
    )
    assignment = models.ForeignKey(
        "Assignment", on_delete=models.PROTECT, null=True, blank=True, related_name="jobs"
    )
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.NORMAL)
    created_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"job {self.pk}"


class ItemState(models.TextChoices):
    """The states of an item; the words of the ledger."""

    PENDING = "pending", "Pending"
    LEASED = "leased", "Sending"
    WAITING = "waiting", "Waiting"
    DELIVERED = "delivered", "Delivered"
    DELIVERED_WITH_WARNING = "warning", "Delivered with warning"
    PARKED = "parked", "Needs attention"
    HELD = "held", "Held"
    CANCELLED = "cancelled", "Cancelled"


OPEN_STATES = (ItemState.PENDING, ItemState.LEASED, ItemState.WAITING)
UNFINISHED_STATES = (
    *(ItemState.PENDING, ItemState.WAITING, ItemState.LEASED),
    *(ItemState.PARKED, ItemState.HELD),
)
DONE_STATES = (ItemState.DELIVERED, ItemState.DELIVERED_WITH_WARNING)


class ProofGrade(models.TextChoices):
    """How surely the far side has it."""

    NONE = "", "None"
    ACCEPTED = "accepted", "Accepted"
    VERIFIED = "verified", "Verified"
    COMMITTED = "committed", "Committed"


def _in_words(states: Iterable[ItemState]) -> models.Func:
    """Return ``state IN (…)`` with the states written out as the condition of an index has them:
    by parameters SQLite would not find it again."""
    words = ", ".join(f"'{state.value}'" for state in states)
    template = f"%(expressions)s IN ({words})"
    return models.Func(F("state"), template=template, output_field=models.BooleanField())


class JobItemQuerySet(models.QuerySet["JobItem"]):
    """Sentences about items, and their transitions."""

    def open(self) -> "JobItemQuerySet":
        """Items still to be delivered without a person; the index ``item_due`` holds these."""
        return self.filter(_in_words(OPEN_STATES))

    def unfinished(self) -> "JobItemQuerySet":
        """Items neither delivered nor cancelled; the index ``item_open`` holds these."""
        return self.filter(_in_words(UNFINISHED_STATES))

    def due(self, now: datetime) -> "JobItemQuerySet":
        """Items that may be claimed now."""
        return self.open().filter(
            Q(state=ItemState.PENDING) | Q(state=ItemState.WAITING, due_at__lte=now)
        )

    def oldest_first(self) -> "JobItemQuerySet":
        """In the order in which they were chosen."""
        return self.order_by("id")

    def in_turn(self) -> "JobItemQuerySet":
        """The most urgent first, and of these in the order in which they were chosen."""
        return self.order_by("priority", "id")  # as the index ``item_due`` has them

    def expired(self, now: datetime) -> "JobItemQuerySet":
        """Items whose worker let its lease run out."""
        return self.filter(state=ItemState.LEASED, lease_until__lt=now)

    def leased_by(self, owner: str) -> "JobItemQuerySet":
        """Items whose lease is still the caller's; an owner's name is used for one claim only."""
        return self.filter(state=ItemState.LEASED, owner=owner)

    def lease(self, *, now: datetime, until: datetime, owner: str) -> int:
        """Claim due items: pending or waiting → leased, with the next fencing number."""
        return self.due(now).update(
            state=ItemState.LEASED, fence=F("fence") + 1, owner=owner, lease_until=until
        )

    def abandon(self, token: str, *, now: datetime) -> int:
        """End the leases whose owners' names begin with ``token``: their process has ended."""
        mine = self.filter(state=ItemState.LEASED, owner__startswith=token)
        return mine.update(lease_until=now - timedelta(microseconds=1))

    def retry_now(self) -> int:
        """Parked or waiting → pending, the count of attempts starts anew."""
        return self.filter(state__in=[ItemState.PARKED, ItemState.WAITING]).update(
            state=ItemState.PENDING, due_at=None, tries=0, lost=0, reason=""
        )

    def hold(self, reason: str) -> int:
        """Pending or waiting → held."""
        return self.filter(state__in=[ItemState.PENDING, ItemState.WAITING]).update(
            state=ItemState.HELD, reason=reason
        )

    def release(self) -> int:
        """Held → pending, for the destination's endpoint of today."""
        endpoint = models.Subquery(
            JobItem.objects.filter(pk=models.OuterRef("pk")).values("destination__endpoint")[:1]
        )
        return self.filter(state=ItemState.HELD).update(
            state=ItemState.PENDING, due_at=None, reason="", endpoint=endpoint
        )

    def delivered(self) -> "JobItemQuerySet":
        """Items that the far end took."""
        return self.filter(state__in=DONE_STATES)

    def short_of_grade(self) -> "JobItemQuerySet":
        """Items whose proof is weaker than their destination needs it today."""
        return self._with_need().filter(
            Q(proof=ProofGrade.NONE)
            | Q(proof=ProofGrade.ACCEPTED) & ~Q(needed=ProofGrade.ACCEPTED)
            | Q(proof=ProofGrade.VERIFIED, needed=ProofGrade.COMMITTED)
        )

    def of_enough_grade(self) -> "JobItemQuerySet":
        """Items that are proven as well as their destination needs it today."""
        return self._with_need().filter(
            Q(proof=ProofGrade.COMMITTED)
            | Q(proof=ProofGrade.VERIFIED) & ~Q(needed=ProofGrade.COMMITTED)
            | Q(proof=ProofGrade.ACCEPTED, needed=ProofGrade.ACCEPTED)
        )

    def _with_need(self) -> "JobItemQuerySet":
        """Know what grade each item's destination needs; settings from before there were any need
        an answer only."""
        said = KeyTextTransform("proof", "destination__version__settings")
        usual = Value(ProofGrade.ACCEPTED.value)
        return self.alias(needed=Coalesce(said, usual, output_field=models.TextField()))

    def disprove(self, *, parked: bool, reason: str, status: int | None) -> int:
        """Delivered → pending, or parked: the far end does not have them."""
        return self.delivered().update(
            state=ItemState.PARKED if parked else ItemState.PENDING,
            due_at=None,
            finished_at=None,
            proof=ProofGrade.NONE,
            reason=reason,
            status=status,
        )

    def prioritise(self, priority: Priority) -> int:
        """Give what is not finished another priority, in whatever state it waits."""
        return self.unfinished().exclude(priority=priority).update(priority=priority)

    def cancel(self, reason: str) -> int:
        """Everything not sent and not being sent → cancelled."""
        return self.filter(
            state__in=[ItemState.PENDING, ItemState.WAITING, ItemState.HELD, ItemState.PARKED]
        ).update(state=ItemState.CANCELLED, reason=reason)


class JobItem(models.Model):
    """One instance version for one destination under one transform.

    ``fence`` grows with each lease; a later write says "where the lease is mine". ``tries``
    counts attempts that ended in a failure, ``lost`` those whose worker died. The hash at ingress,
    which is also that after a transform while there is none, stands with the instance;
    ``egress_sha256`` is of the bytes that left, in ``egress_syntax`` where that is another transfer
    syntax than the stored one.
    """

    job = models.ForeignKey(
        Job, on_delete=models.PROTECT, db_index=False, related_name="items"
    )  # a constraint below begins with it
    destination = models.ForeignKey("Destination", on_delete=models.PROTECT, related_name="items")
    instance = models.ForeignKey("Instance", on_delete=models.PROTECT, related_name="items")
    decision = models.ForeignKey(
        "Decision", on_delete=models.PROTECT, null=True, related_name="items"
    )
    cause = models.CharField(max_length=8, choices=Cause)
    transform = models.CharField(max_length=64, blank=True, default="")
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.NORMAL)
    endpoint = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=12, choices=ItemState, default=ItemState.PENDING)
    due_at = models.DateTimeField(null=True)
    fence = models.PositiveIntegerField(default=0)
    owner = models.CharField(max_length=64, blank=True, default="")
    lease_until = models.DateTimeField(null=True)
    tries = models.PositiveIntegerField(default=0)
    lost = models.PositiveIntegerField(default=0)
    reason = models.CharField(max_length=500, blank=True, default="")
    status = models.PositiveIntegerField(null=True)
    proof = models.CharField(max_length=10, choices=ProofGrade, blank=True, default="")
    egress_syntax = models.CharField(max_length=64, blank=True, default="")
    egress_sha256 = models.CharField(max_length=64, blank=True, default="")
    size = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    objects = JobItemQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["job", "instance", "transform"], name="item_once_in_job"
            ),
            models.UniqueConstraint(
                fields=["destination", "instance", "transform"],
                condition=Q(cause="rule"),
                name="chosen_once_by_rules",
            ),
        ]
        indexes = [
            models.Index(
                fields=["destination", "state", "id"],
                condition=Q(state__in=[state.value for state in UNFINISHED_STATES]),
                name="item_open",
            ),
            models.Index(
                fields=["destination", "priority", "id"],
                condition=Q(state__in=[state.value for state in OPEN_STATES]),
                name="item_due",
            ),
            models.Index(fields=["lease_until"], condition=Q(state="leased"), name="item_leased"),
            models.Index(fields=["due_at"], condition=Q(state="waiting"), name="item_waiting"),
            models.Index(fields=["finished_at"], name="item_finished"),
        ]

    def __str__(self) -> str:
        return f"item {self.pk}: {self.state}"


class AttemptOutcome(models.TextChoices):
    """How an attempt ended."""

    RUNNING = "", "Under way"
    SUCCESS = "success", "Success"
    WARNING = "warning", "Success with warning"
    REFUSED = "refused", "Refused"
    TRANSPORT = "transport", "Transport error"
    UNKNOWN = "unknown", "Unknown: cut before the answer"
    WORKER_LOST = "lost", "Worker lost"
    NOT_SENT = "not_sent", "Not sent"


class Attempt(models.Model):
    """One try of one item; the row stands before the network is touched."""

    item = models.ForeignKey(
        JobItem, on_delete=models.PROTECT, db_index=False, related_name="attempts"
    )  # the constraint below begins with it
    fence = models.PositiveIntegerField()
    version = models.ForeignKey(
        "DestinationVersion", on_delete=models.PROTECT, null=True, db_index=False
    )
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=10, choices=AttemptOutcome, blank=True, default="")
    status = models.PositiveIntegerField(null=True)
    detail = models.CharField(max_length=500, blank=True, default="")
    bytes_sent = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["item", "fence"], name="one_attempt_per_lease")
        ]

    def __str__(self) -> str:
        return f"attempt {self.fence} of {self.item_id}"
