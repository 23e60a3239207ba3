"""Small running rows: counts by hour, heartbeats of processes, and the doorbells."""

from django.db import models


class CounterKind(models.TextChoices):
    """What is counted."""

    RECEIVED = "received", "Received"
    DUPLICATE = "duplicate", "Identical duplicates"
    QUARANTINED = "quarantined", "Quarantined"
    REFUSED = "refused", "Refused"
    DELIVERED = "delivered", "Delivered"
    PARKED = "parked", "Parked"
    DISPROVED = "disproved", "Proof failed"


class HourCount(models.Model):
    """Objects and bytes of one hour by modality, source and destination; exact after a crash."""

    hour = models.DateTimeField()
    kind = models.CharField(max_length=12, choices=CounterKind)
    modality = models.CharField(max_length=16, blank=True, default="")
    source = models.CharField(max_length=64, blank=True, default="")
    destination = models.CharField(max_length=64, blank=True, default="")
    objects_count = models.PositiveBigIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "kind", "modality", "source", "destination"], name="hour_count_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.hour:%Y-%m-%d %H}"


class Heartbeat(models.Model):
    """The last sign of life of a process, with what it says of itself."""

    name = models.CharField(max_length=100, primary_key=True)
    role = models.CharField(max_length=16)
    at = models.DateTimeField()
    facts = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name


class Bell(models.Model):
    """A doorbell: ``rung`` while a task that will look is queued, so rings coalesce."""

    key = models.CharField(max_length=100, primary_key=True)
    rung = models.BooleanField(default=False)
    rung_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.key


class LedgerCheck(models.Model):
    """One nightly reckoning: what was counted, and the gaps that were found."""

    at = models.DateTimeField(db_index=True)
    seconds = models.FloatField()
    gaps_count = models.PositiveIntegerField()
    gaps = models.JSONField(default=list)
    counts = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M}: {self.gaps_count} gaps"
