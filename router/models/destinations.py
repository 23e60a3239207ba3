"""Destinations, their immutable versions, and the running state of each one's lane."""

from django.db import models


class DestinationQuerySet(models.QuerySet["Destination"]):
    """Sentences about destinations."""

    def present(self) -> "DestinationQuerySet":
        """Destinations of the current configuration."""
        return self.filter(removed=False)

    def active(self) -> "DestinationQuerySet":
        """Destinations that take work."""
        return self.filter(removed=False, enabled=True)


class Destination(models.Model):
    """A named place to deliver to. Removed ones stay, since the ledger refers to them.

    ``endpoint`` counts the changes of address or identity; an open item carries the endpoint it
    was decided for and is held when the two differ.
    """

    name = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=16)
    enabled = models.BooleanField(default=True)
    removed = models.BooleanField(default=False)
    endpoint = models.PositiveIntegerField(default=1)
    version = models.ForeignKey(
        "DestinationVersion", on_delete=models.PROTECT, null=True, related_name="+"
    )

    objects = DestinationQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class DestinationVersion(models.Model):
    """The settings of a destination as they were once applied; never changed."""

    destination = models.ForeignKey(Destination, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    endpoint = models.PositiveIntegerField()
    settings = models.JSONField()
    revision = models.ForeignKey("ConfigRevision", on_delete=models.PROTECT, null=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["destination", "number"], name="destination_version_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.destination_id} v{self.number}"


class LaneState(models.TextChoices):
    """Whether a destination takes work now."""

    OPEN = "open", "Open"
    BACKOFF = "backoff", "Waits after a failure"
    STOPPED = "stopped", "Stopped: needs attention"
    PAUSED = "paused", "Paused by a person"


class Lane(models.Model):
    """The running state of a destination: failures, next try, last answers.

    With ``drain_to`` it finishes its items up to that one and takes none that came later, until it
    is resumed. ``ill_since`` is when it began to fail, or was paused or drained.

    `proof_failures` and the like are of questions for proof, which fail for themselves. After its
    grade was raised, what it got before is enrolled for proof from `enrol_at` on, up to the item
    `enrolled_to` so far.
    """

    destination = models.OneToOneField(
        Destination, on_delete=models.CASCADE, primary_key=True, related_name="lane"
    )
    state = models.CharField(max_length=8, choices=LaneState, default=LaneState.OPEN)
    resume_at = models.DateTimeField(null=True)
    failures = models.PositiveIntegerField(default=0)
    paced_until = models.DateTimeField(null=True)
    drain_to = models.BigIntegerField(null=True)
    ill_since = models.DateTimeField(null=True)
    reason = models.CharField(max_length=500, blank=True, default="")
    proof_failures = models.PositiveIntegerField(default=0)
    proof_resume_at = models.DateTimeField(null=True)
    proof_reason = models.CharField(max_length=500, blank=True, default="")
    enrol_at = models.DateTimeField(null=True)
    enrolled_to = models.PositiveBigIntegerField(default=0)
    verified_endpoint = models.PositiveIntegerField(default=0)
    last_success_at = models.DateTimeField(null=True)
    last_failure_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.destination_id}: {self.state}"


PROOF_SLOT = 100
"""The slot of the questions for proof; deliveries have 16 at most."""


class LaneSlot(models.Model):
    """One of the parallel associations or requests a destination may have; leased by a drain.

    ``taken_at`` is when a drain last began there, ``served_at`` when one last claimed, and ``turn``
    counts the claims.
    """

    destination = models.ForeignKey(Destination, on_delete=models.CASCADE, related_name="slots")
    number = models.PositiveIntegerField()
    owner = models.CharField(max_length=64, blank=True, default="")
    lease_until = models.DateTimeField(null=True)
    taken_at = models.DateTimeField(null=True)
    served_at = models.DateTimeField(null=True)
    turn = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["destination", "number"], name="lane_slot_once")
        ]

    def __str__(self) -> str:
        return f"{self.destination_id} #{self.number}"
