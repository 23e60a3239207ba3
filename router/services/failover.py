"""Move studies from members that are ill to such as are well, each as a whole.

What was not sent is given up where it waits and chosen for the new member, and so is what was: in
the end one member has all of it. A study of which nothing has reached the old member moves at once;
another only after the group's patience, since a part of it is there twice then. What is being sent
at the moment is waited for. Refuses to send, and to choose a member itself.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models import F, Q

from router import doorbell
from router.models import (
    DONE_STATES,
    Assignment,
    Attempt,
    AttemptOutcome,
    Cause,
    Destination,
    DestinationGroup,
    ItemShare,
    ItemState,
    Job,
    JobItem,
)
from router.models.jobs import JobItemQuerySet
from router.services import audit, clock, groups, jobs, members
from router.services.actors import SYSTEM
from router.services.members import Member

AT_ONCE = 1000
MOST_SKIPPED = 2000
LOOK_AGAIN = timedelta(seconds=3)
INSTEAD = " gets the study instead: "
"""In the reason of every item that was given up for another member."""
UNSENT = (ItemState.PENDING, ItemState.WAITING)
_DOUBT = (AttemptOutcome.UNKNOWN, AttemptOutcome.WORKER_LOST, AttemptOutcome.RUNNING)


def is_due() -> bool:
    """Tell whether studies may have to move: work waits at a member that is ill, another is well,
    and we have not just looked."""
    lately = clock.now() - LOOK_AGAIN
    return any(
        group.looked_at is None or group.looked_at <= lately
        for group, source in _pairs()
        if JobItem.objects.filter(destination=source.destination, state__in=UNSENT).exists()
    )


def movable() -> int:
    """Return how many studies are to move now, as far as a first look tells."""
    return sum(
        _may_move(Assignment.objects.get(pk=pk), source)
        for group, source in _pairs()
        for pk in _stranded(group, source, [])
    )


def run(seconds: float) -> int:
    """Move what can be moved, the most urgent first, for at most so long.

    Returns:
        How many studies have another member now.
    """
    limit = time.monotonic() + seconds
    return sum(_empty(group, source, limit) for group, source in _pairs())


def _pairs() -> Iterator[tuple[DestinationGroup, Member]]:
    """Yield each group with each member that is left, where another can be chosen."""
    for group in DestinationGroup.objects.present().filter(enabled=True):
        left = members.left(group)
        if left and any(not one.ill for one in members.of(group)):
            yield from ((group, one) for one in left)


def _empty(group: DestinationGroup, source: Member, limit: float) -> int:
    count, skipped = 0, list[int]()
    while time.monotonic() < limit and len(skipped) < MOST_SKIPPED:
        found = _stranded(group, source, skipped)
        if not found:
            break
        for pk in found:
            if time.monotonic() >= limit:
                return count
            if _move(pk, source):
                count += 1
            else:
                skipped.append(pk)
    if not count:
        DestinationGroup.objects.filter(pk=group.pk).update(looked_at=clock.now())
    return count


def _stranded(group: DestinationGroup, source: Member, skipped: Sequence[int]) -> list[int]:
    """Return assignments of the group's studies of which something waits at `source`."""
    there = Q(group=group, member=source.destination)
    mine = Assignment.objects.filter(there).exclude(pk__in=skipped)
    items = JobItem.objects.filter(destination=source.destination, state__in=UNSENT)
    items = items.filter(finished_at=None)  # in the words of the index ``item_due``
    if source.drain_to is not None:
        items = items.filter(pk__gt=source.drain_to)
    own = items.filter(job__assignment__in=mine).in_turn().values_list("job__assignment")
    shared = ItemShare.objects.filter(assignment__in=mine, item__in=items.order_by())
    found = [*own[:AT_ONCE], *shared.values_list("assignment")[:AT_ONCE]]
    return list(dict.fromkeys(pk for (pk,) in found))


def _copy(one: Assignment) -> JobItemQuerySet:
    """Return all that the member has, or is to get, of the study for the group."""
    shared = ItemShare.objects.filter(assignment=one).values("item")
    mine = JobItem.objects.filter(Q(job__assignment=one) | Q(pk__in=shared))
    mine = mine.filter(destination=one.member, instance__study=one.study)
    return mine.exclude(state=ItemState.CANCELLED)


def _may_move(one: Assignment, source: Member) -> bool:
    """Tell whether a study may move now: nothing of it is being sent, and either nothing has
    reached the member or it was ill for long enough."""
    items = _copy(one)
    if items.filter(state=ItemState.LEASED).exists():
        return False
    return not _has_reached(items) or _is_over(one.group, source)


def _has_reached(items: JobItemQuerySet) -> bool:
    """Tell whether the member has something of it, or may have."""
    doubtful = Attempt.objects.filter(item__in=items.order_by(), outcome__in=_DOUBT)
    return items.filter(state__in=DONE_STATES).exists() or doubtful.exists()


def _is_over(group: DestinationGroup, source: Member) -> bool:
    patience = timedelta(seconds=group.patience_seconds)
    return source.since is None or clock.now() - source.since >= patience


@transaction.atomic
def _move(pk: int, source: Member) -> bool:
    """Move one study; False where it may not, or has moved already."""
    rows = Assignment.objects.select_for_update(of=("self",))
    rows = rows.select_related("group", "study", "member")
    one = rows.filter(pk=pk, member=source.destination).first()
    if one is None:
        return False
    jobs.lock(_copy(one))
    if not _may_move(one, source):
        return False
    chosen = _choose(one, source)
    if chosen is None:
        return False
    reached = _has_reached(_copy(one))
    _carry(one, source, chosen, reached=reached)
    return True


def _choose(one: Assignment, source: Member) -> groups.Chosen | None:
    """Return the member that gets the study; None where nobody is well but those it is at."""
    group = DestinationGroup.objects.select_for_update().get(pk=one.group_id)
    found = members.of(group)
    well = [member.destination.pk for member in found if not member.ill]
    if not well or source.destination.pk in well:
        return None
    choosing = groups.Choosing(group, found)
    chosen = choosing.next(one.study.study_instance_uid)
    choosing.save()
    return chosen


def _carry(one: Assignment, source: Member, chosen: groups.Chosen, *, reached: bool) -> None:
    target = chosen.member.destination
    why = f"{source.name} {source.ill}"
    part = f"; all of it is sent there, since {source.name} has a part or may" if reached else ""
    reason = f"moved from {source.name}, which {source.ill}: {chosen.why}{part}"
    items = list(_copy(one).select_related("job__assignment").order_by("pk"))
    kept = _wanted_there(items, one)
    _assign(one, target, reason)
    sent = _choose_items(items, one, target)
    given_up = [item.pk for item in items if item.state not in DONE_STATES and item.pk not in kept]
    _give_up(given_up, f"{target.name}{INSTEAD}{why}.")
    doorbell.ring("deliver", target.pk, 0)
    audit.record(
        "study.reassigned",
        actor=SYSTEM,
        code="instances.transferred",
        study_instance_uid=one.study.study_instance_uid,
        target=f"group {one.group.name}: {source.name} to {target.name}",
        details={"reason": reason, "sent": sent, "given_up": len(given_up)},
    )


def _assign(one: Assignment, target: Destination, reason: str) -> None:
    before = {"member": one.member.name, "since": one.since.isoformat(), "reason": one.reason}
    changed = Assignment.objects.filter(pk=one.pk, number=one.number, member=one.member).update(
        member=target,
        number=F("number") + 1,
        reason=reason[: groups.LONGEST],
        since=clock.now(),
        history=[*one.history, before],
    )
    assert changed == 1, f"assignment {one.pk} changed under its lock"  # noqa: S101


def _choose_items(items: Sequence[JobItem], one: Assignment, target: Destination) -> int:
    """Choose the new member for what it has not, and is not about to get."""
    there = JobItem.objects.filter(destination=target, instance__study=one.study)
    there = there.exclude(state=ItemState.CANCELLED).select_related("job")
    present = {(item.instance_id, item.transform): item for item in there}
    others = [item for item in present.values() if item.job.assignment_id != one.pk]
    wanted = {(item.instance_id, item.transform) for item in items}
    shared = [item for item in others if (item.instance_id, item.transform) in wanted]
    ItemShare.objects.bulk_create(
        [ItemShare(item=item, assignment=one) for item in shared], ignore_conflicts=True
    )
    fresh = [item for item in items if (item.instance_id, item.transform) not in present]
    made = {job.pk: _job(job, one, target) for job in {item.job for item in fresh}}
    rows = [_item(item, made[item.job_id], target) for item in fresh]
    JobItem.objects.bulk_create(rows, batch_size=AT_ONCE)
    return len(rows)


def _job(before: Job, one: Assignment, target: Destination) -> Job:
    return Job.objects.create(
        key=f"failover:{one.pk}:{one.number + 1}:{before.pk}",
        study_id=one.study_id,
        destination=target,
        cause=Cause.FAILOVER,
        rule=before.rule,
        assignment=one,
        priority=before.priority,
        created_at=clock.now(),
    )


def _item(before: JobItem, job: Job, target: Destination) -> JobItem:
    """What a person holds stays held; what waited keeps its age."""
    is_held, is_done = before.state == ItemState.HELD, before.state in DONE_STATES
    return JobItem(
        job=job,
        destination=target,
        instance_id=before.instance_id,
        cause=Cause.FAILOVER,
        transform=before.transform,
        priority=before.priority,
        endpoint=target.endpoint,
        state=ItemState.HELD if is_held else ItemState.PENDING,
        reason=f"Held before it came here: {before.reason}"[:500] if is_held else "",
        size=before.size,
        created_at=clock.now() if is_done else before.created_at,
    )


def _wanted_there(items: Sequence[JobItem], one: Assignment) -> set[int]:
    """Return the items that are there for others too: a rule by name, or another group's study."""
    by_job = {item.pk for item in items if _is_of_another(item.job.assignment, item, one)}
    shares = ItemShare.objects.filter(item__in=_copy(one).order_by()).exclude(assignment=one)
    by_share = {
        share.item_id
        for share in shares.select_related("assignment", "item")
        if _is_of_another(share.assignment, share.item, one)
    }
    return by_job | by_share


def _is_of_another(claim: Assignment | None, item: JobItem, one: Assignment) -> bool:
    if claim is None:
        return True
    return claim.pk != one.pk and claim.member_id == item.destination_id


def _give_up(pks: Sequence[int], reason: str) -> None:
    for first in range(0, len(pks), AT_ONCE):
        JobItem.objects.filter(pk__in=pks[first : first + AT_ONCE]).cancel(reason)
