"""Configuration revisions and the routing defaults.

A revision is immutable: the whole configuration as one document, with who, when, why and what
changed. Rows of sources, destinations and rules are the working copy of the newest one.
"""

from django.db import models


class ConfigRevision(models.Model):
    """One applied configuration; ``number`` grows by one."""

    number = models.PositiveIntegerField(primary_key=True)
    created_at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    reason = models.CharField(max_length=300, blank=True)
    document = models.JSONField()
    digest = models.CharField(max_length=64)
    changes = models.JSONField(default=list)

    class Meta:
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"revision {self.number}"


class Unmatched(models.TextChoices):
    """What becomes of an instance that no rule takes."""

    HOLD = "hold", "Held for a person"
    ARCHIVE = "archive", "Kept"


class RoutingDefaults(models.Model):
    """The one row of defaults (id 1)."""

    unmatched = models.CharField(max_length=8, choices=Unmatched, default=Unmatched.HOLD)
    quiet_seconds = models.PositiveIntegerField(default=60)
    quiet_cap_seconds = models.PositiveIntegerField(default=1800)

    def __str__(self) -> str:
        return f"unmatched: {self.unmatched}"
