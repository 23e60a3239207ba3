"""Kills of each process role, by SIGKILL, while everything is at work; and graceful stops."""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence

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
_YOUNG = 7.0  # seconds; `up` gives up on what dies six times in 30 s

Process = psutil.Process


def kill(site: Site, role: str, chance: random.Random) -> tuple[Account, float]:
    """Kill one process of a role under load.

    Returns:
        What the books say after it, and how long it took until everything was back: everything
        acknowledged delivered, a new object taken and delivered, the console answering.
    """
    roles = Roles(site.product)
    before = site.make(chance.randint(30, 60), chance)
    sender = site.send_in_background(before)
    time.sleep(chance.uniform(0.2, 2.0))
    began = time.monotonic()
    chance.choice(roles.of(role)).kill()
    sender.join()
    site.send(site.make(3, chance))
    account = site.settle(MOST_RECOVERY)
    wait_until(lambda: _answers(site.product), seconds=MOST_RECOVERY, what="the console")
    took = time.monotonic() - began
    assert took <= MOST_RECOVERY, f"{role} was back after {took:.0f} s"
    wait_until(roles.are_whole, seconds=MOST_RECOVERY, what=f"all roles after the kill of {role}")
    time.sleep(max(0.0, _YOUNG - (time.monotonic() - began)))
    return account, took


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
    sender = site.send_in_background(site.make(400, chance), stop=stopping.is_set)
    time.sleep(chance.uniform(0.3, 3.0))
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
