"""Policies of a destination: rate, order, windows, the alarm of age; whoever sends."""

from datetime import timedelta
from pathlib import Path
from typing import Any  # settings of a destination

import pytest
from pytest_django import Settings

from router.destinations.windows import DAYS
from router.models import Destination, DestinationVersion, JobItem, Lane, LaneSlot
from router.services import claims, clock, delivery, lanes, metrics, overview, pacing
from tests import deliveries, factories
from tests.sinks import Script, Sink

pytestmark = pytest.mark.django_db


def _paced(**limits: Any) -> Destination:
    usual = {"host": "127.0.0.1", "port": 1, "ae_title": "X", "retry": ["60s"]}
    return factories.destination(settings=usual | limits)


@pytest.mark.parametrize(
    ("limits", "sizes", "fits"),
    [
        ({}, [10**12] * 100, 100),
        ({"objects_per_second": 20}, [1] * 100, 20),
        ({"objects_per_second": 0.1}, [1] * 100, 1),
        ({"bytes_per_second": 1000}, [400] * 100, 2),
        ({"bytes_per_second": 1000}, [5000, 1], 1),
        ({"objects_per_second": 50, "bytes_per_second": 1000}, [100] * 100, 10),
        ({"objects_per_second": 5}, [], 0),
    ],
)
def test_a_grant_is_for_a_second_and_for_one_object_at_least(
    limits: dict[str, Any], sizes: list[int], fits: int
) -> None:
    assert pacing.fitting(_paced(**limits), sizes) == fits


def test_a_grant_costs_the_time_that_it_takes_for_all_who_ask() -> None:
    row = _paced(objects_per_second=10, bytes_per_second=1000)
    now = clock.now()
    assert pacing.grant(row, [500, 1500], now=now)
    assert not pacing.grant(row, [1], now=now + timedelta(seconds=1.9))
    assert 1.0 < pacing.left(row) <= 2.0
    assert pacing.grant(row, [1] * 5, now=now + timedelta(seconds=2))
    until = Lane.objects.get(destination=row).paced_until
    assert until == now + timedelta(seconds=2.5)


def test_limits_that_are_others_by_now_grant_nothing() -> None:
    """A claim that was begun before an edit must not close the lane again by the old rate."""
    row = _paced(bytes_per_second=1024)
    newer = DestinationVersion.objects.create(
        destination=row, number=2, endpoint=1, settings={}, created_at=clock.now()
    )
    Destination.objects.filter(pk=row.pk).update(version=newer)
    assert not pacing.grant(row, [1 << 40], now=clock.now())
    assert Lane.objects.get(destination=row).paced_until is None


def test_without_a_limit_nothing_is_written_and_nobody_waits() -> None:
    row = _paced()
    assert pacing.grant(row, [10**9] * 100, now=clock.now())
    assert Lane.objects.get(destination=row).paced_until is None
    assert pacing.left(row) == 0.0


def test_claims_of_all_slots_together_keep_to_the_rate(settings: Settings, tmp_path: Path) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    row = _paced(objects_per_second=4, associations=3)
    deliveries.chosen(row, tmp_path, 30)
    slots = [LaneSlot.objects.create(destination=row, number=n, owner=f"s{n}") for n in range(3)]
    taken: list[int] = []
    began = clock.now()
    for quarter in range(19):  # of a second; the first grant is at once
        with clock.shifted(timedelta(seconds=quarter / 4)):
            found = [claims.claim(row, slot) for slot in slots]
            taken += [len(claim.items) for claim in found if claim is not None]
    assert set(taken) == {4}
    seconds = 4.5 + (clock.now() - began).total_seconds()
    assert 20 <= sum(taken) <= 4 * (1 + int(seconds))


def test_a_drain_waits_for_its_turn_and_delivers_all(settings: Settings, tmp_path: Path) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    with Sink() as sink:
        row = deliveries.node(sink.settings, objects_per_second=20)
        deliveries.chosen(row, tmp_path, 45)
        assert delivery.drain(row.pk, 0, stop=lambda: False) == 45
        assert sink.associations - sink.echoes == 3  # of 20, 20 and 5 objects


def test_in_order_a_series_waits_for_what_is_tried_again(
    settings: Settings, tmp_path: Path
) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    with Sink(Script(statuses={2: 0xA700})) as sink:
        row = deliveries.node(sink.settings, ordered=True, associations=4)
        assert lanes.slots(row) == 1
        first, other = (deliveries.chosen(row, tmp_path, n) for n in (4, 2))
        delivery.drain(row.pk, 0, stop=lambda: False)
        sent = [stored.sop_instance_uid for stored in sink.objects]
        assert sent == _uids([*first[:2], *other])  # the second of the first was refused
        with clock.shifted(timedelta(minutes=5)):
            delivery.drain(row.pk, 0, stop=lambda: False)
        sent = [stored.sop_instance_uid for stored in sink.objects]
        assert sent == _uids([*first[:2], *other, *first[1:]])


def _uids(items: list[JobItem]) -> list[str]:
    return [item.instance.sop_instance_uid for item in items]


def test_outside_its_windows_nothing_is_due(settings: Settings, tmp_path: Path) -> None:
    now = clock.now()
    days = [DAYS[(now.weekday() + 3) % 7]]
    windows = [{"days": days, "from": "00:00", "to": "00:00", "zone": "UTC"}]
    row = _paced(windows=windows)
    factories.item(factories.job(destination=row))
    assert not lanes.may_run(row)
    assert list(lanes.due_destinations()) == []
    opens = lanes.opens_at(row)
    assert opens is not None
    assert timedelta(days=2) < opens - now <= timedelta(days=3)
    with clock.shifted(timedelta(days=3)):
        assert list(lanes.due_destinations()) == [row.pk]


def test_an_item_older_than_the_alarm_age_is_told_of(roles: None) -> None:
    row = _paced(alarm_age="2h")
    calm = _paced()
    for one in (row, calm):
        factories.item(factories.job(destination=one))
    user = factories.user()
    assert overview.attention(user) == []
    with clock.shifted(timedelta(hours=3)):
        (found,) = (one for one in overview.attention(user) if one.kind == "overdue")
        text = metrics.render().decode()
    assert (found.destination, found.count) == (row.name, 1)
    assert f'router_overdue{{destination="{row.name}"}} 1.0' in text
    assert f'router_overdue{{destination="{calm.name}"}} 0.0' in text
