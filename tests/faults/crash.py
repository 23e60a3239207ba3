"""Crash points: arm one, send, have the process die there, wait for the recovery, compare."""

import random
import time

from tests.faults.books import Account
from tests.faults.site import MOST_RECOVERY, Site

OBJECTS = (1, 2, 8, 30)
# How often a point is passed while so many objects go through, so that the nth time comes.
ONCE_AN_OBJECT = ("receive.", "index.between_moves")
REACHED_SECONDS = 60.0


def crash(site: Site, point: str, chance: random.Random) -> Account:
    """One run. Raises AssertionError when the point was not reached or the books differ."""
    began = time.monotonic()
    begin(site, point, chance)
    await_death(site, point)
    return site.settle(MOST_RECOVERY - (time.monotonic() - began))


def begin(site: Site, point: str, chance: random.Random) -> None:
    """Arm a point and send what will reach it; what was cut is sent again."""
    size = chance.choice(OBJECTS)
    site.arm(point, chance.randint(1, size) if point.startswith(ONCE_AN_OBJECT) else 1)
    site.send(site.make(size, chance))


def await_death(site: Site, point: str) -> None:
    """Wait until a process has died there."""
    limit = time.monotonic() + REACHED_SECONDS
    reached = site.points / f"{point}.reached"
    while not reached.exists():
        assert time.monotonic() < limit, f"{point} was not reached"
        time.sleep(0.05)
