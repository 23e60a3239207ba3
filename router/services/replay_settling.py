"""How the pairs of a replay end: sent, replaced, given up, held while it is paused, tidied away.

Each step is a bounded chunk of conditional UPDATEs that may be done twice. Refuses to release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q

from router.models import (
    DONE_STATES,
    OPEN_STATES,
    ItemState,
    JobItem,
    PairState,
    Replay,
    ReplayPair,
)
from router.services import audit, clock, jobs, replays
from router.services.actors import SYSTEM
from router.services.replay_selection import CAUSES

CHUNK = 200
MANY = 5000
"""Pairs that one transaction settles, drops or deletes at most."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one look at a replay came to: whether something changed, and when to look again."""

    changed: bool = False
    wait: float = 1.0


IDLE = Progress()


@transaction.atomic
def settle(replay: Replay) -> int:
    """Take note of released pairs whose items need no more care; return how many.

    An older item of the same pair that waits for a person is replaced by the one that was sent
    now, or that has failed now, so that triage shows each failure once.
    """
    over = replay.pairs.released().exclude(item__state__in=OPEN_STATES)
    found = list(over.in_order().values_list("pk", "item__state")[:MANY])
    pks = [pk for pk, _state in found]
    count = 0
    for first in range(0, len(pks), CHUNK):
        part = pks[first : first + CHUNK]
        count += replay.pairs.released().filter(pk__in=part).update(state=PairState.ENDED)
        _replace_older(replay, part)
    return count


def _replace_older(replay: Replay, pks: Sequence[int]) -> None:
    decided = (*DONE_STATES, ItemState.PARKED)
    mine = ReplayPair.objects.filter(
        Q(item_id__gt=OuterRef("pk")),
        pk__in=pks,
        item__state__in=decided,
        instance=OuterRef("instance"),
        destination=OuterRef("destination"),
        transform=OuterRef("transform"),
    )
    instances = ReplayPair.objects.filter(pk__in=pks).values("instance")
    parked = JobItem.objects.filter(instance__in=instances, state=ItemState.PARKED)
    older = parked.filter(Exists(mine), cause__in=CAUSES)
    jobs.lock(older)
    older.cancel(f"Replaced: replay {replay.pk} sent it again.")


def finish(replay: Replay) -> bool:
    """End a replay of which nothing is open any more, once."""
    states = replay.pairs.filter(item__isnull=False).order_by().values_list("item__state")
    counts = dict(states.annotate(number=Count("pk")))
    with transaction.atomic():
        if not Replay.objects.filter(pk=replay.pk).finish(counts, now=clock.now()):
            return False
        _audit("replay.finished", replay, **counts)
    return True


# --- paused, cancelled, discarded ----------------------------------------------------------------
def pause_for(replay: Replay, name: str) -> None:
    """An address that changed is for a person to judge (R21)."""
    reason = (
        f"The address of {name} has changed since this was confirmed. Resume it to send the rest "
        "to the address of today, or cancel it."
    )
    with transaction.atomic():
        if Replay.objects.filter(pk=replay.pk).pause(reason):
            replays.hold_released(replay)
            _audit("replay.paused", replay, reason=reason)


def keep_paused(replay: Replay) -> Progress:
    """Hold what was being sent when the pause began and has come back."""
    return Progress(changed=bool(replays.hold_released(replay)))


def wind_up(replay: Replay) -> Progress:
    """Give up what was not sent, in bounded steps; what is being sent now is waited for."""
    dropped = _drop(replay)
    with transaction.atomic():
        mine = JobItem.objects.filter(pk__in=replay.pairs.values("item"))
        unsent = mine.filter(state__in=[ItemState.PENDING, ItemState.WAITING, ItemState.HELD])
        unsent = unsent.filter(pk__in=list(unsent.values_list("pk", flat=True)[:MANY]))
        jobs.lock(unsent)
        given_up = unsent.cancel(f"Replay {replay.pk} was cancelled.")
    ended = settle(replay)
    if dropped or given_up or ended or replay.pairs.released().exists():
        return Progress(changed=bool(dropped or given_up or ended), wait=0.2)
    return Progress(changed=finish(replay))


def _drop(replay: Replay) -> int:
    some = list(replay.pairs.planned().in_order().values_list("pk", flat=True)[:MANY])
    mine = replay.pairs.planned().filter(pk__in=some)
    return mine.update(state=PairState.DROPPED, detail="The replay was cancelled before.")


def tidy(replay: Replay) -> Progress:
    """Delete the pairs of a plan that was never sent."""
    some = list(replay.pairs.order_by("id").values_list("pk", flat=True)[:MANY])
    if some:
        ReplayPair.objects.filter(pk__in=some).delete()
        return Progress(changed=True, wait=0.0)
    Replay.objects.filter(pk=replay.pk).update(has_pairs=False)
    return IDLE


def _audit(event: str, replay: Replay, **details: object) -> None:
    audit.record(
        event,
        actor=SYSTEM,
        code="instances.transferred",
        target=f"replay {replay.pk}",
        details=dict(details),
    )
