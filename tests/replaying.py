"""Replays brought forward by hand: planned and advanced step by step, as workers would."""

from collections import Counter
from typing import Any

from router.models import Destination, JobItem, Replay, ReplayOnly
from router.services import delivery, replay_planning, replay_release, replays
from router.services.actors import Actor
from router.services.replay_selection import Selection
from router.services.replays import Wish

# Any in this module: fields of a selection, whose types it checks itself.

ANN = Actor("ann", address="10.0.0.9")


def wish(only: ReplayOnly = ReplayOnly.ALL, **more: Any) -> Wish:
    """Return a wish without a rate; what is no field of it is one of its selection."""
    usual: dict[str, Any] = {"rate": 0.0}
    known = {name: more.pop(name) for name in ("route", "content", "rate") if name in more}
    return Wish(Selection(**more), only, **usual | known)


def planned(only: ReplayOnly = ReplayOnly.ALL, **more: Any) -> Replay:
    """Ask for a replay and plan it."""
    return plan(replays.request(wish(only, **more), actor=ANN, user=None))


def plan(replay: Replay) -> Replay:
    """Plan a replay to its end."""
    while replay_planning.step(replay.pk):
        continue
    replay.refresh_from_db()
    return replay


def confirmed(replay: Replay) -> Replay:
    """Confirm a plan."""
    seen = {"objects": replay.objects_count, "studies": replay.studies_count}
    replays.confirm(replay, **seen, actor=ANN)
    replay.refresh_from_db()
    return replay


def advance(replay: Replay) -> Replay:
    """Look at a replay until nothing changes."""
    while replay_release.advance(replay.pk).changed:
        continue
    replay.refresh_from_db()
    return replay


def delivered(replay: Replay, *destinations: Destination) -> Replay:
    """Advance and deliver by turns until nothing changes."""
    while True:
        advance(replay)
        if not sum(delivery.drain(one.pk, 0, stop=lambda: False) for one in destinations):
            return advance(replay)


def pairs(replay: Replay) -> dict[str, int]:
    """Return the number of pairs by state."""
    return dict(Counter(replay.pairs.values_list("state", flat=True)))


def items(replay: Replay) -> dict[str, int]:
    """Return the number of the replay's items by state."""
    return dict(Counter(JobItem.objects.filter(job__replay=replay).values_list("state", flat=True)))
