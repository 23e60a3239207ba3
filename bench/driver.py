"""Inside the product's settings: does what the bench asks, through the product's own services.

A program: one JSON line in, one out. Also holds the measurements that need no network: routing
straight on the database, and indexing on top of many rows.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402 - after the setup

from bench import rows  # noqa: E402
from router.config import schema  # noqa: E402
from router.models import (  # noqa: E402
    Decision,
    Destination,
    Instance,
    ItemState,
    Job,
    JobItem,
    RoutingMark,
)
from router.services import config, importing, jobs, reckoning, routing  # noqa: E402
from router.services.actors import SYSTEM  # noqa: E402


def apply(*, text: str) -> int:
    """Apply a configuration; return how many changes that were."""
    return len(config.apply(schema.load(text), actor=SYSTEM, reason="bench").changes)


def pause(*, name: str) -> float:
    """Pause a destination's lane."""
    jobs.pause_lane(Destination.objects.get(name=name), actor=SYSTEM)
    return now()


def resume(*, name: str) -> float:
    """Resume a destination's lane; return the moment before."""
    destination, started = Destination.objects.get(name=name), now()
    jobs.resume_lane(destination, actor=SYSTEM)
    return started


def now() -> float:
    """Return the monotonic clock, which all processes of a machine share."""
    return time.monotonic()


def unfinished() -> dict[str, int]:
    """Return what is still to be done, by kind."""
    return reckoning.unfinished()


def indexed() -> int:
    """Return how many objects are in the index."""
    return Instance.objects.count()


def undecided() -> int:
    """Return how many marks wait for a decision."""
    return RoutingMark.objects.undecided().count()


def delivered() -> int:
    """Return how many items are delivered."""
    return JobItem.objects.filter(state=ItemState.DELIVERED).count()


def bring_in(*, folder: str) -> int:
    """Import files; nothing is routed, since no worker runs."""
    files = sorted(Path(folder).glob("*.dcm"))
    steps = [report for _, report in importing.run(files, calling_ae="BENCH", actor=SYSTEM)]
    return steps[-1].stored if steps else 0


def route() -> dict[str, float]:
    """Decide for every mark; return how many, what was written, and how long it took."""
    before = _counts()
    started, count = time.perf_counter(), 0
    while taken := routing.route_batch():
        count += taken
    seconds = time.perf_counter() - started
    after = _counts()
    written = {name: after[name] - before[name] for name in after}
    return {"instances": count, "seconds": seconds, **written}


def _counts() -> dict[str, int]:
    return {
        "decisions": Decision.objects.count(),
        "jobs": Job.objects.count(),
        "items": JobItem.objects.count(),
    }


def migrate() -> int:
    """Make the tables."""
    call_command("migrate", verbosity=0, interactive=False)
    return 0


VERBS: dict[str, Callable[..., Any]] = {  # Any: whatever JSON can hold
    "apply": apply,
    "pause": pause,
    "resume": resume,
    "now": now,
    "unfinished": unfinished,
    "indexed": indexed,
    "undecided": undecided,
    "delivered": delivered,
    "bring_in": bring_in,
    "route": route,
    "migrate": migrate,
    "fill": rows.fill,
    "cost": rows.cost,
}


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        answer = VERBS[asked.pop("verb")](**asked)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
