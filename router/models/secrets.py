"""Stored secrets: envelopes that open in their own row only; never the secret itself."""

from uuid import uuid4

from django.db import models


class Secret(models.Model):
    """A secret that a destination names by ``password_stored: name``.

    ``envelope`` is what ``router.secrets.seal`` made for ``place``; ``key_id`` repeats which key it
    is under, so that those under older keys are found.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.CharField(max_length=64, unique=True)
    envelope = models.BinaryField()
    key_id = models.CharField(max_length=16, db_index=True)
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=150)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def place(self) -> str:
        """Return what binds the envelope to this row."""
        return f"router.secret.envelope:{self.pk.hex}"
