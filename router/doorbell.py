"""Ring a task: after commit, coalesced, by dotted name.

A ring means "look now" and carries only ids. A bell that is rung already is not queued again until
its task has begun; a lost ring is harmless, since the sweep rings anew what stayed too long.
"""

from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django_q.models import OrmQ
from django_q.tasks import async_task

from router.models import Bell

# A bell that was rung this long ago and not answered was lost with its queue.
FORGOTTEN = timedelta(seconds=20)


def ring(task: str, *ids: int) -> None:
    """Have ``router.tasks.<task>`` called with ``ids`` soon, once the transaction has committed.

    Args:
        task: the name of a function in ``router.tasks``.
        ids: row ids only.

    What a transaction wrote stands even when ringing fails after it, which is logged; the sweep
    rings again.
    """
    inside = transaction.get_connection().in_atomic_block
    # Not a partial: Django names the function when it logs its failure, and a partial has no name.
    transaction.on_commit(lambda: _ring(task, ids), robust=inside)


def answered(task: str, *ids: int) -> None:
    """Say that the task has begun: a ring from now on is queued again."""
    Bell.objects.filter(key=_key(task, ids)).update(rung=False)


def forget_all() -> None:
    """Drop every queued ring: the queue of a cluster that has just (re)started holds no truth."""
    OrmQ.objects.all().delete()
    Bell.objects.update(rung=False)


def _key(task: str, ids: tuple[int, ...]) -> str:
    return ":".join([task, *map(str, ids)])


@transaction.atomic
def _ring(task: str, ids: tuple[int, ...]) -> None:
    """Set the bell and queue the task together: a process killed in between must leave neither."""
    key, now = _key(task, ids), datetime.now(UTC)
    silent = Q(rung=False) | Q(rung_at__lt=now - FORGOTTEN) | Q(rung_at__gt=now + FORGOTTEN)
    if not Bell.objects.filter(silent, key=key).update(rung=True, rung_at=now):
        _bell, is_new = Bell.objects.get_or_create(key=key, defaults={"rung": True, "rung_at": now})
        if not is_new:
            return
    async_task(f"router.tasks.{task}", *ids)
