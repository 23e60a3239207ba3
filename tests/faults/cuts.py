"""Cuts at every PDU boundary of a study of three objects and a byte beside it, both ways (T3).

Inbound the proxy stands between a modality and us, outbound between us and far end `a`. The
requestor's PDUs are A-ASSOCIATE-RQ, a command and a data set for each object, and A-RELEASE-RQ;
the acceptor's are A-ASSOCIATE-AC, a response for each object, and A-RELEASE-RP.
"""

import random
from contextlib import suppress

from tests.faults.books import Account
from tests.faults.proxy import Fault, FaultProxy
from tests.faults.site import Site
from tests.product import wait_until

OBJECTS = 3
PIXELS = (256,)  # so that a data set fits one PDU
UP = 1 + 2 * OBJECTS + 1
DOWN = 1 + OBJECTS + 1
TRIES = 6


def names() -> list[str]:
    """Every cut: side, direction, number of the PDU, byte beside its end."""
    ends = [("up", number) for number in range(1, UP + 1)]
    ends += [("down", number) for number in range(1, DOWN + 1)]
    return [
        f"{side} {way} {number} {shift:+d}"
        for side in ("in", "out")
        for way, number in ends
        for shift in (-1, 0, 1)
        if (way, number, shift) not in {("up", UP, 1), ("down", DOWN, 1)}  # nothing comes after
    ]


def cut(site: Site, name: str, chance: random.Random) -> Account:
    """One cut; what was not acknowledged, or not delivered, comes later, and the books agree."""
    side, way, number, shift = name.split(" ")
    fault = Fault(
        name,
        up_pdus=int(number) if way == "up" else None,
        down_pdus=int(number) if way == "down" else None,
        shift=int(shift),
    )
    _inbound(site, fault, chance) if side == "in" else _outbound(site, fault, chance)
    return site.settle()


def _inbound(site: Site, fault: Fault, chance: random.Random) -> None:
    objects = site.make(OBJECTS, chance, pixels=PIXELS)
    with FaultProxy(site.product.port) as proxy:
        proxy.fault = fault
        sender = site.send_in_background(objects, port=proxy.port)
        wait_until(proxy.has_cut, seconds=20, what=fault.name, every=0.01)
        proxy.heal()
        sender.join()


def _outbound(site: Site, fault: Fault, chance: random.Random) -> None:
    """The three leave on one association as a rule; where they did not, three more are sent."""
    proxy = site.far["a"].proxy
    proxy.fault = fault
    try:
        for _ in range(TRIES):
            site.send(site.make(OBJECTS, chance, pixels=PIXELS, everywhere=True))
            with suppress(AssertionError):
                wait_until(proxy.has_cut, seconds=4, what=fault.name, every=0.01)
                return
    finally:
        proxy.heal()
    raise AssertionError(f"the cut {fault.name} did not come about")
