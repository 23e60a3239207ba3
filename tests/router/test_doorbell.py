"""The doorbell: rung after commit, coalesced, and rung anew when a ring was lost."""

from datetime import UTC, datetime, timedelta
from threading import Lock

import pytest
from django.db import transaction
from django_q.models import OrmQ

from router import doorbell
from router.models import Bell

pytestmark = pytest.mark.django_db(transaction=True)


def _queued() -> list[tuple[str, tuple[int, ...]]]:
    tasks = [row.task for row in OrmQ.objects.order_by("pk")]
    return [(str(task["func"]), tuple(task["args"])) for task in tasks]


def _age(seconds: float) -> None:
    Bell.objects.update(rung_at=datetime.now(UTC) - timedelta(seconds=seconds))


def test_rings_by_dotted_name_with_ids() -> None:
    doorbell.ring("deliver", 7, 0)
    assert _queued() == [("router.tasks.deliver", (7, 0))]


def test_rings_only_after_the_commit() -> None:
    with transaction.atomic():
        doorbell.ring("route")
        assert _queued() == []
    assert len(_queued()) == 1


def test_a_rollback_rings_nothing() -> None:
    with transaction.atomic():
        doorbell.ring("route")
        transaction.set_rollback(True)
    assert _queued() == []
    assert not Bell.objects.exists()


def test_many_rings_queue_one_task() -> None:
    for _ in range(5):
        doorbell.ring("route")
    with transaction.atomic():
        doorbell.ring("route")
        doorbell.ring("route")
    assert len(_queued()) == 1


def test_bells_of_other_ids_ring_apart() -> None:
    doorbell.ring("deliver", 1, 0)
    doorbell.ring("deliver", 1, 1)
    doorbell.ring("deliver", 11)
    assert [ids for _task, ids in _queued()] == [(1, 0), (1, 1), (11,)]


def test_rings_again_once_the_task_has_begun() -> None:
    doorbell.ring("route")
    doorbell.answered("route")
    doorbell.ring("route")
    assert len(_queued()) == 2


def test_an_answer_is_for_its_own_bell() -> None:
    doorbell.ring("deliver", 1)
    doorbell.answered("deliver", 2)
    doorbell.ring("deliver", 1)
    assert len(_queued()) == 1


@pytest.mark.parametrize("seconds", [21, -21], ids=["long ago", "in the future: the clock stepped"])
def test_a_ring_that_nobody_answered_is_forgotten(seconds: float) -> None:
    doorbell.ring("route")
    _age(seconds)
    doorbell.ring("route")
    assert len(_queued()) == 2


def test_a_young_ring_is_not_forgotten() -> None:
    doorbell.ring("route")
    _age(10)
    doorbell.ring("route")
    assert len(_queued()) == 1


def test_forgets_what_a_dead_cluster_left() -> None:
    doorbell.ring("route")
    doorbell.ring("deliver", 3)
    doorbell.forget_all()
    assert _queued() == []
    doorbell.ring("route")
    assert _queued() == [("router.tasks.route", ())]


def test_what_was_written_stands_when_its_ring_fails() -> None:
    with transaction.atomic():
        Bell.objects.create(key="other", rung=False, rung_at=datetime.now(UTC))
        doorbell.ring("route", Lock())  # type: ignore[arg-type]  # cannot be queued
    assert list(Bell.objects.values_list("key", flat=True)) == ["other"]
    assert _queued() == []
