"""Death and errors at system calls, by strace from outside: the product does not know of them.

Where crash points say *at this step of ours*, this says *at the nth fsync, rename or send of any
thread*, so it also falls into the database's own writes. strace is attached to the processes of a
role while they work, and detached when what it was to do has come about; where that does not
happen the run fails.
"""

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.books import Account
from tests.faults.kills import Roles
from tests.faults.site import MOST_RECOVERY, Background, Site
from tests.halves import halves
from tests.product import wait_until

CALLS = {
    "write": "write,writev,pwrite64,pwritev,pwritev2,sendfile,copy_file_range",
    "fsync": "fsync,fdatasync,sync_file_range",
    "rename": "rename,renameat,renameat2,link,linkat",
    "mkdir": "mkdir,mkdirat",
    "unlink": "unlink,unlinkat,rmdir",
    "send": "sendto,sendmsg",
}
ERRORS = ("ENOSPC", "EIO", "EDQUOT")
FAILING = ("write", "fsync", "rename", "mkdir")  # the calls that an error is given to
ROLES = {"receiver": "receiver child", "worker": "pool worker"}
OUT_OF_RESOURCES = 0xA700
HIT_SECONDS = 40.0
OBJECTS = 6
DEATH, ERROR = "killed by SIGKILL", "(INJECTED)"
RECEIVED = re.compile(r"/spool/inbox/[^>\"]*(part|\.dcm)")


class Strace:
    """`with Strace(pids, "fsync,fdatasync", "signal=SIGKILL:when=2", log) as trace:`."""

    def __init__(self, pids: Sequence[int], calls: str, injection: str, log: Path) -> None:
        self._log = log
        log.unlink(missing_ok=True)
        command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:{injection}"]
        command += [word for pid in pids for word in ("-p", str(pid))]
        self._command, self._count = command, len(pids)

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except FileNotFoundError as error:
            raise AssertionError("strace is not installed") from error
        assert self._process.stderr is not None
        said = [self._process.stderr.readline() for _ in range(self._count)]
        assert all("attached" in line for line in said), f"strace: {said}"
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()  # strace lets go of what it traces
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    def lines(self, word: str) -> list[str]:
        """What happened and has a word in it."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return [line for line in text.splitlines() if word in line]


def names() -> list[str]:
    """Every role with every call at which it may die."""
    return [f"{role} {call}" for role in ROLES for call in CALLS]


def die(site: Site, name: str, number: int, chance: random.Random) -> Account:
    """A process of a role dies at its `number`th call of a kind; everything is well again."""
    role, call = name.split(" ")
    with _traced(site, role, CALLS[call], f"signal=SIGKILL:when={number}") as trace:
        sender = _send_until(site, lambda: bool(trace.lines(DEATH)), chance, what=name)
        began = time.monotonic()
    sender.join()
    return site.settle(MOST_RECOVERY - (time.monotonic() - began))


def error_names() -> list[str]:
    """Every role with every error of every call."""
    return [f"{role} {error} {call}" for role in ROLES for call in FAILING for error in ERRORS]


def fail(site: Site, name: str, chance: random.Random) -> Account:
    """Calls of a kind fail, once or for a while: refused, nothing half kept, well again."""
    role, error, call = name.split(" ")
    which = f"{chance.randint(1, 3)}{chance.choice(['', '+'])}"
    before = site.refusals.copy()
    with _traced(site, role, CALLS[call], f"error={error}:when={which}") as trace:
        sender = _send_until(site, lambda: bool(trace.lines(ERROR)), chance, what=name)
        time.sleep(chance.uniform(0.0, 1.0))
        spoiled = [line for line in trace.lines(ERROR) if RECEIVED.search(line)]
    sender.join()
    refused = site.refusals - before
    assert set(refused) <= {OUT_OF_RESOURCES}, {f"{one:04X}": n for one, n in refused.items()}
    account = site.settle()
    inbox = site.product.data_dir / "spool/inbox"
    wait_until(lambda: not halves(inbox), seconds=10, what=f"no half file {spoiled}")
    return account


def _traced(site: Site, role: str, calls: str, injection: str) -> Strace:
    found = Roles(site.product).of(ROLES[role])
    return Strace([one.pid for one in found], calls, injection, site.folder / "strace.log")


def _send_until(
    site: Site, came: Callable[[], bool], chance: random.Random, *, what: str
) -> Background:
    """Send small studies until it has come about; the last may still go on."""
    objects = site.make(OBJECTS, chance)
    sender = site.send_in_background(objects)
    limit = time.monotonic() + HIT_SECONDS
    while not came():
        assert time.monotonic() < limit, f"not within {HIT_SECONDS:g} s: {what}"
        if not sender.is_running:
            sender.join()
            time.sleep(0.3)
            sender = site.send_in_background(site.make(OBJECTS, chance))
        time.sleep(0.05)
    return sender
