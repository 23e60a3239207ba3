"""Named places in receive, index, route and deliver where a proof may end or stop the process.

`reach("deliver.after_send")` does nothing unless the process was started with a folder of armed
points in its environment, and never in production. A point is armed while the folder is watched
by a file of its name that holds a number: the nth time that one process reaches it, the process
claims the file by renaming it and kills itself. So exactly one process dies once for each arming,
and whoever armed it can see that it came to pass. Where the file's third word is STOP the process
stops (SIGSTOP) until whoever armed it lets it go on. It refuses to do anything else.
"""

import os
import signal
from collections import Counter
from pathlib import Path

VARIABLE = "ROUTER_CRASH_POINTS"
REACHED = ".reached"
STOP = "STOP"
POINTS = (
    "receive.part_opened",
    "receive.before_fsync",
    "receive.after_fsync",
    "receive.after_rename",
    "receive.before_reply",
    "index.before_transaction",
    "index.before_commit",
    "index.after_commit",
    "index.between_moves",
    "index.after_moves",
    "route.after_match",
    "route.before_commit",
    "route.after_commit",
    "deliver.after_claim",
    "deliver.after_attempts",
    "deliver.before_send",
    "deliver.mid_object",
    "deliver.after_send",
    "deliver.before_lane",
    "deliver.before_commit",
    "deliver.after_commit",
    "prove.after_attempts",
    "prove.after_request",
    "prove.after_report",
    "prove.before_commit",
)


def _armed_folder() -> Path | None:
    """The folder of armed points, of a process that is not in production."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder and os.environ.get("ROUTER_ENV") != "production" else None


_FOLDER = _armed_folder()
_seen: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die here if this point is armed and its time has come."""
    if _FOLDER is not None:
        _look(_FOLDER / name)


def _look(armed: Path) -> None:
    try:
        text = armed.read_text(encoding="ascii")
    except FileNotFoundError:
        return
    count, _, rest = text.partition(" ")
    token, _, how = rest.partition(" ")
    key = f"{armed.name} {token}"
    _seen[key] += 1
    if not count.isdigit() or _seen[key] < int(count):
        return
    try:
        armed.rename(armed.with_name(armed.name + REACHED))
    except FileNotFoundError:
        return  # another process was quicker
    os.kill(os.getpid(), signal.SIGSTOP if how == STOP else signal.SIGKILL)
