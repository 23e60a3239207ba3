"""Statistics by day, modality, source and destination are the counts, and within one's limit."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from router.models import CounterKind, ItemState, JobItem, User
from router.services import clock, statistics
from router.services.statistics import Wanted
from tests import factories

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOON)


@pytest.fixture
def counted(noon: None) -> None:
    """Counts of three days: hours of today, yesterday's edges, and the day before the period."""
    today = NOON.replace(hour=0, minute=0)
    for hour, modality, source, number in (
        (today, "CT", "ct-1", 5),
        (today + timedelta(hours=11), "MR", "mr-1", 3),
        (today - timedelta(hours=1), "CT", "ct-2", 7),
        (today - timedelta(days=7), "CT", "ct-1", 100),
    ):
        fields: dict[str, Any] = {
            "hour": hour,
            "modality": modality,
            "objects_count": number,
            "bytes": number * 10,
        }
        factories.hour_count(source=source, **fields)
        factories.hour_count(CounterKind.DELIVERED, source=source, destination="pacs", **fields)
    factories.hour_count(
        CounterKind.DELIVERED, hour=today, destination="disk", objects_count=2, bytes=20
    )
    factories.hour_count(CounterKind.REFUSED, hour=today, objects_count=9)


def _operator(**limit: list[str]) -> User:
    return factories.user(role="operator", limit=limit)


def _sums(wanted: Wanted, **limit: list[str]) -> tuple[int, int]:
    total = statistics.read(_operator(**limit), wanted).total
    return total.received, total.delivered


@pytest.mark.parametrize(
    ("wanted", "sums"),
    [
        (Wanted(days=1), (8, 10)),
        (Wanted(days=7), (15, 17)),
        (Wanted(days=30), (115, 117)),
        (Wanted(days=7, modality="CT"), (12, 14)),
        (Wanted(days=7, source="ct-2"), (7, 7)),
        (Wanted(days=7, destination="disk"), (15, 2)),
    ],
)
def test_sums_what_is_asked_for(counted: None, wanted: Wanted, sums: tuple[int, int]) -> None:
    assert _sums(wanted) == sums


def test_bars_are_days_and_today_hours(counted: None) -> None:
    week = statistics.read(_operator(), Wanted(days=7)).bars
    assert [bar.total.received for bar in week] == [0, 0, 0, 0, 0, 7, 8]
    hours = statistics.read(_operator(), Wanted(days=1)).bars
    assert {bar.start.hour: bar.total.received for bar in hours if bar.total.received} == {
        0: 5,
        11: 3,
    }
    assert len(hours) == 24


def test_says_what_was_sent_where_by_modality(counted: None) -> None:
    found = statistics.read(_operator(), Wanted(days=7))
    assert {one.label: dict(one.sent) for one in found.by_modality} == {
        "CT": {"disk": 2, "pacs": 12},
        "MR": {"disk": 0, "pacs": 3},
    }
    assert {one.label: one.total.received for one in found.by_source} == {
        "ct-1": 5,
        "ct-2": 7,
        "mr-1": 3,
    }
    assert {one.label: one.total.delivered_bytes for one in found.by_destination} == {
        "disk": 20,
        "pacs": 150,
    }


def test_keeps_within_the_limit_of_the_reader(counted: None) -> None:
    assert _sums(Wanted(days=7), modalities=["MR"]) == (3, 3)
    assert _sums(Wanted(days=7), sources=["ct-2"]) == (7, 7)
    assert _sums(Wanted(days=7), institutions=["General"]) == (0, 0)


def _sent(*states: ItemState) -> None:
    job = factories.job(factories.study(), created_at=NOON)
    for state in states:
        factories.item(job, instance=factories.instance(), state=state)


@pytest.mark.parametrize(
    ("states", "is_sent"),
    [
        ((ItemState.DELIVERED, ItemState.DELIVERED_WITH_WARNING), True),
        ((ItemState.DELIVERED, ItemState.CANCELLED), True),
        ((ItemState.DELIVERED, ItemState.PENDING), False),
        ((ItemState.DELIVERED, ItemState.PARKED), False),
        ((ItemState.DELIVERED, ItemState.HELD), False),
        ((ItemState.CANCELLED,), False),
    ],
)
def test_a_study_is_sent_when_nothing_of_it_is_open(
    states: tuple[ItemState, ...], *, is_sent: bool
) -> None:
    _sent(*states)
    found = statistics.read(_operator(), Wanted(days=1))
    assert found.total.studies_sent == int(is_sent)
    assert [one.total.studies_sent for one in found.by_destination] == [1] * is_sent


def test_counts_studies_where_they_began() -> None:
    factories.series(factories.study(source="mr-1"), modality="MR")
    old = factories.study(first_received_at=NOON - timedelta(days=3))
    factories.series(old, modality="CT")

    assert statistics.read(_operator(), Wanted(days=1)).total.studies == 1
    assert [b.total.studies for b in statistics.read(_operator(), Wanted()).bars][3] == 1
    assert statistics.read(_operator(), Wanted(modality="CT")).total.studies == 1
    assert statistics.read(_operator(sources=["mr-1"]), Wanted()).total.studies == 1


def test_exports_exactly_what_is_filtered(counted: None, client: Client) -> None:
    client.force_login(_operator())
    factories.destination("disk")
    address = f"{reverse('statistics')}?period=7&modality=CT&destination=disk&format=csv"
    text = b"".join(client.get(address)).decode().splitlines()
    assert text == [
        "From,Counted,Modality,Source,Destination,Objects,Bytes",
        "2026-11-19T00:00+00:00,Received,CT,ct-2,,7,70",
        "2026-11-20T00:00+00:00,Delivered,CT,ct-1,disk,2,20",
        "2026-11-20T00:00+00:00,Received,CT,ct-1,,5,50",
    ]


def test_an_unreadable_filter_shows_the_usual_week(counted: None, client: Client) -> None:
    client.force_login(_operator())
    page = client.get(reverse("statistics"), {"period": "9999", "modality": "'; DROP"})
    assert page.status_code == 200
    assert page.context["wanted"] == Wanted()
    assert JobItem.objects.count() == 0
