"""What django-q2 calls. A task carries only ids and means "look now"; it may run twice.

The rows are the truth. A task first answers its bell, so that a ring from then on is queued again.
"""

import logging
import time

from django.conf import settings
from django.db import OperationalError, close_old_connections

from router import doorbell, stopping
from router.services import (
    claims,
    clock,
    delivery,
    failover,
    heartbeats,
    lanes,
    probing,
    proofs,
    proving,
    reckoning,
    replay_planning,
    replay_release,
    replays,
    routing,
    turns,
    upkeep,
)
from router.services.outages import TROUBLE

log = logging.getLogger(__name__)

ROUTE_SECONDS = 20.0
MOVE_SECONDS = 20.0
PLAN_SECONDS = 20.0
PROVERS = max(1, settings.WORKERS // 4)
"""Processes that may wait for the answers to questions at a time: the others deliver."""


def route() -> None:
    """Route what is marked, until nothing is left, for at most 20 s; one process at a time."""
    close_old_connections()
    doorbell.answered("route")
    limit = time.monotonic() + ROUTE_SECONDS
    # What is marked before a process finds that another has the turn is seen by that other one,
    # which looks once more after its turn.
    while routing.marks_due():
        with turns.turn("route") as is_mine:
            if not is_mine:
                return
            if not _route_until(limit):
                doorbell.ring("route")
                return


def _route_until(limit: float) -> bool:
    """Route what is marked; False when there was no time for all of it."""
    while time.monotonic() < limit and not stopping.requested():
        try:
            if not routing.route_batch():
                return True
        except routing.Overtaken:
            continue
    return False


def fire_timers() -> None:
    """Decide for the quiet timers that are due."""
    close_old_connections()
    doorbell.answered("fire_timers")
    routing.fire_timers()


def deliver(destination_id: int, slot: int) -> None:
    """Deliver what is due to one destination in one of its slots."""
    close_old_connections()
    doorbell.answered("deliver", destination_id, slot)
    delivery.drain(destination_id, slot, stop=stopping.requested)


def prove(destination_id: int) -> None:
    """Ask one destination for the proofs that are due; few processes do so at a time."""
    close_old_connections()
    doorbell.answered("prove", destination_id)
    try:
        with turns.one_of("prove", PROVERS) as is_mine:
            if is_mine:
                proving.drain(destination_id, stop=stopping.requested)
    except TROUBLE:
        log.warning("prove.database_away")


def plan_replay(pk: int) -> None:
    """Find what a replay would send, and ask far ends where that is wanted."""
    close_old_connections()
    doorbell.answered("plan_replay", pk)
    replay_planning.run(pk, seconds=PLAN_SECONDS)


def advance_replay(pk: int) -> None:
    """Release the next of a replay at its pace, or hold, drop and tidy what it leaves."""
    close_old_connections()
    doorbell.answered("advance_replay", pk)
    replay_release.run(pk)


def reckon() -> None:
    """Recount the ledger and keep the result."""
    close_old_connections()
    doorbell.answered("reckon")
    if reckoning.is_check_due():
        reckoning.reckon_and_keep()


def move_studies() -> None:
    """Move studies from members of groups that are ill; one process at a time."""
    close_old_connections()
    doorbell.answered("move_studies")
    with turns.turn("groups") as is_mine:
        if is_mine:
            failover.run(MOVE_SECONDS)


def probe(destination_id: int) -> None:
    """Ask a member of a group that does not answer whether it is well again."""
    close_old_connections()
    doorbell.answered("probe", destination_id)
    probing.probe(destination_id)


def canary() -> None:
    """Show that a worker answers."""
    close_old_connections()
    doorbell.answered("canary")
    heartbeats.beat("worker", answered=clock.now().isoformat())


def sweep() -> None:
    """Ring for everything that is due: lost rings, retries, expired leases, quiet studies."""
    close_old_connections()
    try:
        doorbell.answered("sweep")
        _sweep()
    except OperationalError:
        log.warning("sweep.database_away")


def _sweep() -> None:
    _spare_after_silence()
    delivery.recover_lost()
    proofs.recover_lost()
    lanes.end_drains()
    if routing.marks_due():
        doorbell.ring("route")
    if routing.timers_due():
        doorbell.ring("fire_timers")
    if reckoning.is_check_due():
        doorbell.ring("reckon")
    for destination_id in lanes.due_destinations():
        doorbell.ring("deliver", destination_id, 0)
    if failover.is_due():
        doorbell.ring("move_studies")
    for destination_id in probing.due():
        doorbell.ring("probe", destination_id)
    for destination_id in proofs.due_destinations():
        doorbell.ring("prove", destination_id)
    replays.ring_due()


def _spare_after_silence() -> None:
    """After a silence: the database was away, for those who renew leases too."""
    if upkeep.was_silent():
        claims.spare_expired()
    upkeep.show_database()
