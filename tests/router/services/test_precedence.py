"""Whose turn it is: the more urgent first, nobody for ever last, in and between destinations."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any  # settings of a destination, a fixture of pytest-django

import pytest
from pytest_django import Settings

from router.models import (
    Bell,
    Destination,
    ItemState,
    JobItem,
    Lane,
    LaneSlot,
    LaneState,
    Priority,
    Series,
)
from router.services import claims, clock, delivery, precedence
from router.services.precedence import TURNS
from tests import deliveries, factories
from tests.sinks import Sink

URGENT, NORMAL, LOW = Priority.URGENT, Priority.NORMAL, Priority.LOW
LOW_TURN = TURNS.index(LOW)
SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.django_db


def _place(**settings: Any) -> Destination:
    usual = {"host": "127.0.0.1", "port": 1, "ae_title": "X", "retry": ["60s"]}
    return factories.destination(settings=usual | settings)


def _items(place: Destination, *priorities: Priority, **fields: Any) -> list[JobItem]:
    job = factories.job(destination=place)
    return [factories.item(job, priority=one, **fields) for one in priorities]


def _order(place: Destination, turn: int = 0, limit: int = 100) -> list[int]:
    due = JobItem.objects.filter(destination=place).due(clock.now())
    return [pk for pk, _lost, _size in precedence.next_due(due, turn, limit)]


# --- in a destination -----------------------------------------------------------------------------
def test_the_most_urgent_goes_first_and_of_these_the_oldest() -> None:
    place = _place()
    low, first, urgent, second = _items(place, LOW, NORMAL, URGENT, NORMAL)
    assert _order(place) == [urgent.pk, first.pk, second.pk, low.pk]


def test_one_of_eight_claims_is_for_what_is_low_and_one_for_what_is_normal() -> None:
    place = _place()
    items = _items(place, *[URGENT] * 3, NORMAL, LOW)
    firsts = [_order(place, turn, limit=2)[0] for turn in range(2 * len(TURNS))]
    assert firsts.count(items[4].pk) == firsts.count(items[3].pk) == 2
    assert _order(place, LOW_TURN) == [items[4].pk]


def test_a_turn_that_nothing_has_is_a_turn_of_all() -> None:
    place = _place()
    normal, urgent = _items(place, NORMAL, URGENT)
    assert _order(place, LOW_TURN) == [urgent.pk, normal.pk]


def test_a_low_item_leaves_though_urgent_ones_never_end() -> None:
    place = _place()
    slot = LaneSlot.objects.create(destination=place, number=0, owner="s")
    (low,) = _items(place, LOW)
    claimed = []
    for _ in TURNS:
        _items(place, URGENT, URGENT)  # as fast as they leave
        claim = claims.claim(place, slot, most=2)
        assert claim is not None
        claimed.append(low.pk in claim.items)
    assert claimed == [False] * LOW_TURN + [True]
    assert LaneSlot.objects.get().turn == len(TURNS)


def test_where_the_order_counts_a_series_takes_its_earlier_items_along() -> None:
    place = _place(ordered=True)
    urgent_series, other = factories.series(), factories.series()
    job = factories.job(urgent_series.study, destination=place)

    def add(series: Series, priority: Priority) -> int:
        instance = factories.instance(series)
        return factories.item(job, instance=instance, priority=priority).pk

    added = [add(other, NORMAL), add(urgent_series, LOW), add(urgent_series, URGENT)]
    due = JobItem.objects.filter(destination=place).due(clock.now())
    rows = precedence.whole_series(due, precedence.next_due(due, 0, 100))
    assert [pk for pk, _lost, _size in rows] == [added[1], added[2], added[0]]
    few = precedence.whole_series(due, precedence.next_due(due, 0, 1))
    assert [pk for pk, _lost, _size in few] == [added[1]]  # the urgent one never overtakes it


def test_a_claim_leaves_in_the_order_of_turns(settings: Settings, tmp_path: Path) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    with Sink() as sink:
        place = deliveries.node(sink.settings)
        first, last = deliveries.chosen(place, tmp_path, 2)
        JobItem.objects.filter(pk=last.pk).update(priority=URGENT)
        delivery.drain(place.pk, 0, stop=lambda: False)
        sent = [stored.sop_instance_uid for stored in sink.objects]
    assert sent == [last.instance.sop_instance_uid, first.instance.sop_instance_uid]


def _claim(place: Destination, *priorities: Priority) -> claims.Claim:
    """Return a claim under way."""
    slot = LaneSlot.objects.create(destination=place, number=0, owner="s")
    until = clock.now() + claims.LEASE
    _items(place, *priorities, state=ItemState.LEASED, owner="mine", lease_until=until)
    items = claims.held(JobItem.objects.filter(owner="mine"))
    return claims.Claim("mine", slot, place, items)


@pytest.mark.parametrize(
    ("held", "comes", "overtaken"),
    [
        ([LOW, NORMAL], URGENT, True),
        ([LOW], NORMAL, True),
        ([LOW, NORMAL], NORMAL, False),
        ([URGENT, LOW], URGENT, False),
    ],
)
def test_a_claim_under_way_ends_when_something_more_urgent_is_due(
    held: list[Priority], comes: Priority, overtaken: bool
) -> None:
    place = _place()
    claim = _claim(place, *held)
    _items(place, comes)
    claims.renew([claim], claim.slot)
    assert claim.is_overtaken is claim.gives_up is overtaken
    assert not claim.must_end()  # what is in flight goes on to its end


def test_what_was_answered_does_not_count_any_more() -> None:
    place = _place()
    claim = _claim(place, URGENT, LOW)
    _items(place, NORMAL)
    claim.answered.add(min(claim.items))
    claims.renew([claim], claim.slot)
    assert claim.is_overtaken


# --- between destinations -------------------------------------------------------------------------
@pytest.fixture
def busy(settings: Settings) -> Destination:
    """Return a destination that is served, and was lately, while one worker is left."""
    settings.WORKERS = 2
    place = _place()
    now = clock.now()
    LaneSlot.objects.create(
        destination=place, number=0, owner="s", lease_until=now + 30 * SECOND, served_at=now
    )
    return place


def _urgent_elsewhere(**lane: Any) -> Destination:
    other = _place()
    Lane.objects.filter(destination=other).update(**lane)
    _items(other, URGENT, created_at=clock.now() - 2 * SECOND)
    return other


def test_gives_way_to_what_is_more_urgent_and_served_by_nobody(
    busy: Destination, django_capture_on_commit_callbacks: Any
) -> None:
    _items(busy, NORMAL)
    other = _urgent_elsewhere()
    with django_capture_on_commit_callbacks(execute=True):
        assert precedence.must_give_way(busy, clock.now())
    assert Bell.objects.get(key=f"deliver:{other.pk}:0").rung


def test_gives_way_to_nobody_while_workers_are_free(busy: Destination, settings: Settings) -> None:
    settings.WORKERS = 4
    _items(busy, NORMAL)
    _urgent_elsewhere()
    assert not precedence.must_give_way(busy, clock.now())


@pytest.mark.parametrize("mine", [URGENT, None])
def test_what_is_urgent_itself_or_has_nothing_gives_way_to_nobody(
    busy: Destination, mine: Priority | None
) -> None:
    _items(busy, *[mine] if mine else [])
    _urgent_elsewhere()
    assert not precedence.must_give_way(busy, clock.now())


def _is_held(other: Destination) -> None:
    until = clock.now() + SECOND * 9
    LaneSlot.objects.create(destination=other, number=0, owner="x", lease_until=until)


def _was_looked_after(other: Destination) -> None:
    LaneSlot.objects.create(destination=other, number=0, taken_at=clock.now() - SECOND)


def _is_paced(other: Destination) -> None:
    Lane.objects.filter(destination=other).update(paced_until=clock.now() + SECOND)


def _is_paused(other: Destination) -> None:
    Lane.objects.filter(destination=other).update(state=LaneState.PAUSED)


def _is_disabled(other: Destination) -> None:
    Destination.objects.filter(pk=other.pk).update(enabled=False)


def _is_fresh(other: Destination) -> None:
    JobItem.objects.filter(destination=other).update(created_at=clock.now())


@pytest.mark.parametrize(
    "change", [_is_held, _was_looked_after, _is_paced, _is_paused, _is_disabled, _is_fresh]
)
def test_gives_way_to_none_that_a_worker_would_not_help(
    busy: Destination, change: Callable[[Destination], None]
) -> None:
    _items(busy, LOW)
    change(_urgent_elsewhere())
    assert not precedence.must_give_way(busy, clock.now())


def test_a_destination_without_service_for_a_minute_gives_way_no_more(busy: Destination) -> None:
    assert precedence.has_patience(busy, clock.now())
    with clock.shifted(precedence.PATIENCE + SECOND):
        assert not precedence.has_patience(busy, clock.now())
    assert not precedence.has_patience(_place(), clock.now())  # never served


def test_a_drain_makes_room_and_asks_to_go_on_later(
    settings: Settings, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    settings.WORKERS = 2
    with Sink() as sink:
        place = deliveries.node(sink.settings)
        deliveries.chosen(place, tmp_path, 3, priority=LOW)
        _urgent_elsewhere()
        LaneSlot.objects.create(destination=place, number=0, served_at=clock.now())
        with django_capture_on_commit_callbacks(execute=True):
            assert delivery.drain(place.pk, 0, stop=lambda: False) == 0
        assert Bell.objects.get(key=f"deliver:{place.pk}:0").rung
        with clock.shifted(precedence.PATIENCE + SECOND):
            assert delivery.drain(place.pk, 0, stop=lambda: False) == 3
        assert LaneSlot.objects.get(destination=place).served_at is not None
