"""Release the pairs of confirmed replays at their pace.

Every transaction is a bounded chunk whose pairs are taken by a conditional UPDATE, so that two who
advance one replay at once release nothing twice and a worker that dies leaves the next to go on. Of
one replay never more than a window is open at a destination: what arrives meanwhile does not wait
behind a hundred thousand objects. Refuses to send, which delivery does, and to say how it ends,
which is the business of ``replay_settling``.
"""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef

from router import doorbell, stopping
from router.models import (
    OPEN_STATES,
    Cause,
    Destination,
    Job,
    JobItem,
    PairState,
    Priority,
    Replay,
    ReplayPair,
    ReplayState,
)
from router.models.batches import Insert, Update, reserve
from router.services import clock, lanes, replay_settling, units
from router.services.replay_selection import SENDABLE
from router.services.replay_settling import IDLE, Progress

WINDOW = 500
"""Objects of one replay that are open at one destination at most."""
CHUNK = 200
"""Pairs that one transaction releases at most, but for whole studies."""
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
        ReplayState.PAUSED: replay_settling.keep_paused,
        ReplayState.CANCELLING: replay_settling.wind_up,
        ReplayState.DISCARDED: replay_settling.tidy,
    }[ReplayState(replay.state)](replay)


# --- running -------------------------------------------------------------------------------------
def _run(replay: Replay) -> Progress:
    ended = replay_settling.settle(replay)
    places = _destinations(replay)
    moved = [row.name for row in places if row.endpoint != replay.endpoints.get(str(row.pk))]
    if moved:
        replay_settling.pause_for(replay, moved[0])
        return Progress(changed=True)
    now = clock.now()
    if replay.paced_until is not None and replay.paced_until > now:
        return Progress(bool(ended), (replay.paced_until - now).total_seconds())
    released = _release(replay, places, now) if places else 0
    if not places and not replay.pairs.released().exists():
        return Progress(changed=replay_settling.finish(replay))
    return Progress(bool(ended or released), _until_next(replay, released))


def _until_next(replay: Replay, released: int) -> float:
    return released / replay.rate if replay.rate and released else 0.2


def _destinations(replay: Replay) -> list[Destination]:
    """Return the destinations for which pairs are still to be released."""
    rows = Destination.objects.filter(pk__in=map(int, replay.endpoints)).order_by("name")
    rows = rows.select_related("version")
    planned = replay.pairs.planned().filter(destination=OuterRef("pk"))
    return list(rows.filter(Exists(planned)))


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
