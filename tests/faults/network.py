"""Faults of the network, before the far ends and before the receiver, and answers of far ends."""

import random
import time
from collections.abc import Callable
from dataclasses import replace

from tests.faults.books import Account
from tests.faults.proxy import End, Fault, FaultProxy
from tests.faults.site import NAMES, Site
from tests.faults.tagged import Tagged
from tests.product import wait_until

OUTBOUND: dict[str, Fault] = {
    "delay": Fault("delay", delay=0.05),
    "rate": Fault("rate", rate=65536.0),
    "drip": Fault("drip", delay=0.001, chunk=1),
    "cut what is sent": Fault("cut what is sent", up_bytes=20_000),
    "cut the answer": Fault("cut the answer", down_bytes=250),
    "reset what is sent": Fault("reset what is sent", up_bytes=20_000, end="reset"),
    "reset the answer": Fault("reset the answer", down_bytes=250, end="reset"),
    "half close": Fault("half close", up_bytes=20_000, end="half"),
    "half close of the answer": Fault("half close of the answer", down_bytes=250, end="half"),
    "stop reading": Fault("stop reading", up_bytes=20_000, end="stall"),
    "no answer": Fault("no answer", down_bytes=250, end="stall"),
    "garbage instead of data": Fault("garbage instead of data", up_bytes=20_000, end="garbage"),
    "garbage as the answer": Fault("garbage as the answer", down_bytes=250, end="garbage"),
}
SLOW = frozenset({"delay", "rate", "drip"})
ENDS: tuple[End, ...] = ("close", "reset", "half", "stall")

# Status of a C-STORE answer and the state that the first such answer leads to.
STATUSES: dict[int, str] = {
    0x0000: "delivered",
    0xB000: "warning",
    0xB006: "warning",
    0xB007: "warning",
    0xA700: "waiting",
    0xA701: "waiting",
    0x0110: "waiting",
    0xC000: "waiting",
    0xC123: "waiting",
    0xA900: "parked",
    0xA901: "parked",
    0x0122: "parked",
}


def outbound(site: Site, name: str, chance: random.Random) -> Account:
    """A fault between us and far end `a` while we deliver; it is healed, the books are compared."""
    fault = OUTBOUND[name]
    far = site.far["a"]
    seen = far.proxy.passed
    far.proxy.fault = _varied(fault, chance)
    site.send(site.make(10, chance))
    assert far.proxy.wait_for_connections(seen + 1, 30), "nobody came through the proxy"
    if name not in SLOW:
        far.proxy.wait_for_connections(seen + 2, chance.uniform(3, 8))
    else:
        time.sleep(chance.uniform(1, 3))
    far.proxy.heal()
    return site.settle()


def _varied(fault: Fault, chance: random.Random) -> Fault:
    """The same fault at another byte."""
    up = fault.up_bytes and chance.randint(1, 60_000)
    down = fault.down_bytes and chance.randint(1, 1200)
    return replace(fault, up_bytes=up, down_bytes=down)


def inbound(site: Site, end: End, chance: random.Random) -> Account:
    """A modality behind a bad line: cut at a random byte either way, and tried again."""
    with FaultProxy(site.product.port) as proxy:
        objects = site.make(20, chance)
        for _ in range(4):
            fault = Fault(end, up_bytes=chance.randint(1, 200_000), end=end)
            if chance.random() < 0.5:
                fault = Fault(end, down_bytes=chance.randint(1, 2500), end=end)
            proxy.fault = fault
            begun = site.send_in_background(
                objects, port=proxy.port, stop=_after(chance.uniform(0.5, 1.5))
            )
            wait_until(lambda: proxy.passed > 0, seconds=20, what="a connection")
            time.sleep(chance.uniform(0.2, 1.0))
            proxy.heal()
            begun.join(60)
        site.send(objects, port=proxy.port)
    return site.settle()


def _after(seconds: float) -> Callable[[], bool]:
    limit = time.monotonic() + seconds
    return lambda: time.monotonic() > limit


def answer(site: Site, status: int, chance: random.Random) -> Account:
    """Far end `a` answers one object with a status; the ledger must make of it what it should."""
    far = site.far["a"]
    one = _for_a(site, chance)
    site.wait_settled()
    number = len(far.sink.objects) + 1
    far.statuses[number] = status
    site.send([one])
    pair, expected = (one.uid, "a"), STATUSES[status]
    wait_until(
        lambda: (
            len(far.sink.objects) >= number
            and site.ledger.read().attempts.total()
            and _said(site, pair) not in ("", "pending", "leased")
        ),
        seconds=30,
        what="an answer in the ledger",
    )
    said = site.ledger.read()
    found = said.states[pair]
    if expected == "waiting":  # tried again after a second: it may have been delivered by now
        assert found in {"waiting", "leased", "pending", "delivered"}, found
        assert said.attempts[*pair, "refused"] == 1, said.attempts
    else:
        assert found == expected, f"{status:04X} led to {found}: {said.reasons.get(pair)}"
    if expected == "parked":
        _release(site, pair)
    return site.settle()


def _for_a(site: Site, chance: random.Random) -> Tagged:
    (one,) = site.make(1, chance)
    assert one.destinations == frozenset(NAMES)
    return one


def _said(site: Site, pair: tuple[str, str]) -> str:
    return site.ledger.read().states.get(pair, "")


def _release(site: Site, pair: tuple[str, str]) -> None:
    """What was parked is tried again, as by a person."""
    site.product.command(
        "shell",
        "-c",
        "from router.models import JobItem, Lane;"
        f"mine = JobItem.objects.filter(instance__sop_instance_uid='{pair[0]}');"
        "mine.filter(state='parked').retry_now();"
        "Lane.objects.update(state='open', failures=0, resume_at=None)",
    )
