"""Groups of destinations, and which member of a group has a study.

A study is never split: all of it that a group is to get goes to one member, the assigned one.
"""

from django.db import models
from django.db.models import Q


class GroupKind(models.TextChoices):
    """What a group is for."""

    FAILOVER = "failover", "Fail-over"
    BALANCE = "balance", "Load balancing"


class Balance(models.TextChoices):
    """How a balancing group chooses among its members."""

    ROUND_ROBIN = "round_robin", "In turn"
    LEAST_OPEN = "least_open", "Least open work"
    HASH = "hash", "By the Study Instance UID"


class DestinationGroupQuerySet(models.QuerySet["DestinationGroup"]):
    """Sentences about groups."""

    def present(self) -> "DestinationGroupQuerySet":
        """Groups of the current configuration."""
        return self.filter(removed=False)


class DestinationGroup(models.Model):
    """A name that rules send to, for several destinations. Removed ones stay, as destinations do.

    ``members`` are names in their order, ``former`` those that were members before. ``last`` is the
    member that was chosen last, ``looked_at`` when nothing was found that could be moved.
    """

    name = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=8, choices=GroupKind, default=GroupKind.FAILOVER)
    members = models.JSONField(default=list)
    former = models.JSONField(default=list)
    by = models.CharField(max_length=12, choices=Balance, blank=True, default="")
    returns = models.BooleanField(default=True)
    patience_seconds = models.PositiveIntegerField(default=300)
    enabled = models.BooleanField(default=True)
    removed = models.BooleanField(default=False)
    looked_at = models.DateTimeField(null=True)
    last = models.ForeignKey("Destination", on_delete=models.PROTECT, null=True, related_name="+")

    objects = DestinationGroupQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Assignment(models.Model):
    """Which member of a group has a study, and why.

    ``number`` counts the members it had; each change is one conditional UPDATE. Whoever chooses
    items for the study, or moves it, locks this row first. ``history`` lists the members before:
    ``{"member", "since", "reason"}``.
    """

    study = models.ForeignKey("Study", on_delete=models.PROTECT, related_name="assignments")
    group = models.ForeignKey(
        DestinationGroup, on_delete=models.PROTECT, db_index=False, related_name="assignments"
    )  # an index below begins with it
    member = models.ForeignKey("Destination", on_delete=models.PROTECT, related_name="assignments")
    number = models.PositiveIntegerField(default=1)
    reason = models.CharField(max_length=500)
    since = models.DateTimeField()
    history = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["study", "group"], name="assigned_once_in_group")
        ]
        indexes = [models.Index(fields=["group", "since"], name="assignment_since")]

    def __str__(self) -> str:
        return f"study {self.study_id} of {self.group_id}: {self.member_id}"


class ItemShare(models.Model):
    """A choice that joined an item of another: of a group's study, or without an assignment of a
    rule that sends there by name. What moves elsewhere for one of them stays for the others."""

    item = models.ForeignKey("JobItem", on_delete=models.PROTECT, related_name="shares")
    assignment = models.ForeignKey(
        Assignment, on_delete=models.PROTECT, null=True, related_name="shares"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["item", "assignment"], name="item_shared_once"),
            models.UniqueConstraint(
                fields=["item"], condition=Q(assignment=None), name="item_shared_by_name_once"
            ),
        ]

    def __str__(self) -> str:
        return f"item {self.item_id} also for {self.assignment_id or 'a rule'}"
