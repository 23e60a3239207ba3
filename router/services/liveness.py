"""Which process holds a lease, and whether it still lives, as far as this host can tell.

A name begins with the lock file of its process (``router.owners``); the kernel lets go of the lock
however the process ends. So the work of a worker that was killed is taken back within a second
instead of when its lease runs out. A worker whose lock file is not here (another host without our
data directory) counts as alive: for that one the lease decides.
"""

import os
import uuid
from collections.abc import Iterable
from functools import cache

from django.conf import settings

from router.owners import Owners

TOKEN = 32


@cache
def _owners(_process: int) -> Owners:
    return Owners(settings.DATA_DIR / "workers")


def new_name() -> str:
    """Return a name for one lease of this process; none is ever used twice."""
    return f"{_owners(os.getpid()).me().lock}:{uuid.uuid4().hex[:16]}"


def token(name: str) -> str:
    """Return the part of a name that all names of one process begin with."""
    return name[:TOKEN]


def dead(names: Iterable[str]) -> list[str]:
    """Return the tokens of those processes that have ended for certain."""
    owners = _owners(os.getpid())
    return [one for one in sorted({token(name) for name in names}) if owners.has_ended(one)]


def sweep(names: Iterable[str]) -> int:
    """Remove the lock files of processes that ended and hold no lease any more."""
    return _owners(os.getpid()).sweep(keep=frozenset(token(name) for name in names))
