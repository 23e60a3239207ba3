"""Studies, series and instances: what is stored, and what may be searched.

One *current* object stands under each SOP Instance UID; other bytes under the same UID are kept
as versions or in quarantine, never in its place.
"""

from django.db import connection, models
from django.db.models import Exists, Q

from router.models.decisions import TimerItem
from router.models.jobs import DONE_STATES, ItemState, JobItem

LAST_CHARACTER = chr(0x10FFFF)


def begins(column: str, text: str) -> Q:
    """Say that a column begins with ``text``, in the words that find it by its index.

    SQLite's LIKE uses none; PostgreSQL's order of text is not that of its characters.
    """
    if connection.vendor == "sqlite":
        return Q((f"{column}__gte", text), (f"{column}__lt", text + LAST_CHARACTER))
    return Q((f"{column}__startswith", text))


class StudyQuerySet(models.QuerySet["Study"]):
    """Sentences about studies."""

    def visible(self) -> "StudyQuerySet":
        """Studies with at least one current instance, or something in quarantine."""
        return self.filter(Q(instances_count__gt=0) | Q(quarantined_count__gt=0))

    def newest_first(self) -> "StudyQuerySet":
        """Last arrival first."""
        return self.order_by("-last_received_at", "-id")


class Study(models.Model):
    """A study as first received; counts are kept by the indexer."""

    study_instance_uid = models.CharField(max_length=64, unique=True)
    patient_id = models.CharField(max_length=64, db_index=True)
    issuer_of_patient_id = models.CharField(max_length=64)
    patient_name = models.CharField(max_length=324)
    patient_name_search = models.CharField(max_length=324, db_index=True)
    patient_birth_date = models.CharField(max_length=8)
    patient_sex = models.CharField(max_length=16)
    study_date = models.CharField(max_length=8, db_index=True)
    study_time = models.CharField(max_length=16)
    study_id = models.CharField(max_length=16)
    accession_number = models.CharField(max_length=16, db_index=True)
    study_description = models.CharField(max_length=64)
    referring_physician_name = models.CharField(max_length=324)
    institution_name = models.CharField(max_length=64)
    modalities = models.CharField(max_length=128)
    source = models.CharField(max_length=64)
    series_count = models.PositiveIntegerField(default=0)
    instances_count = models.PositiveIntegerField(default=0)
    quarantined_count = models.PositiveIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)
    first_received_at = models.DateTimeField()
    last_received_at = models.DateTimeField()

    objects = StudyQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["-last_received_at", "-id"], name="study_newest"),
        ]

    def __str__(self) -> str:
        return self.study_instance_uid


class Series(models.Model):
    """A series of one study."""

    study = models.ForeignKey(
        Study, on_delete=models.PROTECT, db_index=False, related_name="series"
    )  # the constraint below begins with it
    series_instance_uid = models.CharField(max_length=64, db_index=True)
    modality = models.CharField(max_length=16)
    series_number = models.BigIntegerField(null=True)
    series_description = models.CharField(max_length=64)
    body_part_examined = models.CharField(max_length=16)
    series_date = models.CharField(max_length=8)
    instances_count = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name_plural = "series"
        constraints = [
            models.UniqueConstraint(
                fields=["study", "series_instance_uid"], name="series_once_in_study"
            )
        ]

    def __str__(self) -> str:
        return self.series_instance_uid


class InstanceState(models.TextChoices):
    """What an object is under its SOP Instance UID."""

    CURRENT = "current", "Current"
    VERSION = "version", "Version"
    QUARANTINED = "quarantined", "Quarantined"
    PURGED = "purged", "Purged"


class InstanceQuerySet(models.QuerySet["Instance"]):
    """Sentences about instances."""

    def current(self) -> "InstanceQuerySet":
        """The object that stands under its UID."""
        return self.filter(state=InstanceState.CURRENT)

    def quarantined(self) -> "InstanceQuerySet":
        """Objects that wait for a person."""
        return self.filter(state=InstanceState.QUARANTINED)

    def proven(self) -> "InstanceQuerySet":
        """Objects that every destination chosen for them has, as surely as it needs it; what a
        clean-up may remove.

        At least one has it, and nothing is undecided, waits for quiet, or is to be sent. What was
        cancelled asks for nothing.
        """
        items = JobItem.objects.filter(instance=models.OuterRef("pk"))
        safe = items.delivered()
        unsafe = items.exclude(state=ItemState.CANCELLED).exclude(state__in=DONE_STATES)
        timers = TimerItem.objects.filter(instance=models.OuterRef("pk"))
        return self.filter(
            Exists(safe),
            ~Exists(unsafe),
            ~Exists(safe.short_of_grade()),
            ~Exists(timers),
            mark__decision__isnull=False,
        )

    def kept(self) -> "InstanceQuerySet":
        """Objects whose bytes must be on storage."""
        return self.exclude(state=InstanceState.PURGED)


class Instance(models.Model):
    """One stored object. ``file_id`` is our receipt id and names its file.

    ``sha256`` is of the data set bytes; ``offset`` is where they start in the file and ``size``
    how many they are.
    """

    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="instances")
    series = models.ForeignKey(Series, on_delete=models.PROTECT, related_name="instances")
    sop_instance_uid = models.CharField(max_length=64, db_index=True)
    sop_class_uid = models.CharField(max_length=64)
    transfer_syntax_uid = models.CharField(max_length=64)
    instance_number = models.BigIntegerField(null=True)
    state = models.CharField(max_length=12, choices=InstanceState, default=InstanceState.CURRENT)
    reason = models.CharField(max_length=200, blank=True, default="")
    file_id = models.CharField(max_length=32, unique=True)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField()
    offset = models.PositiveIntegerField()
    received_at = models.DateTimeField()

    objects = InstanceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["sop_instance_uid"],
                condition=Q(state="current"),
                name="one_current_object_per_uid",
            )
        ]
        indexes = [
            models.Index(
                fields=["received_at"], condition=Q(state="quarantined"), name="instance_quarantine"
            ),
        ]

    def __str__(self) -> str:
        return self.sop_instance_uid

    @property
    def location(self) -> str:
        """The object's key below the storage root, from our own ids only."""
        return location_of(self.study_id, self.series_id, file_id=self.file_id)


def location_of(study_id: int, series_id: int, *, file_id: str) -> str:
    """The key below the storage root of the object that has these row ids and this receipt id."""
    return f"{study_id // 1000}/{study_id}/{series_id}/{file_id}.dcm"
