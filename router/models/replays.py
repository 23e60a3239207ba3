"""Replays: what is to be sent once more, planned first, confirmed by a person, sent at a pace.

A replay is a group of jobs. Its pairs of object and destination are its plan and, later, its
report: each says why it is sent or not, and which item of the ledger sends it.
"""

from datetime import datetime

from django.db import models
from django.db.models import Q

from router.models.jobs import JobItem


class ReplayState(models.TextChoices):
    """How far a replay is."""

    PLANNING = "planning", "Being planned"
    PLANNED = "planned", "Waits for a yes"
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    CANCELLING = "cancelling", "Being cancelled"
    DONE = "done", "Done"
    CANCELLED = "cancelled", "Cancelled"
    DISCARDED = "discarded", "Discarded unsent"
    FAILED = "failed", "Could not be planned"


class ReplayOnly(models.TextChoices):
    """Which of the selected pairs are sent."""

    FAILED = "failed", "What failed"
    MISSING = "missing", "What the destination does not have"
    ALL = "all", "Everything"


class ReplayRoute(models.TextChoices):
    """By whom the destinations are chosen."""

    THEN = "then", "Destinations as chosen then"
    RULES = "rules", "Destinations that the rules of today choose"


class ReplayContent(models.TextChoices):
    """What leaves."""

    ORIGINAL = "original", "The bytes that came"
    CURRENT = "current", "Under the transform that the rule has today"


class ReplayQuerySet(models.QuerySet["Replay"]):
    """Sentences about replays, and their transitions: each one conditional UPDATE."""

    def newest_first(self) -> "ReplayQuerySet":
        """Last asked for first."""
        return self.order_by("-id")

    def to_plan(self) -> "ReplayQuerySet":
        """Replays whose pairs are still being written."""
        return self.filter(state=ReplayState.PLANNING)

    def to_advance(self) -> "ReplayQuerySet":
        """Replays of which something may have to be released, held, dropped or tidied away."""
        moving = (ReplayState.RUNNING, ReplayState.PAUSED, ReplayState.CANCELLING)
        return self.filter(Q(state__in=moving) | Q(state=ReplayState.DISCARDED, has_pairs=True))

    def confirm(self, *, by: str, now: datetime) -> int:
        """Planned → running."""
        return self.filter(state=ReplayState.PLANNED).update(
            state=ReplayState.RUNNING, confirmed_at=now, confirmed_by=by
        )

    def discard(self, reason: str, *, now: datetime) -> int:
        """Not confirmed → discarded; nothing of it was sent."""
        unsent = (ReplayState.PLANNING, ReplayState.PLANNED, ReplayState.FAILED)
        return self.filter(state__in=unsent).update(
            state=ReplayState.DISCARDED, reason=reason, finished_at=now
        )

    def pause(self, reason: str) -> int:
        """Running → paused."""
        return self.filter(state=ReplayState.RUNNING).update(
            state=ReplayState.PAUSED, reason=reason
        )

    def resume(self) -> int:
        """Paused → running."""
        return self.filter(state=ReplayState.PAUSED).update(state=ReplayState.RUNNING, reason="")

    def cancel(self, reason: str) -> int:
        """Running or paused → being cancelled."""
        moving = (ReplayState.RUNNING, ReplayState.PAUSED)
        return self.filter(state__in=moving).update(state=ReplayState.CANCELLING, reason=reason)

    def finish(self, results: dict[str, int], *, now: datetime) -> int:
        """Running → done, or being cancelled → cancelled."""
        ends = {
            ReplayState.RUNNING: ReplayState.DONE,
            ReplayState.CANCELLING: ReplayState.CANCELLED,
        }
        return sum(
            self.filter(state=state).update(state=end, results=results, finished_at=now)
            for state, end in ends.items()
        )


class Replay(models.Model):
    """One replay. ``selection`` is ``services.replay_selection.Selection`` as JSON.

    ``cursor_study`` and ``cursor_instance`` say how far planning is. ``endpoints`` maps the row id
    of each destination to the endpoint that the plan is about. ``rate`` is in objects a second, 0
    for any. ``strikes`` counts, by destination, the chunks that it did not answer for in a row.
    ``unread_count`` objects could not be judged by the rules. ``results`` holds, by state, how many
    items had come to what when it was over.
    """

    state = models.CharField(
        max_length=10, choices=ReplayState, default=ReplayState.PLANNING, db_index=True
    )
    user = models.ForeignKey(
        "User", on_delete=models.PROTECT, null=True, related_name="replays"
    )  # whose limit holds; none for the command line
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    selection = models.JSONField()
    only = models.CharField(max_length=8, choices=ReplayOnly)
    route = models.CharField(max_length=8, choices=ReplayRoute, default=ReplayRoute.THEN)
    content = models.CharField(max_length=8, choices=ReplayContent, default=ReplayContent.ORIGINAL)
    rate = models.FloatField(default=0.0)
    reason = models.CharField(max_length=500, blank=True, default="")

    cursor_study = models.PositiveBigIntegerField(default=0)
    cursor_instance = models.PositiveBigIntegerField(default=0)
    studies_total = models.PositiveIntegerField(null=True)
    studies_seen = models.PositiveIntegerField(default=0)
    unread_count = models.PositiveIntegerField(default=0)
    tries = models.PositiveIntegerField(default=0)
    strikes = models.JSONField(default=dict)

    planned_at = models.DateTimeField(null=True)
    studies_count = models.PositiveIntegerField(default=0)
    objects_count = models.PositiveIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)
    endpoints = models.JSONField(default=dict)

    confirmed_at = models.DateTimeField(null=True)
    confirmed_by = models.CharField(max_length=150, blank=True, default="")
    paced_until = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    results = models.JSONField(default=dict)
    has_pairs = models.BooleanField(default=True)

    objects = ReplayQuerySet.as_manager()

    def __str__(self) -> str:
        return f"replay {self.pk}: {self.state}"


class PairState(models.TextChoices):
    """What became of one object for one destination; whatever is not sent says why."""

    PLANNED = "planned", "To be sent"
    RELEASED = "released", "Released"
    ENDED = "ended", "Sent, or given up on"
    DROPPED = "dropped", "Not sent after all"
    THERE = "there", "There already"
    DIFFERENT = "different", "Another object in its place"
    UNKNOWN = "unknown", "Could not be asked for"
    ON_WAY = "on_way", "On its way already"
    ON_HOLD = "on_hold", "Held by an earlier job"
    GONE = "gone", "Destination removed"


class ReplayPairQuerySet(models.QuerySet["ReplayPair"]):
    """Sentences about pairs."""

    def planned(self) -> "ReplayPairQuerySet":
        """Still to be released."""
        return self.filter(state=PairState.PLANNED)

    def released(self) -> "ReplayPairQuerySet":
        """Released, and not yet seen to have ended."""
        return self.filter(state=PairState.RELEASED)

    def in_order(self) -> "ReplayPairQuerySet":
        """Study by study, as they are sent."""
        return self.order_by("id")


class ReplayPair(models.Model):
    """One object for one destination under one transform, as one replay means it.

    ``detail`` is a sentence without patient data: what the far end said, or why it is not sent.
    ``item`` is what sends it, once it was released.
    """

    replay = models.ForeignKey(
        Replay, on_delete=models.PROTECT, db_index=False, related_name="pairs"
    )  # a constraint and an index below begin with it
    destination = models.ForeignKey(
        "Destination", on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    study = models.ForeignKey("Study", on_delete=models.PROTECT, db_index=False, related_name="+")
    instance = models.ForeignKey(
        "Instance", on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    transform = models.CharField(max_length=64, blank=True, default="")
    rule = models.CharField(max_length=64, blank=True, default="")
    size = models.PositiveBigIntegerField()
    state = models.CharField(max_length=9, choices=PairState)
    detail = models.CharField(max_length=300, blank=True, default="")
    item = models.OneToOneField(
        JobItem, on_delete=models.PROTECT, null=True, related_name="replay_pair"
    )

    objects = ReplayPairQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["replay", "instance", "destination", "transform"],
                name="pair_once_in_replay",
            ),
        ]
        indexes = [
            models.Index(fields=["replay", "destination", "state", "id"], name="replay_pair_state"),
        ]

    def __str__(self) -> str:
        return f"pair {self.pk}: {self.state}"
