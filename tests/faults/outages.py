"""A far end that is away for hours or days, by a clock that is moved on (T6, R16).

Nothing may be parked for it, the pauses follow the product's own table give or take 10 %, and
once it is back everything goes out, the oldest first.
"""

import random
import time
from collections.abc import Callable

from tests.faults.books import Account
from tests.faults.ledger import DONE
from tests.faults.proxy import Fault
from tests.faults.site import FarEnd, Site
from tests.faults.tagged import Tagged
from tests.faults.wallclock import WallClock
from tests.product import wait_until

HOUR = 3600
AWAY = {"8 h": 8 * HOUR, "3 d": 72 * HOUR}
TABLE = (30, 60, 300, 900, 1800)  # seconds: the product's own, the last for ever
JITTER = 0.1
STEPS_BY_TABLE = len(TABLE) + 1  # then the clock is moved on in longer steps
LONG_STEPS = 2
MOVES = 75.0  # seconds until a move of the clock shows everywhere: it is read every 30 s
FULL = 0xA700


def _vanish(far: FarEnd) -> None:
    far.proxy.fault = Fault("vanished", up_bytes=0)


def _refuse(far: FarEnd) -> None:
    """Take the connection, then reset it before the association's answer is complete."""
    far.proxy.fault = Fault("refused", down_bytes=10, end="reset")


def _be_full(far: FarEnd) -> None:
    here = len(far.sink.objects)
    far.statuses.update(dict.fromkeys(range(here + 1, here + 2000), FULL))


def _come_back(far: FarEnd) -> None:
    far.proxy.heal()
    for number in [number for number in far.statuses if number > len(far.sink.objects)]:
        del far.statuses[number]


WAYS: dict[str, Callable[[FarEnd], None]] = {
    "vanished": _vanish,
    "refuses": _refuse,
    "full": _be_full,
}


def names() -> list[str]:
    """Every length with every way to be away."""
    return [f"{length} {way}" for way in WAYS for length in AWAY]


def away(site: Site, clock: WallClock, name: str, chance: random.Random) -> tuple[Account, float]:
    """Far end `a` is away. Returns the account, and the seconds until all was delivered."""
    length, _, way = name.rpartition(" ")
    far = site.far["a"]
    _with_own_table(site)
    WAYS[way](far)
    objects = [one for _ in range(3) for one in _sent(site, chance)]
    wait_until(lambda: _is_probed(site, 0), seconds=60, what="a first failure")
    end = _now(clock) + AWAY[length]
    steps, most = 0, 0.0
    while (rest := end - _now(clock)) > 0:
        most = max(most, _check(site, objects))
        steps += 1
        _move_on(site, clock, rest if steps > STEPS_BY_TABLE else 0.0)
    assert steps > STEPS_BY_TABLE, f"only {steps} probes"
    assert most > 0, "the pauses have no jitter"
    return _returned(site, clock, objects)


def _with_own_table(site: Site) -> None:
    site.wait_settled()
    if site.far["a"].retry:
        site.far["a"].retry = ()
        site.product.apply(site.configuration())


def _sent(site: Site, chance: random.Random) -> list[Tagged]:
    """Send a study and wait until all but `a` have it, so that the next one is younger."""
    objects = site.make(4, chance, everywhere=True)
    site.send(objects)
    wait_until(lambda: all(to == "a" for _, to in site.missing()), seconds=60, what="the others")
    return objects


def _now(clock: WallClock) -> float:
    return time.time() + clock.shift


def _check(site: Site, objects: list[Tagged]) -> float:
    """Check that nothing is parked and each pause is the table's; return the greatest jitter."""
    page = site.ledger.read()
    states = {one.uid: page.states[one.uid, "a"] for one in objects}
    assert set(states.values()) <= {"waiting", "pending", "leased"}, states
    said, most = site.ledger.outage("a"), 0.0
    for one in (*said.lane, *said.items):
        table, pause = TABLE[min(one.failures, len(TABLE)) - 1], one.until - one.began
        beside = abs(pause.total_seconds() / table - 1)
        assert beside <= JITTER + 0.5 / table, f"{pause} after {one.failures} failures"
        most = max(most, beside)
    return most


def _move_on(site: Site, clock: WallClock, rest: float) -> None:
    """Move the clock to the next probe, or further where there is much left; wait for the probe."""
    before = site.ledger.outage("a")
    wanted = max(before.resumes.timestamp() - _now(clock) + 1, rest / LONG_STEPS)
    clock.jump(max(1, int(wanted)))
    wait_until(lambda: _is_probed(site, before.attempts), seconds=MOVES, what="a probe")


def _is_probed(site: Site, before: int) -> bool:
    said = site.ledger.outage("a")
    return said.attempts > before and bool(said.items or said.lane)


def _returned(site: Site, clock: WallClock, objects: list[Tagged]) -> tuple[Account, float]:
    far = site.far["a"]
    _come_back(far)
    came = len(far.sink.objects)
    clock.jump(2 * TABLE[-1])
    began = time.monotonic()
    site.wait_settled()
    took = time.monotonic() - began
    page = site.ledger.read()
    assert all(page.states[one.uid, "a"] in DONE for one in objects)
    order = [one.sop_instance_uid for one in far.sink.objects[came:]]
    assert order == [one.uid for one in objects], "not the oldest first"
    return site.settle(deep=True), took
