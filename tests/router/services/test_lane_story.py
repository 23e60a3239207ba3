"""The story of a destination: ages of its backlog, its hours, its last answers, its versions."""

from datetime import timedelta

import pytest
from django.test import Client

from router.models import (
    AttemptOutcome,
    CounterKind,
    Destination,
    DestinationVersion,
    ItemState,
    Job,
    JobItem,
)
from router.services import clock, lane_story, users
from tests import factories
from tests.deliveries import cleaned

pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> Destination:
    users.ensure_roles()
    peer: dict[str, object] = {"host": "10.0.0.9", "port": 104, "ae_title": "PACS"}
    return factories.destination("pacs", settings=cleaned(peer))


def _item(job: Job, *, minutes: int, state: ItemState = ItemState.WAITING) -> JobItem:
    item = factories.item(job, instance=factories.instance(), state=state)
    since = clock.now() - timedelta(minutes=minutes)
    JobItem.objects.filter(pk=item.pk).update(created_at=since)
    return item


def test_says_how_old_the_backlog_is(pacs: Destination) -> None:
    job = factories.job(destination=pacs)
    for minutes in (1, 20, 70, 80, 3000):
        _item(job, minutes=minutes)
    _item(job, minutes=30, state=ItemState.HELD)
    _item(job, minutes=30, state=ItemState.DELIVERED)
    _item(factories.job(), minutes=5)

    ages = lane_story.read(factories.user(), pacs).ages

    assert [(age.waiting, age.held) for age in ages] == [(1, 0), (1, 1), (2, 0), (1, 0)]


def test_counts_what_was_delivered_by_hour(pacs: Destination) -> None:
    hour = clock.now().replace(minute=0, second=0, microsecond=0)
    for back, count in ((0, 5), (23, 7), (24, 100)):
        factories.hour_count(
            CounterKind.DELIVERED,
            hour=hour - timedelta(hours=back),
            destination="pacs",
            objects_count=count,
        )
    story = lane_story.read(factories.user(), pacs)
    assert (story.hours[0], story.hours[-1], story.delivered) == (7, 5, 12)


def test_shows_the_last_answers_of_this_destination(pacs: Destination) -> None:
    job = factories.job(destination=pacs)
    item = _item(job, minutes=1)
    now = clock.now()
    refused = {"outcome": AttemptOutcome.REFUSED, "status": 0xA700, "detail": "It is full."}
    factories.attempt(item, ended_at=now - timedelta(minutes=2), **refused)
    factories.attempt(item, ended_at=now)
    factories.attempt(item, outcome=AttemptOutcome.RUNNING, ended_at=None)
    factories.attempt(factories.item())

    answers = lane_story.read(factories.user(), pacs).answers

    assert [(one.outcome, one.status, one.job) for one in answers] == [
        ("success", 0, job.pk),
        ("refused", 0xA700, job.pk),
    ]


def test_keeps_within_the_limit_of_the_reader(pacs: Destination) -> None:
    item = _item(factories.job(destination=pacs), minutes=1)
    factories.attempt(item)
    story = lane_story.read(factories.user(limit={"sources": ["elsewhere"]}), pacs)
    assert story.answers == ()
    assert [age.waiting for age in story.ages] == [0, 0, 0, 0]


def test_the_page_shows_versions_with_what_changed_and_no_secret(
    client: Client, pacs: Destination
) -> None:
    assert pacs.version is not None
    settings = {**pacs.version.settings, "port": 11112, "password": "not to be shown"}
    newer = DestinationVersion.objects.create(
        destination=pacs,
        number=pacs.version.number + 1,
        endpoint=2,
        settings=settings,
        created_at=clock.now(),
    )
    pacs.version = newer
    pacs.save(update_fields=["version"])
    client.force_login(factories.user())

    page = client.get("/destinations/pacs/").content.decode()

    assert "<code>port</code>: 104 → <strong>11112</strong>" in page
    assert "not to be shown" not in page
    assert "the first" in page
