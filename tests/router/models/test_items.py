"""The states of an item: a table of every move, legal and illegal, each one conditional UPDATE."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from router.models import ItemState, JobItem
from router.models.jobs import DONE_STATES, OPEN_STATES, JobItemQuerySet
from router.services import clock
from tests import factories

S = ItemState
Move = Callable[[JobItemQuerySet], int]
HOUR = timedelta(hours=1)

pytestmark = pytest.mark.django_db


def _lease(items: JobItemQuerySet) -> int:
    now = clock.now()
    return items.lease(now=now, until=now + timedelta(seconds=30), owner="another")


MOVES: dict[str, tuple[Move, dict[ItemState, ItemState]]] = {
    "lease": (_lease, {S.PENDING: S.LEASED, S.WAITING: S.LEASED}),
    "retry_now": (
        lambda items: items.retry_now(),
        {S.PARKED: S.PENDING, S.WAITING: S.PENDING},
    ),
    "hold": (
        lambda items: items.hold("Held by ann."),
        {S.PENDING: S.HELD, S.WAITING: S.HELD},
    ),
    "release": (lambda items: items.release(), {S.HELD: S.PENDING}),
    "cancel": (
        lambda items: items.cancel("Cancelled by ann."),
        dict.fromkeys((S.PENDING, S.WAITING, S.HELD, S.PARKED), S.CANCELLED),
    ),
}
"""Each move, and where it leads from the states in which it is allowed; elsewhere it is refused."""


def _item(state: ItemState, **fields: Any) -> JobItem:  # Any: the model checks its fields
    now = clock.now()
    usual: dict[ItemState, dict[str, Any]] = {
        S.LEASED: {"owner": "mine", "lease_until": now + HOUR, "fence": 1},
        S.WAITING: {"due_at": now - HOUR, "tries": 2, "lost": 1, "reason": "no answer"},
        S.PARKED: {"tries": 3, "lost": 4, "reason": "refused"},
    }
    return factories.item(state=state, **usual.get(state, {}) | fields)


def _row(item: JobItem) -> Mapping[str, object]:
    return JobItem.objects.filter(pk=item.pk).values().get()


def test_the_table_knows_every_state() -> None:
    assert {*OPEN_STATES, *DONE_STATES, S.PARKED, S.HELD, S.CANCELLED} == set(S)


@pytest.mark.parametrize("state", S, ids=str)
@pytest.mark.parametrize("move", MOVES)
def test_moves_only_from_the_states_of_the_table(move: str, state: ItemState) -> None:
    act, legal = MOVES[move]
    item, bystander = _item(state), _item(state)
    before = _row(item)
    untouched = _row(bystander)

    count = act(JobItem.objects.filter(pk=item.pk))

    after = _row(item)
    assert count == (state in legal)
    assert after["state"] == legal.get(state, state)
    if state not in legal:
        assert after == before
    assert _row(bystander) == untouched


def test_lease_of_a_waiting_item_waits_for_its_time() -> None:
    item = _item(S.WAITING, due_at=clock.now() + HOUR)
    assert _lease(JobItem.objects.filter(pk=item.pk)) == 0
    with clock.shifted(HOUR * 2):
        assert _lease(JobItem.objects.filter(pk=item.pk)) == 1


def test_lease_is_given_once_with_the_next_fence() -> None:
    item = _item(S.PENDING, fence=6)
    rows = JobItem.objects.filter(pk=item.pk)
    now = clock.now()

    counts = [rows.lease(now=now, until=now + HOUR, owner=name) for name in ("first", "second")]

    item.refresh_from_db()
    assert counts == [1, 0]
    assert (item.fence, item.owner, item.lease_until) == (7, "first", now + HOUR)
    assert rows.leased_by("first").exists()
    assert not rows.leased_by("second").exists()


def test_retry_now_starts_the_counts_anew() -> None:
    item = _item(S.PARKED)
    JobItem.objects.filter(pk=item.pk).retry_now()
    item.refresh_from_db()
    assert (item.tries, item.lost, item.reason, item.due_at) == (0, 0, "", None)


def test_release_takes_the_address_of_today() -> None:
    item = _item(S.HELD, reason="changed")
    item.destination.endpoint = 9
    item.destination.save(update_fields=["endpoint"])
    JobItem.objects.filter(pk=item.pk).release()
    item.refresh_from_db()
    assert (item.endpoint, item.reason) == (9, "")


@pytest.mark.parametrize("state", S, ids=str)
def test_only_pending_and_due_waiting_items_are_due(state: ItemState) -> None:
    _item(state)
    due = JobItem.objects.due(clock.now()).exists()
    assert due is (state in {S.PENDING, S.WAITING})


@pytest.mark.parametrize("state", S, ids=str)
def test_only_a_leased_item_expires(state: ItemState) -> None:
    _item(state, lease_until=clock.now() - HOUR)
    assert JobItem.objects.expired(clock.now()).exists() is (state == S.LEASED)


def test_a_lease_does_not_expire_before_its_end() -> None:
    _item(S.LEASED)
    assert not JobItem.objects.expired(clock.now()).exists()
    with clock.shifted(HOUR * 2):
        assert JobItem.objects.expired(clock.now()).exists()


def test_oldest_first_is_the_order_of_choosing() -> None:
    job = factories.job()
    chosen = [factories.item(job).pk for _ in range(3)]
    assert list(JobItem.objects.oldest_first().values_list("pk", flat=True)) == chosen
