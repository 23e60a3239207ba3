"""What came in: associations, receipts, and the marks of what is yet to be routed."""

from datetime import datetime

from django.db import models
from django.db.models import Q


class OriginKind(models.TextChoices):
    """By which door an object came in."""

    DIMSE = "dimse", "C-STORE"
    STOW = "stow", "STOW-RS"
    IMPORT = "import", "Import"
    UPLOAD = "upload", "Upload"
    RETRIEVE = "retrieve", "Retrieve"
    AI = "ai", "AI result"


class Association(models.Model):
    """A DICOM association, or one run of another door, with its facts and counts."""

    uid = models.CharField(max_length=32, unique=True)
    origin = models.CharField(max_length=8, choices=OriginKind)
    calling_ae = models.CharField(max_length=16)
    called_ae = models.CharField(max_length=16)
    remote_host = models.CharField(max_length=64)
    remote_port = models.PositiveIntegerField(null=True)
    source = models.CharField(max_length=64)
    secure = models.BooleanField(default=False)
    user = models.CharField(max_length=150)
    started_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=200)
    objects_count = models.PositiveIntegerField(default=0)
    refused_count = models.PositiveIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)
    seen_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(
                fields=["started_at"], condition=Q(ended_at=None), name="association_open"
            ),
        ]

    def __str__(self) -> str:
        return self.uid


class ReceiptOutcome(models.TextChoices):
    """What became of a store when it was indexed."""

    STORED = "stored", "Stored"
    DUPLICATE = "duplicate", "Identical duplicate"
    VERSION = "version", "Kept as a version"
    QUARANTINED = "quarantined", "Quarantined"
    REFUSED = "refused", "Refused"


class Receipt(models.Model):
    """One C-STORE, or its like, that was answered; append-only. UIDs are as received."""

    uid = models.CharField(max_length=32, unique=True)
    association = models.ForeignKey(Association, on_delete=models.PROTECT, related_name="receipts")
    outcome = models.CharField(max_length=12, choices=ReceiptOutcome)
    reason = models.CharField(max_length=200)
    status = models.PositiveIntegerField(default=0)
    sop_class_uid = models.CharField(max_length=64)
    sop_instance_uid = models.CharField(max_length=64)
    study_instance_uid = models.CharField(max_length=64)
    series_instance_uid = models.CharField(max_length=64)
    transfer_syntax_uid = models.CharField(max_length=64)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField()
    instance = models.ForeignKey(
        "Instance", on_delete=models.PROTECT, null=True, related_name="receipts"
    )
    received_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.uid


class RoutingMarkQuerySet(models.QuerySet["RoutingMark"]):
    """Sentences about marks."""

    def undecided(self) -> "RoutingMarkQuerySet":
        """Marks that no decision answers yet."""
        return self.filter(decision=None)

    def due(self, now: datetime) -> "RoutingMarkQuerySet":
        """Marks to be decided now; those whose file could not be read wait a while."""
        return self.undecided().filter(Q(due_at=None) | Q(due_at__lte=now))

    def oldest_first(self) -> "RoutingMarkQuerySet":
        """In the order of arrival."""
        return self.order_by("id")

    def older_than(self, moment: datetime) -> "RoutingMarkQuerySet":
        """Marks made before ``moment``."""
        return self.filter(created_at__lt=moment)


class RoutingMark(models.Model):
    """ "To be routed": one a stored instance version; answered by the decision it names.

    ``header`` is what the rules read (``dicom.header.pack``), kept until they were asked for the
    last time; where it is absent the file is read. ``tries`` and ``due_at`` count and space the
    looks at a file that cannot be read now.
    """

    instance = models.OneToOneField(
        "Instance", on_delete=models.PROTECT, primary_key=False, related_name="mark"
    )
    association = models.ForeignKey(
        Association, on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    decision = models.ForeignKey(
        "Decision", on_delete=models.PROTECT, null=True, related_name="marks"
    )
    created_at = models.DateTimeField()
    header = models.BinaryField(null=True)
    tries = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(null=True)

    objects = RoutingMarkQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["id"], condition=Q(decision=None), name="mark_undecided"),
        ]

    def __str__(self) -> str:
        return f"mark of {self.instance_id}"
