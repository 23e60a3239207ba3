"""The audit log: append-only; what was done, by whom, from where, to what, with what outcome."""

from django.db import models


class AuditOutcome(models.TextChoices):
    """EventOutcomeIndicator of PS3.15 A.5."""

    SUCCESS = "0", "Success"
    MINOR_FAILURE = "4", "Minor failure"
    SERIOUS_FAILURE = "8", "Serious failure"
    MAJOR_FAILURE = "12", "Major failure"


class AuditEvent(models.Model):
    """One event. Patients are referred to by study UID and accession, not by name."""

    at = models.DateTimeField(db_index=True)
    event = models.CharField(max_length=64, db_index=True)
    code = models.CharField(max_length=16)
    outcome = models.CharField(max_length=2, choices=AuditOutcome, default=AuditOutcome.SUCCESS)
    actor = models.CharField(max_length=150)
    actor_kind = models.CharField(max_length=16)
    remote_address = models.CharField(max_length=64)
    study_instance_uid = models.CharField(max_length=64, blank=True, default="", db_index=True)
    target = models.CharField(max_length=200, blank=True, default="")
    details = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.event} by {self.actor}"
