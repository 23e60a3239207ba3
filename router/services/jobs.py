"""What a person does with items and lanes: retry, hold, release, prioritise, cancel, resume.

Each is audited. The count that comes back is the count that changed; items that moved on meanwhile
are left alone, also when two people act on the same ones at once: the second waits, and changes
what is left.
"""

from django.db import connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Coalesce

from router import doorbell
from router.models import (
    DecisionOutcome,
    Destination,
    Job,
    JobItem,
    Lane,
    LaneState,
    Priority,
    RoutingMark,
    Study,
)
from router.models.jobs import JobItemQuerySet
from router.services import audit, clock, lanes, routing
from router.services.actors import Actor


def _ring(items: JobItemQuerySet) -> None:
    for pk in items.order_by().values_list("destination_id", flat=True).distinct():
        doorbell.ring("deliver", pk, 0)


def lock(items: JobItemQuerySet) -> None:
    """Lock the rows in the order of their ids: two who act on the same ones at once would wait for
    each other for ever otherwise. SQLite has one writer at a time anyway."""
    if connection.features.has_select_for_update:
        meant = JobItem.objects.filter(pk__in=items.order_by().values("pk")).order_by("pk")
        for _pk in meant.select_for_update().values_list("pk", flat=True).iterator():
            continue


def _record(verb: str, count: int, actor: Actor, **facts: str) -> int:
    if count:
        details = {"count": count, **facts}
        audit.record(f"items.{verb}", actor=actor, code="instances.transferred", details=details)
    return count


@transaction.atomic
def retry(items: JobItemQuerySet, *, actor: Actor) -> int:
    """Have parked and waiting items tried again now, their count of tries anew."""
    lock(items)
    _ring(items)
    return _record("retried", items.retry_now(), actor)


@transaction.atomic
def hold(items: JobItemQuerySet, *, actor: Actor) -> int:
    """Hold pending and waiting items until released."""
    lock(items)
    return _record("held", items.hold(f"Held by {actor.name}."), actor)


@transaction.atomic
def release(items: JobItemQuerySet, *, actor: Actor) -> int:
    """Release held items, for their destination's address of today."""
    lock(items)
    _ring(items)
    return _record("released", items.release(), actor)


@transaction.atomic
def cancel(items: JobItemQuerySet, *, actor: Actor) -> int:
    """Give up items that are neither sent nor being sent."""
    lock(items)
    return _record("cancelled", items.cancel(f"Cancelled by {actor.name}."), actor)


@transaction.atomic
def prioritise(items: JobItemQuerySet, *, priority: Priority, actor: Actor) -> int:
    """Give unfinished items another priority, and their jobs, so that what comes later has it."""
    lock(items)
    _ring(items)
    mine = Job.objects.filter(pk__in=items.order_by().values("job_id"))
    mine.exclude(priority=priority).update(priority=priority)
    return _record("prioritised", items.prioritise(priority), actor, priority=str(priority.label))


@transaction.atomic
def route_again(study: Study, *, actor: Actor) -> int:
    """Have the instances that no rule took judged by the rules of today.

    Returns:
        How many instances are to be decided anew.
    """
    held = RoutingMark.objects.filter(instance__study=study, decision__outcome=DecisionOutcome.HELD)
    count = routing.reconsider(held.values_list("instance_id", flat=True))
    if count:
        audit.record(
            "study.routed_again",
            actor=actor,
            code="instances.transferred",
            study_instance_uid=study.study_instance_uid,
            details={"count": count},
        )
    return count


@transaction.atomic
def resume_lane(destination: Destination, *, actor: Actor) -> bool:
    """Open a destination's lane again at once.

    Returns:
        False when it was open already.
    """
    lane = Lane.objects.filter(destination=destination)
    resumed = lane.exclude(state=LaneState.OPEN, drain_to=None).update(
        **lanes.OPENED, drain_to=None
    )
    if resumed:
        doorbell.ring("deliver", destination.pk, 0)
        audit.record(
            "lane.resumed",
            actor=actor,
            code="security",
            target=f"destination {destination.name}",
        )
    return bool(resumed)


@transaction.atomic
def pause_lane(destination: Destination, *, actor: Actor) -> bool:
    """Stop a destination from beginning anything until it is resumed.

    Returns:
        False when it was paused already.
    """
    lane = Lane.objects.filter(destination=destination).exclude(state=LaneState.PAUSED)
    since = Coalesce(F("ill_since"), Value(clock.now()))
    reason = f"Paused by {actor.name}."
    paused = lane.update(state=LaneState.PAUSED, reason=reason, drain_to=None, ill_since=since)
    if paused:
        audit.record(
            "lane.paused", actor=actor, code="security", target=f"destination {destination.name}"
        )
    return bool(paused)


@transaction.atomic
def drain_lane(destination: Destination, *, actor: Actor) -> bool:
    """Have a destination finish what is open and take nothing that comes from now on.

    Once all of that is done it is paused.

    Returns:
        False when it is paused or stopped, or drained already.
    """
    newest = JobItem.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    lane = Lane.objects.filter(destination=destination, drain_to=None)
    runs = lane.filter(state__in=[LaneState.OPEN, LaneState.BACKOFF])
    since = Coalesce(F("ill_since"), Value(clock.now()))
    drained = runs.update(drain_to=newest, ill_since=since)
    if drained:
        audit.record(
            "lane.drained", actor=actor, code="security", target=f"destination {destination.name}"
        )
    return bool(drained)
