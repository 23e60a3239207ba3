"""Sources: the peers that may speak to us, with the services each may use."""

from django.db import models


class DuplicatePolicy(models.TextChoices):
    """What is done with other bytes under a known SOP Instance UID."""

    QUARANTINE = "quarantine", "Quarantine"
    VERSIONS = "versions", "Keep as versions"
    REFUSE = "refuse", "Refuse"


class SourceQuerySet(models.QuerySet["Source"]):
    """Sentences about sources."""

    def enabled(self) -> "SourceQuerySet":
        """Sources that may connect."""
        return self.filter(enabled=True)


class Source(models.Model):
    """A calling AE title (exact, or with ``*`` and ``?``) and where it may come from."""

    name = models.CharField(max_length=64, unique=True)
    enabled = models.BooleanField(default=True)
    ae_title = models.CharField(max_length=16)
    hosts = models.JSONField(default=list)
    services = models.JSONField(default=list)
    duplicates = models.CharField(
        max_length=16, choices=DuplicatePolicy, default=DuplicatePolicy.QUARANTINE
    )

    objects = SourceQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
