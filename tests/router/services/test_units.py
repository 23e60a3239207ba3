"""Events: what goes together, and that it stays together however often it is tried."""

import base64
from pathlib import Path

import pytest
from pytest_django import Settings

from router import storage
from router.destinations import KINDS
from router.models import Attempt, Destination, ItemState, JobItem, Lane, LaneState
from router.services import claims, clock, delivery, jobs, reckoning, slots
from router.services.actors import SYSTEM
from tests import deliveries, factories
from tests.origins import Reply, Request, Server

S = ItemState
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def objects(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> storage.FileStorage:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + base64.b64encode(bytes(32)).decode())
    return deliveries.fresh_storage(settings, tmp_path)


class Receiver(Server):
    """Answers each event as told, at last with 204; knows no signatures."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__(self._take)
        self._replies = list(replies)

    def _take(self, request: Request) -> Reply:
        if b'"ping"' in request.body:
            return Reply(204)
        return self._replies.pop(0) if self._replies else Reply(204)

    def events(self) -> list[tuple[str, bytes]]:
        told = [one for one in self.requests if b'"ping"' not in one.body]
        return [(one.headers["webhook-id"], one.body) for one in told]


def hook(url: str) -> Destination:
    given = {"url": url, "secret_env": "HOOK_SECRET", "payload": {"n": "{instances}"}}
    form = KINDS["webhook"].form(given)
    assert form.is_valid(), form.errors
    return factories.destination(kind="webhook", settings=form.cleaned_data)


def drain(destination: Destination) -> int:
    return delivery.drain(destination.pk, 0, stop=lambda: False)


def states(items: list[JobItem]) -> set[str]:
    ids = [item.pk for item in items]
    return set(JobItem.objects.filter(pk__in=ids).values_list("state", flat=True))


def test_all_that_is_due_of_a_job_goes_as_one_event(tmp_path: Path) -> None:
    with Receiver() as receiver:
        ris = hook(receiver.url)
        items = deliveries.chosen(ris, tmp_path, claims.CLAIM + 20)
        others = deliveries.chosen(ris, tmp_path, 3)
        assert drain(ris) == claims.CLAIM + 23
    assert [body for _id, body in receiver.events()] == [b'{"n":120}', b'{"n":3}']
    assert states(items + others) == {S.DELIVERED}
    assert reckoning.reckon(deep=True).gaps == []


def test_what_was_tried_together_stays_together(tmp_path: Path) -> None:
    """Refused with a number of its own pause each; an object that comes meanwhile is no part."""
    with Receiver(Reply(500)) as receiver:
        ris = hook(receiver.url)
        items = deliveries.chosen(ris, tmp_path, 4)
        assert drain(ris) == 4
        assert states(items) == {S.WAITING}
        late = deliveries.stored(items[0].instance.series, tmp_path)
        item = factories.item(items[0].job, instance=late)
        JobItem.objects.filter(pk=items[2].pk).update(due_at=clock.now())
        assert drain(ris) == 5
    (first, again, other) = receiver.events()
    assert first == again
    assert other[0] != first[0]
    assert other[1] == b'{"n":1}'
    assert states([*items, item]) == {S.DELIVERED}


def test_a_probe_after_a_failure_is_the_whole_event(tmp_path: Path) -> None:
    with Receiver(Reply(503)) as receiver:
        ris = hook(receiver.url)
        items = deliveries.chosen(ris, tmp_path, 4)
        drain(ris)
        assert Lane.objects.get(destination=ris).state == LaneState.BACKOFF
        jobs.resume_lane(ris, actor=SYSTEM)
        Lane.objects.filter(destination=ris).update(failures=1)
        jobs.retry(JobItem.objects.all(), actor=SYSTEM)
        assert drain(ris) == 4
    first, again = receiver.events()
    assert first == again
    assert states(items) == {S.DELIVERED}


def test_a_lost_worker_changes_no_event(tmp_path: Path) -> None:
    with Receiver() as receiver:
        ris = hook(receiver.url)
        items = deliveries.chosen(ris, tmp_path, 3)
        slot = slots.take(ris, 0)
        assert slot is not None
        claim = claims.claim(ris, slot)
        assert claim is not None
        assert claim.unit
        JobItem.objects.all().abandon("", now=clock.now())
        assert delivery.recover_lost() == 3
        again = claims.claim(ris, slot)
        assert again is not None
        assert again.unit == claim.unit
        assert again.items.keys() == claim.items.keys()
        assert Attempt.objects.count() == 6
    assert states(items) == {S.LEASED}


def test_the_pause_that_a_receiver_asks_for_is_kept(tmp_path: Path) -> None:
    with Receiver(Reply(429, headers={"Retry-After": "1800"})) as receiver:
        ris = hook(receiver.url)
        deliveries.chosen(ris, tmp_path, 1)
        drain(ris)
    lane = Lane.objects.get(destination=ris)
    assert lane.resume_at is not None
    assert (lane.resume_at - clock.now()).total_seconds() > 1700
