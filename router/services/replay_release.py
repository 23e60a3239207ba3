"""Release the pairs of confirmed replays at their pace, and see how they end.

Every transaction is a bounded chunk whose pairs are taken by a conditional UPDATE, so that two who
advance one replay at once release nothing twice and a worker that dies leaves the next to go on. Of
one replay never more than a window is open at a destination: what arrives meanwhile does not wait
behind a hundred thousand objects. Refuses to send; delivery does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q

from router import doorbell, stopping
from router.models import (
    DONE_STATES,
    OPEN_STATES,
    Cause,
    Destination,
    ItemState,
    Job,
    JobItem,
    PairState,
    Priority,
    Replay,
    ReplayPair,
    ReplayState,
)
from router.models.batches import Insert, Update, reserve
from router.services import audit, clock, jobs, lanes, replays, units
from router.services.actors import SYSTEM
from router.services.replay_selection import CAUSES, SENDABLE

WINDOW = 500
"""Objects of one replay that are open at one destination at most."""
CHUNK = 200
MANY = 5000
"""Pairs that one transaction drops or deletes at most."""
SPAN = 0.5
"""Seconds of sending at its rate that one release is for, unless one object takes longer."""
SLACK = timedelta(seconds=3)
"""As much of the time in which nobody looked is made up for."""
LOOK_SECONDS = 5.0
SOON = 0.3
"""A pause that is waited for; after a longer one the sweep rings."""

_ITEMS = Insert(
    JobItem,
    *("id", "job_id", "destination_id", "instance_id", "cause", "transform", "endpoint", "size"),
    *("priority", "created_at"),
)
_JOBS = Insert(
    Job,
    *("key", "study_id", "destination_id", "cause", "rule", "replay_id", "priority", "created_at"),
)
_RELEASE = Update(
    ReplayPair, changes={"state": "'released'", "item_id": "{1}"}, only="state = 'planned'"
)


class NotWritten(Exception):
    """Another was quicker; nothing was written."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one look at a replay came to: whether something changed, and when to look again."""

    changed: bool = False
    wait: float = 1.0


IDLE = Progress()


def run(pk: int) -> None:
    """Do what is due for one replay, until nothing is for a while, for some seconds at most."""
    limit = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < limit and not stopping.requested():
        try:
            progress = advance(pk)
        except NotWritten:
            return
        if not progress.changed or progress.wait > SOON:
            return
        time.sleep(progress.wait)


def advance(pk: int) -> Progress:
    """Do what is due for one replay.

    Raises:
        NotWritten: another was quicker; call again.
    """
    replay = Replay.objects.to_advance().filter(pk=pk).first()
    if replay is None:
        return IDLE
    return {
        ReplayState.RUNNING: _run,
        ReplayState.PAUSED: _keep_paused,
        ReplayState.CANCELLING: _wind_up,
        ReplayState.DISCARDED: _tidy,
    }[ReplayState(replay.state)](replay)


# --- running -------------------------------------------------------------------------------------
def _run(replay: Replay) -> Progress:
    ended = _settle(replay)
    places = _destinations(replay)
    moved = [row.name for row in places if row.endpoint != replay.endpoints.get(str(row.pk))]
    if moved:
        _pause_for(replay, moved[0])
        return Progress(changed=True)
    now = clock.now()
    if replay.paced_until is not None and replay.paced_until > now:
        return Progress(bool(ended), (replay.paced_until - now).total_seconds())
    released = _release(replay, places, now) if places else 0
    if not places and not replay.pairs.released().exists():
        return Progress(changed=_finish(replay))
    return Progress(bool(ended or released), _until_next(replay, released))


def _until_next(replay: Replay, released: int) -> float:
    return released / replay.rate if replay.rate and released else 0.2


def _destinations(replay: Replay) -> list[Destination]:
    """Return the destinations for which pairs are still to be released."""
    rows = Destination.objects.filter(pk__in=map(int, replay.endpoints)).order_by("name")
    rows = rows.select_related("version")
    planned = replay.pairs.planned().filter(destination=OuterRef("pk"))
    return list(rows.filter(Exists(planned)))


def _pause_for(replay: Replay, name: str) -> None:
    """An address that changed is for a person to judge (R21)."""
    reason = (
        f"The address of {name} has changed since this was confirmed. Resume it to send the rest "
        "to the address of today, or cancel it."
    )
    with transaction.atomic():
        if Replay.objects.filter(pk=replay.pk).pause(reason):
            replays.hold_released(replay)
            _audit("replay.paused", replay, reason=reason)


def _release(replay: Replay, places: Sequence[Destination], now: datetime) -> int:
    """Release as much as rate and windows permit; return how many pairs that was."""
    allowed = CHUNK if not replay.rate else max(1, min(CHUNK, int(replay.rate * SPAN)))
    chosen: list[ReplayPair] = []
    for place in places:
        most = min(_room(replay, place), allowed - len(chosen))
        if most > 0:
            chosen += _next(replay, place, most)
    return _write(replay, places, chosen, now) if chosen else 0


def _next(replay: Replay, place: Destination, most: int) -> list[ReplayPair]:
    """Return the next pairs for one destination; of a kind that takes whole studies, whole ones."""
    planned = replay.pairs.planned().filter(destination=place).in_order()
    mine = planned.select_related("instance")
    found = list(mine[:most])
    if found and units.is_for(place):
        found += mine.filter(study=found[-1].study_id, pk__gt=found[-1].pk)[: units.MOST]
    return found


@transaction.atomic
def _write(
    replay: Replay, places: Sequence[Destination], chosen: Sequence[ReplayPair], now: datetime
) -> int:
    """Make items of pairs, where the replay still runs at the pace that was read.

    Raises:
        NotWritten: it does not, or another has taken one of them.
    """
    running = Replay.objects.filter(
        pk=replay.pk, state=ReplayState.RUNNING, paced_until=replay.paced_until
    )
    taken = running.update(paced_until=_paced(replay, len(chosen), now))
    still = replay.pairs.planned().filter(pk__in=[one.pk for one in chosen]).count()
    if not taken or still != len(chosen):
        raise NotWritten
    fit, unfit = _sifted(replay, chosen)
    by_pk = {row.pk: row for row in places}
    found = _ensure_jobs(replay, fit, now)
    ids = list(reserve(JobItem, len(fit)))
    _ITEMS.write(
        (
            *(pk, found[_key(replay, one)][0], one.destination_id, one.instance_id),
            *(Cause.REPLAY.value, one.transform, by_pk[one.destination_id].endpoint),
            *(one.size, found[_key(replay, one)][1], now),
        )
        for pk, one in zip(ids, fit, strict=True)
    )
    if _RELEASE.write([(one.pk, pk) for pk, one in zip(ids, fit, strict=True)]) != len(fit):
        raise NotWritten
    for why, pks in unfit.items():
        replay.pairs.planned().filter(pk__in=pks).update(state=PairState.DROPPED, detail=why)
    for pk in {one.destination_id for one in fit}:
        doorbell.ring("deliver", pk, 0)
    return len(chosen)


def _paced(replay: Replay, count: int, now: datetime) -> datetime | None:
    if not replay.rate:
        return None
    begun = max(replay.paced_until or now, now - SLACK)
    return begun + timedelta(seconds=count / replay.rate)


def _sifted(
    replay: Replay, chosen: Sequence[ReplayPair]
) -> tuple[list[ReplayPair], dict[str, list[int]]]:
    """Part what may be sent from what has changed since it was planned, with the reason."""
    instances = [one.instance_id for one in chosen]
    items = JobItem.objects.filter(instance__in=instances, state__in=OPEN_STATES)
    open_now = set(items.values_list("instance_id", "destination_id", "transform"))
    gone = set(
        Destination.objects.filter(pk__in={one.destination_id for one in chosen}, removed=True)
        .values_list("pk", flat=True)
    )  # fmt: skip
    fit: list[ReplayPair] = []
    unfit: dict[str, list[int]] = {}
    for one in chosen:
        if one.instance.state not in SENDABLE:
            unfit.setdefault("The object is not current any more.", []).append(one.pk)
        elif one.destination_id in gone:
            why = "The destination was removed from the configuration."
            unfit.setdefault(why, []).append(one.pk)
        elif (one.instance_id, one.destination_id, one.transform) in open_now:
            unfit.setdefault("A job that is under way sends it.", []).append(one.pk)
        else:
            fit.append(one)
    return fit, unfit


def _key(replay: Replay, pair: ReplayPair) -> str:
    return f"replay:{replay.pk}:{pair.study_id}:{pair.destination_id}:{pair.rule}"


def _ensure_jobs(
    replay: Replay, pairs: Sequence[ReplayPair], now: datetime
) -> dict[str, tuple[int, int]]:
    """Return row id and priority of the jobs by key; those that are missing are made, low."""
    wanted = {_key(replay, one): one for one in pairs}
    _JOBS.write_missing(
        [
            (
                *(key, one.study_id, one.destination_id, Cause.REPLAY.value, one.rule),
                *(replay.pk, Priority.LOW.value, now),
            )
            for key, one in sorted(wanted.items())
        ]
    )
    rows = Job.objects.filter(key__in=list(wanted)).values_list("key", "pk", "priority")
    return {key: (pk, priority) for key, pk, priority in rows}


# --- how they end --------------------------------------------------------------------------------
@transaction.atomic
def _settle(replay: Replay) -> int:
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


def _finish(replay: Replay) -> bool:
    """End a replay of which nothing is open any more, once."""
    states = replay.pairs.filter(item__isnull=False).order_by().values_list("item__state")
    counts = dict(states.annotate(number=Count("pk")))
    with transaction.atomic():
        if not Replay.objects.filter(pk=replay.pk).finish(counts, now=clock.now()):
            return False
        _audit("replay.finished", replay, **counts)
    return True


# --- paused, cancelled, discarded ----------------------------------------------------------------
def _keep_paused(replay: Replay) -> Progress:
    """Hold what was being sent when the pause began and has come back."""
    return Progress(changed=bool(replays.hold_released(replay)))


def _wind_up(replay: Replay) -> Progress:
    """Give up what was not sent, in bounded steps; what is being sent now is waited for."""
    dropped = _drop(replay)
    with transaction.atomic():
        mine = JobItem.objects.filter(pk__in=replay.pairs.values("item"))
        unsent = mine.filter(state__in=[ItemState.PENDING, ItemState.WAITING, ItemState.HELD])
        unsent = unsent.filter(pk__in=list(unsent.values_list("pk", flat=True)[:MANY]))
        jobs.lock(unsent)
        given_up = unsent.cancel(f"Replay {replay.pk} was cancelled.")
    ended = _settle(replay)
    if dropped or given_up or ended or replay.pairs.released().exists():
        return Progress(changed=bool(dropped or given_up or ended), wait=0.2)
    return Progress(changed=_finish(replay))


def _drop(replay: Replay) -> int:
    some = list(replay.pairs.planned().in_order().values_list("pk", flat=True)[:MANY])
    mine = replay.pairs.planned().filter(pk__in=some)
    return mine.update(state=PairState.DROPPED, detail="The replay was cancelled before.")


def _tidy(replay: Replay) -> Progress:
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


def unfinished() -> int:
    """Return how many replays have something to do now that waits for no person and no pause."""
    moving = Replay.objects.filter(state__in=[ReplayState.PLANNING, ReplayState.CANCELLING])
    running = Replay.objects.filter(state=ReplayState.RUNNING)
    return moving.count() + sum(_may_go_on(one) for one in running)


def _may_go_on(replay: Replay) -> bool:
    places = _destinations(replay)
    if not places:
        return not replay.pairs.released().filter(item__state__in=OPEN_STATES).exists()
    return any(place.enabled and lanes.may_run(place) and _room(replay, place) for place in places)


def _room(replay: Replay, place: Destination) -> int:
    return max(0, WINDOW - replay.pairs.released().filter(destination=place).count())
