"""Decisions: why a group of instances goes where it goes; and what waits to be decided."""

from django.db import models
from django.db.models import Q

SEPARATOR = ", "
"""Between the names of rules that chose one destination; no name holds it."""


class DecisionOutcome(models.TextChoices):
    """What was decided for a group of instances."""

    ROUTED = "routed", "Sent to destinations"
    WAITING = "waiting", "Waits for the series or study to be quiet"
    HELD = "held", "No rule took it: held"
    ARCHIVED = "archived", "No rule took it: kept"


class DecisionPhase(models.TextChoices):
    """What made the router decide."""

    ARRIVAL = "arrival", "On arrival"
    QUIET = "quiet", "When quiet"
    RELEASE = "release", "Released by a person"


class Decision(models.Model):
    """Why a group of instances of one study goes where it goes.

    ``explanation`` lists every rule in the order tried, with its outcome and the first deciding
    condition and the value seen (``dicom.rules.Outcome.as_dict``). ``destinations`` maps the name
    of each destination chosen to the rule that chose it, or to several that send there under
    different transforms. ``groups`` maps the name of each group that was sent to to the member that
    has the study, and why: ``{"member", "why"}``.
    """

    study = models.ForeignKey("Study", on_delete=models.PROTECT, related_name="decisions")
    revision = models.ForeignKey("ConfigRevision", on_delete=models.PROTECT, null=True)
    phase = models.CharField(max_length=8, choices=DecisionPhase)
    outcome = models.CharField(max_length=8, choices=DecisionOutcome)
    explanation = models.JSONField(default=list)
    destinations = models.JSONField(default=dict)
    groups = models.JSONField(default=dict)
    problem = models.CharField(max_length=200, blank=True, default="")
    instances_count = models.PositiveIntegerField(default=0)
    chosen_count = models.PositiveIntegerField(default=0, help_text="pairs chosen")
    joined_count = models.PositiveIntegerField(
        default=0, help_text="of those, pairs that an earlier decision had chosen already"
    )
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], condition=Q(outcome="held"), name="decision_held"),
        ]

    def __str__(self) -> str:
        return f"decision {self.pk}: {self.outcome}"

    def rules_to(self, destination: str) -> tuple[str, ...]:
        """Return the rules that chose a destination, none when it was not chosen."""
        named: str = self.destinations.get(destination, "")
        return tuple(named.split(SEPARATOR)) if named else ()

    def passed_over(self, destination: str) -> list[str]:
        """Return, as sentences, which groups with a destination among the members of their revision
        gave the study to another."""
        document = self.revision.document if self.revision else {}
        with_it = [
            one["name"] for one in document.get("groups", []) if destination in one["members"]
        ]
        return [
            f"The group {name} gave the study to {self.groups[name]['member']}: "
            f"{self.groups[name]['why']}"
            for name in with_it
            if name in self.groups and self.groups[name]["member"] != destination
        ]


class QuietTimer(models.Model):
    """A rule that waits until a series or study is quiet; fires once."""

    rule = models.CharField(max_length=64)
    trigger = models.CharField(max_length=8)
    study = models.ForeignKey("Study", on_delete=models.PROTECT, related_name="timers")
    series = models.ForeignKey("Series", on_delete=models.PROTECT, null=True, related_name="timers")
    opened_at = models.DateTimeField()
    due_at = models.DateTimeField()
    cap_at = models.DateTimeField()
    quiet_seconds = models.PositiveIntegerField()
    fired_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "study"],
                condition=Q(fired_at=None, series=None),
                name="one_open_study_timer",
            ),
            models.UniqueConstraint(
                fields=["rule", "study", "series"],
                condition=Q(fired_at=None, series__isnull=False),
                name="one_open_series_timer",
            ),
        ]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(fired_at=None), name="timer_open"),
        ]

    def __str__(self) -> str:
        return f"{self.rule} on {self.trigger}"


class TimerItem(models.Model):
    """An instance that waits for a timer; the row goes when the timer fires."""

    timer = models.ForeignKey(QuietTimer, on_delete=models.CASCADE, related_name="items")
    instance = models.ForeignKey("Instance", on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["timer", "instance"], name="timer_item_once")
        ]

    def __str__(self) -> str:
        return f"{self.instance_id} waits for {self.timer_id}"
