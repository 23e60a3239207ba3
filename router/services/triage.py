"""Open failures by what they have in common, so that one decision serves all of a kind.

A group is one destination, state, cause, SOP class and transfer syntax. Its cause is the status
that the far end answered with or, where it gave none, the sentence that was recorded. Every verb
is counted by what it changed, and audited with the reason a person gave. Refuses to send.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from django.db import transaction
from django.db.models import Case, CharField, Count, F, Max, Min, Q, Sum, Value, When
from pydicom.uid import UID

from router import doorbell
from router.destinations.outcomes import Outcome, classify
from router.models import Cause, Destination, ItemState, Job, JobItem
from router.models.jobs import JobItemQuerySet
from router.services import audit, clock, jobs
from router.services.actors import Actor

MOST_GROUPS = 200
AT_ONCE = 1000
OPEN_FAILURES = (ItemState.PARKED, ItemState.HELD, ItemState.WAITING)
MOVABLE = (ItemState.PARKED, ItemState.HELD, ItemState.WAITING, ItemState.PENDING)

_NATURE = {
    Outcome.RETRY: "passing",
    Outcome.CONFIGURATION: "agreement",
}


@dataclass(frozen=True, slots=True)
class Key:
    """What the items of a group have in common; `seen` is the sentence where no status came."""

    destination: str
    state: str
    status: int | None
    seen: str
    sop_class_uid: str
    transfer_syntax_uid: str

    def of(self, items: JobItemQuerySet) -> JobItemQuerySet:
        """Return those of `items` that are in the group now."""
        found = failures(items).filter(
            destination__name=self.destination,
            state=self.state,
            status=self.status,
            instance__sop_class_uid=self.sop_class_uid,
            instance__transfer_syntax_uid=self.transfer_syntax_uid,
        )
        return found if self.status is not None else found.filter(reason=self.seen)


@dataclass(frozen=True, slots=True)
class Group:
    """A group with its size; `reason` is one of the sentences recorded in it."""

    key: Key
    nature: str
    reason: str
    count: int
    studies: int
    bytes: int
    since: datetime

    @property
    def sop_class(self) -> str:
        """What the Standard calls the SOP class."""
        return str(UID(self.key.sop_class_uid).name)

    @property
    def transfer_syntax(self) -> str:
        """What the Standard calls the transfer syntax."""
        return str(UID(self.key.transfer_syntax_uid).name)


@dataclass(frozen=True, slots=True)
class Readdressed:
    """What became of items that were to go elsewhere: sent there, or there already."""

    moved: int
    there: int


def failures(items: JobItemQuerySet) -> JobItemQuerySet:
    """Return those that were not delivered and wait for a person, or for their next try."""
    tried = Q(tries__gt=0) | ~Q(state=ItemState.WAITING)
    return items.unfinished().filter(tried, state__in=OPEN_FAILURES)


def groups(items: JobItemQuerySet) -> tuple[list[Group], int]:
    """Return the largest groups of failures among `items`, and how many more there are."""
    seen = Case(When(status=None, then=F("reason")), default=Value(""), output_field=CharField())
    rows = (
        failures(items)
        .annotate(seen=seen)
        .order_by()
        .values(
            *("destination__name", "destination__version__settings", "state", "status", "seen"),
            *("instance__sop_class_uid", "instance__transfer_syntax_uid"),
        )
        .annotate(
            count=Count("pk"),
            studies=Count("job__study", distinct=True),
            bytes=Sum("size"),
            since=Min("created_at"),
            said=Max("reason"),
        )
        .order_by("-count", "since")
    )
    found = [_group(row) for row in rows[:MOST_GROUPS]]
    return found, max(0, rows.count() - MOST_GROUPS) if len(found) == MOST_GROUPS else 0


def _group(row: dict[str, object]) -> Group:
    settings = row["destination__version__settings"]
    overrides = settings.get("outcomes") if isinstance(settings, dict) else None
    key = Key(
        str(row["destination__name"]),
        str(row["state"]),
        row["status"],  # type: ignore[arg-type] # the column says so
        str(row["seen"]),
        str(row["instance__sop_class_uid"]),
        str(row["instance__transfer_syntax_uid"]),
    )
    return Group(
        key,
        _nature(key, overrides or {}),
        str(row["said"]),
        *(row["count"], row["studies"], row["bytes"], row["since"]),  # type: ignore[arg-type]
    )


def _nature(key: Key, overrides: dict[str, str]) -> str:
    """Return what is at fault: the connection, the agreement with the peer, the object, or what
    passes by itself."""
    if key.state == ItemState.HELD:
        return "held"
    if key.status is None:
        return "connection" if key.state == ItemState.WAITING else "object"
    return _NATURE.get(classify(key.status, overrides), "object")


@transaction.atomic
def exclude(items: JobItemQuerySet, *, reason: str, actor: Actor) -> int:
    """Give items up on purpose, with the reason; return how many."""
    jobs.lock(items)
    places = _places(items)
    count = items.cancel(f"Excluded by {actor.name}: {reason}"[:500])
    if count:
        _audit("items.excluded", actor, f"destination {places}", reason=reason, count=count)
    return count


def readdress(items: JobItemQuerySet, to: Destination, *, reason: str, actor: Actor) -> Readdressed:
    """Give items up where they are and choose `to` for them, except where it has them already.

    Many go in several transactions, each audited with what it did, so that none is long.
    """
    moving = items.filter(state__in=MOVABLE).exclude(destination=to).order_by("pk")
    token, moved, there = uuid4().hex, 0, 0
    for chunk in _chunks(list(moving.values_list("pk", flat=True))):
        done = _readdress(chunk, to, token, reason=reason, actor=actor)
        moved, there = moved + done.moved, there + done.there
    return Readdressed(moved, there)


@transaction.atomic
def _readdress(
    pks: list[int], to: Destination, token: str, *, reason: str, actor: Actor
) -> Readdressed:
    jobs.lock(JobItem.objects.filter(pk__in=pks))
    items = JobItem.objects.filter(pk__in=pks, state__in=MOVABLE)
    places, fresh = _places(items), _fresh(items, to)
    _choose(fresh, to, token)
    given_up = items.cancel(f"Sent to {to.name} instead by {actor.name}: {reason}"[:500])
    done = Readdressed(len(fresh), given_up - len(fresh))
    if given_up:
        doorbell.ring("deliver", to.pk, 0)
        target = f"destination {places} to {to.name}"
        _audit(
            "items.readdressed", actor, target, reason=reason, count=done.moved, there=done.there
        )
    return done


def _places(items: JobItemQuerySet) -> str:
    names = items.order_by().values_list("destination__name", flat=True).distinct()
    return ", ".join(sorted(names))


def _fresh(items: JobItemQuerySet, to: Destination) -> list[JobItem]:
    """Return those whose object `to` neither has nor is about to get under the same transform."""
    rows = list(items.select_related("job").order_by("pk"))
    chosen = JobItem.objects.filter(destination=to, instance__in=[one.instance_id for one in rows])
    chosen = chosen.exclude(state=ItemState.CANCELLED)
    taken = set(chosen.values_list("instance_id", "transform"))
    found: dict[tuple[int, str], JobItem] = {}
    for row in rows:
        pair = (row.instance_id, row.transform)
        if pair not in taken:
            found.setdefault(pair, row)
    return list(found.values())


def _choose(rows: list[JobItem], to: Destination, token: str) -> None:
    now = clock.now()
    made: dict[int, Job] = {}
    for study in dict.fromkeys(row.job.study_id for row in rows):
        made[study], _is_new = Job.objects.get_or_create(
            key=f"manual:{token}:{study}:{to.pk}",
            defaults={
                "study_id": study,
                "destination": to,
                "cause": Cause.MANUAL,
                "created_at": now,
            },
        )
    JobItem.objects.bulk_create(
        JobItem(
            job=made[row.job.study_id],
            destination=to,
            instance_id=row.instance_id,
            cause=Cause.MANUAL,
            transform=row.transform,
            endpoint=to.endpoint,
            size=row.size,
            created_at=now,
        )
        for row in rows
    )


def _chunks(pks: list[int]) -> Iterator[list[int]]:
    for first in range(0, len(pks), AT_ONCE):
        yield pks[first : first + AT_ONCE]


def _audit(event: str, actor: Actor, target: str, *, reason: str, **counts: int) -> None:
    details = {**counts, "reason": reason}
    audit.record(event, actor=actor, code="instances.transferred", target=target, details=details)
