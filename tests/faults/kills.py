"""Blows to each process role while everything is at work, and graceful stops.

A blow is a SIGKILL, a SIGSEGV or a stop of 40 seconds. A worker that is stopped beyond its lease
must find that what it writes then is refused.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from tests.faults.books import Account
from tests.faults.site import MOST_RECOVERY, Site
from tests.product import Product, wait_until

MOST_STOP = 30.0
ROLES = (
    "receiver parent",
    "receiver child",
    "watchdog",
    "cluster main",
    "sentinel",
    "pool worker",
    "monitor",
    "pusher",
    "web",
)
STOPS = (
    ("TERM to main", signal.SIGTERM, False),
    ("TERM to all", signal.SIGTERM, True),
    ("INT to all", signal.SIGINT, True),
)
FROZEN_SECONDS = 40.0
LATE = {  # where a worker is stopped until another has delivered in its place
    "worker before its send": "deliver.before_send",
    "worker in an object": "deliver.mid_object",
    "worker after its send": "deliver.after_send",
}
_HOW = ("", "success", "warning", "lost", "unknown")
MOST_LEASE = 60.0  # seconds: a lease, and what it takes to deliver again
_MOST_DEATHS, _WINDOW = 4, 30.0  # `up` gives up on what dies six times in 30 s

Process = psutil.Process
Blow = Callable[[Process], None]


def kill(process: Process) -> None:
    """End it without a word."""
    process.kill()


def crash(process: Process) -> None:
    """End it as a fault of its own memory does."""
    process.send_signal(signal.SIGSEGV)


def freeze(process: Process) -> None:
    """Stop it for 40 seconds; it may have been replaced by then."""
    process.suspend()
    time.sleep(FROZEN_SECONDS)
    with suppress(psutil.NoSuchProcess):
        process.resume()


def strike(site: Site, role: str, blow: Blow, chance: random.Random) -> tuple[Account, float]:
    """Deal one process of a role a blow under load.

    Returns:
        What the books say after it, and how long it took until everything was back: everything
        acknowledged delivered, a new object taken and delivered, the console answering.
    """
    _spare(site, role)
    roles = Roles(site.product)
    before = site.make(chance.randint(30, 60), chance)
    sender = site.send_in_background(before)
    time.sleep(chance.uniform(0.2, 1.2))
    blow(chance.choice(roles.of(role)))
    began = time.monotonic()
    sender.join()
    site.send(site.make(3, chance))
    account = site.settle(MOST_RECOVERY)
    wait_until(lambda: _answers(site.product), seconds=MOST_RECOVERY, what="the console")
    took = time.monotonic() - began
    assert took <= MOST_RECOVERY, f"{role} was back after {took:.0f} s"
    wait_until(roles.are_whole, seconds=MOST_RECOVERY, what=f"all roles after the end of {role}")
    return account, took


def _spare(site: Site, role: str) -> None:
    """Wait while so many of a role have died lately that `up` would take the next for hopeless."""
    while True:
        since = time.monotonic() - _WINDOW
        site.deaths = [(at, who) for at, who in site.deaths if at > since]
        mine = [at for at, who in site.deaths if who == role]
        if len(mine) < _MOST_DEATHS:
            site.deaths.append((time.monotonic(), role))
            return
        time.sleep(0.2)


def come_late(site: Site, name: str, chance: random.Random) -> tuple[Account, float]:
    """Stop a worker beyond its lease: another delivers, and its own late write is refused (R23).

    Returns:
        What the books say after it, and how long it took until another had delivered.
    """
    site.arm(LATE[name], 1, how="STOP")
    (one,) = site.make(1, chance)
    site.send([one])
    began = time.monotonic()
    wait_until(lambda: _stopped(site), seconds=30, what="a worker that stopped itself")
    (late,) = _stopped(site)
    try:
        site.wait_settled(MOST_LEASE)
        took = time.monotonic() - began
        said = site.ledger.read()
    finally:
        late.resume()
    held = [pair for pair in said.states if said.attempts[*pair, "lost"]]
    assert held, "nothing was leased by the worker that stopped"
    site.send(site.make(3, chance))
    account = site.settle(deep=True)
    after = site.ledger.read()
    for pair in held:
        assert after.states[pair] == said.states[pair], f"{pair} was written late"
        counts = [{how: page.attempts[*pair, how] for how in _HOW} for page in (said, after)]
        assert counts[0] == counts[1], f"{pair} was written late: {counts}"
    return account, took


def _stopped(site: Site) -> Sequence[Process]:
    found = []
    for one in site.product.processes():
        with suppress(psutil.NoSuchProcess):
            found += [one] if one.status() == psutil.STATUS_STOPPED else []
    return found


class Roles:
    """Who is who below `up`. The cluster's children are told apart by the order of their birth.

    django-q2 starts its workers, then the monitor, then the pusher; a replacement comes last. So
    the cluster is made anew before one of these is looked for when it has lost one.
    """

    def __init__(self, product: Product) -> None:
        self._product = product
        wait_until(self.are_whole, seconds=MOST_RECOVERY, what="all roles")

    def of(self, role: str) -> Sequence[Process]:
        """The processes of a role."""
        return _FINDERS[role](self)

    def are_whole(self) -> bool:
        """Whether every role has a process."""
        try:
            return all(_FINDERS[role](self) for role in ROLES)
        except (psutil.NoSuchProcess, LookupError):
            return False

    def child_of_up(self, word: str) -> Process:
        """The one child of `up` whose command line has a word."""
        children = self._product.up.children()
        return [one for one in children if word in one.cmdline()][0]  # noqa: RUF015

    def receivers(self) -> Sequence[Process]:
        """The processes that serve the DICOM port."""
        return self.child_of_up("receiver").children()

    def main(self) -> Process:
        """The cluster's own main process."""
        return self.child_of_up("worker").children()[0]

    def sentinel(self) -> Process:
        """The process that watches the cluster's workers."""
        return [one for one in self.main().children() if one.children()][0]  # noqa: RUF015

    def members(self) -> Sequence[Process]:
        """Workers, monitor, pusher in the order of their birth."""
        found = sorted(self.sentinel().children(), key=lambda one: (one.create_time(), one.pid))
        return found if len(found) > 2 else []


_FINDERS: dict[str, Callable[[Roles], Sequence[Process]]] = {
    "receiver parent": lambda roles: [roles.child_of_up("receiver")],
    "receiver child": lambda roles: roles.receivers(),
    "watchdog": lambda roles: [roles.child_of_up("worker")],
    "cluster main": lambda roles: [roles.main()],
    "sentinel": lambda roles: [roles.sentinel()],
    "pool worker": lambda roles: roles.members()[:-2],
    "monitor": lambda roles: roles.members()[-2:-1],
    "pusher": lambda roles: roles.members()[-1:],
    "web": lambda roles: [roles.child_of_up("web")],
}


def make_anew(site: Site) -> None:
    """Have the cluster started anew, so that its members are in the order of their birth."""
    roles = Roles(site.product)
    before = roles.main().pid
    roles.main().kill()
    wait_until(
        lambda: roles.are_whole() and roles.main().pid != before,
        seconds=MOST_RECOVERY,
        what="a new cluster",
    )


def stop(site: Site, how: tuple[str, int, bool], chance: random.Random) -> tuple[Account, float]:
    """Stop gracefully under load, start again, compare.

    Returns:
        What the books say, and how long the stop took.
    """
    _, number, to_group = how
    stopping = threading.Event()
    sender = site.send_in_background(site.make(250, chance), stop=stopping.is_set)
    time.sleep(chance.uniform(0.3, 2.0))
    began = time.monotonic()
    site.product.send_signal(number, to_group=to_group)
    time.sleep(chance.uniform(0.0, 1.0))
    stopping.set()
    code = site.product.wait_ended(MOST_STOP + 15)
    took = time.monotonic() - began
    sender.join()
    assert code == 0, f"exit {code}\n{site.product.log()[-3000:]}"
    assert took < MOST_STOP, f"the stop took {took:.1f} s"
    site.product.start()
    return site.settle(), took


def _answers(product: Product) -> bool:
    try:
        return bool(product.get("/healthz"))
    except OSError:
        return False
