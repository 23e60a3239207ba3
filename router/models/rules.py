"""Rules: data that says which instances go where, and when."""

from django.db import models


class RuleState(models.TextChoices):
    """How far a rule is in use."""

    DRAFT = "draft", "Draft"
    SHADOW = "shadow", "Shadow"
    LIVE = "live", "Live"


class Trigger(models.TextChoices):
    """When the instances a rule takes leave."""

    INSTANCE = "instance", "Each instance at once"
    SERIES = "series", "When the series is quiet"
    STUDY = "study", "When the study is quiet"


class Rule(models.Model):
    """One rule; ``when`` is the condition tree of docs/configuration.md, never code.

    ``priority`` is its place among the rules; ``urgency`` the priority of the jobs that it makes,
    where it is not to be the destination's.
    """

    name = models.CharField(max_length=64, unique=True)
    enabled = models.BooleanField(default=True)
    priority = models.IntegerField(default=100)
    state = models.CharField(max_length=8, choices=RuleState, default=RuleState.DRAFT)
    when = models.JSONField(null=True)
    trigger = models.CharField(max_length=8, choices=Trigger, default=Trigger.INSTANCE)
    quiet_seconds = models.PositiveIntegerField(null=True)
    send = models.JSONField(default=list)
    transform = models.CharField(max_length=64, blank=True, default="")
    urgency = models.CharField(max_length=8, blank=True, default="")
    stop = models.BooleanField(default=False)

    class Meta:
        ordering = ["priority", "name"]

    def __str__(self) -> str:
        return self.name
