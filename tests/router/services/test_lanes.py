"""Lanes: whether they run, how wide, and what failure and success do to them."""

from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from router.destinations.base import Lane as Trouble
from router.destinations.base import Result
from router.destinations.outcomes import Outcome
from router.models import AuditEvent, Destination, ItemState, JobItem, Lane, LaneState
from router.services import clock, jobs, lanes
from router.services.actors import SYSTEM
from tests import factories

MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.django_db


def _destination(**lane: object) -> Destination:
    usual = {"host": "127.0.0.1", "port": 1, "ae_title": "X", "associations": 3}
    return factories.destination(settings=usual | {"retry": ["60s", "10m"]}, lane=lane)


def _failed(trouble: Trouble) -> list[Result]:
    return [Result(1, Outcome.NOT_SENT, "No answer.", lane=trouble)]


@pytest.mark.parametrize(("tries", "pause"), [(0, 30), (1, 30), (2, 60), (3, 300), (99, 300)])
def test_the_last_pause_lasts_for_ever_and_jitters_by_a_tenth(tries: int, pause: int) -> None:
    seen = {lanes.retry_delay(tries, [30, 60, 300]).total_seconds() for _ in range(50)}
    assert min(seen) >= pause * 0.9
    assert max(seen) <= pause * 1.1
    assert len(seen) > 10


@pytest.mark.parametrize(("workers", "wanted", "slots"), [(8, 3, 3), (4, 3, 2), (2, 3, 1)])
def test_a_lane_is_as_wide_as_its_limit_and_half_of_the_workers(
    workers: int, wanted: int, slots: int, settings: Settings
) -> None:
    settings.WORKERS = workers
    row = _destination()
    assert row.version is not None
    assert row.version.settings["associations"] == wanted
    assert lanes.slots(row) == slots


@pytest.mark.parametrize(
    ("state", "resumes", "runs"),
    [
        (LaneState.OPEN, None, True),
        (LaneState.BACKOFF, -MINUTE, True),
        (LaneState.BACKOFF, MINUTE, False),
        (LaneState.STOPPED, None, False),
        (LaneState.STOPPED, -MINUTE, False),
        (LaneState.PAUSED, -MINUTE, False),
    ],
)
def test_may_run(state: LaneState, resumes: timedelta | None, runs: bool) -> None:
    resume_at = None if resumes is None else clock.now() + resumes
    assert lanes.may_run(_destination(state=state, resume_at=resume_at)) is runs


def test_backs_off_longer_with_each_failure() -> None:
    row = _destination()
    pauses = []
    for _ in range(2):
        row.refresh_from_db()
        began = clock.now()
        lanes.update(row, _failed("transport"), delivered=False)
        lane = Lane.objects.get()
        assert lane.state == LaneState.BACKOFF
        assert lane.resume_at is not None
        pauses.append((lane.resume_at - began) > 5 * MINUTE)
        row = Destination.objects.get()
    assert pauses == [False, True]
    assert Lane.objects.get().failures == 2


@pytest.mark.parametrize("trouble", ["transport", "configuration"])
@pytest.mark.parametrize("state", [LaneState.PAUSED, LaneState.STOPPED])
def test_a_failure_leaves_what_waits_for_a_person(state: LaneState, trouble: Trouble) -> None:
    row = _destination(state=state, reason="by hand")
    lanes.update(row, _failed(trouble), delivered=False)
    lane = Lane.objects.get()
    assert (lane.state, lane.reason) == (state, "by hand")


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (LaneState.OPEN, LaneState.OPEN),
        (LaneState.BACKOFF, LaneState.OPEN),
        (LaneState.PAUSED, LaneState.PAUSED),
        (LaneState.STOPPED, LaneState.STOPPED),
    ],
)
def test_a_success_opens_only_what_backed_off(state: LaneState, after: LaneState) -> None:
    row = _destination(state=state, failures=3)
    lanes.update(row, [], delivered=True)
    lane = Lane.objects.get()
    assert lane.state == after
    assert (lane.last_success_at is not None, lane.verified_endpoint) == (True, row.endpoint)


def test_an_answer_that_refuses_an_object_opens_what_backed_off() -> None:
    row = _destination(state=LaneState.BACKOFF, failures=3)
    later = clock.now() + 60 * MINUTE
    factories.item(factories.job(destination=row), state=ItemState.WAITING, due_at=later)
    refused = Result(1, Outcome.DATA_ERROR, "It does not match.", status=0xA900)
    lanes.update(row, [refused], delivered=False)
    lane = Lane.objects.get()
    assert (lane.state, lane.failures, lane.verified_endpoint) == (LaneState.OPEN, 0, 0)
    assert lane.last_success_at is None
    assert JobItem.objects.due(clock.now()).count() == 1


@pytest.mark.parametrize(
    ("failures", "number", "admitted"), [(0, 0, True), (0, 2, True), (3, 0, True), (3, 1, False)]
)
def test_only_the_first_slot_probes(failures: int, number: int, admitted: bool) -> None:
    past = clock.now() - MINUTE
    row = _destination(state=LaneState.BACKOFF, failures=failures, resume_at=past)
    assert lanes.admits(row, number) is admitted


def test_the_first_success_wakes_what_waits_for_this_destination_only() -> None:
    row, other = _destination(state=LaneState.BACKOFF, failures=1), _destination()
    later = clock.now() + 60 * MINUTE
    mine, theirs = (
        factories.item(factories.job(destination=one), state=ItemState.WAITING, due_at=later)
        for one in (row, other)
    )
    lanes.update(row, [], delivered=True)
    due = JobItem.objects.due(clock.now())
    assert [item.pk for item in due] == [mine.pk]
    theirs.refresh_from_db()
    assert theirs.due_at == later


@pytest.mark.parametrize(
    ("tries", "status", "wakes"), [(2, None, True), (3, None, False), (9, 0xA700, True)]
)
def test_what_was_cut_off_again_and_again_is_left_to_its_pause(
    tries: int, status: int | None, wakes: bool
) -> None:
    """It would close the lane once more for all others; what was refused by a full one would not"""
    row = _destination(state=LaneState.BACKOFF, failures=1)
    later = clock.now() + 60 * MINUTE
    job = factories.job(destination=row)
    factories.item(job, state=ItemState.WAITING, due_at=later, tries=tries, status=status)
    lanes.update(row, [], delivered=True)
    assert JobItem.objects.due(clock.now()).exists() is wakes


def test_a_success_of_an_open_lane_leaves_each_item_its_own_pause() -> None:
    row = _destination()
    later = clock.now() + 60 * MINUTE
    factories.item(factories.job(destination=row), state=ItemState.WAITING, due_at=later)
    lanes.update(row, [], delivered=True)
    assert not JobItem.objects.due(clock.now()).exists()


def test_due_destinations_have_due_items_and_a_lane_that_runs() -> None:
    past = clock.now() - MINUTE
    rows = {
        "due": _destination(),
        "idle": _destination(),
        "probe": _destination(state=LaneState.BACKOFF, resume_at=past),
        "paused": _destination(state=LaneState.PAUSED),
        "stopped": _destination(state=LaneState.STOPPED),
        "disabled": _destination(),
        "removed": _destination(),
        "later": _destination(),
    }
    Destination.objects.filter(pk=rows["disabled"].pk).update(enabled=False)
    Destination.objects.filter(pk=rows["removed"].pk).update(removed=True)
    for name, row in rows.items():
        if name == "later":
            state, due_at = ItemState.WAITING, clock.now() + MINUTE
        else:
            state, due_at = ItemState.DELIVERED if name == "idle" else ItemState.PENDING, None
        factories.item(factories.job(destination=row), state=state, due_at=due_at)
    assert set(lanes.due_destinations()) == {rows["due"].pk, rows["probe"].pk}


def _open_items(row: Destination, *states: ItemState) -> list[JobItem]:
    job = factories.job(destination=row)
    return [factories.item(job, state=state, due_at=clock.now()) for state in states]


def test_a_lane_that_is_drained_finishes_what_is_open_and_takes_nothing_new() -> None:
    row = _destination()
    before = _open_items(row, ItemState.PENDING, ItemState.WAITING)
    assert jobs.drain_lane(row, actor=SYSTEM)
    assert not jobs.drain_lane(row, actor=SYSTEM)
    _open_items(row, ItemState.PENDING)
    fresh = Destination.objects.get(pk=row.pk)
    assert set(lanes.due(fresh, clock.now())) == set(before)
    assert lanes.end_drains() == 0
    JobItem.objects.filter(pk__in=[one.pk for one in before]).update(state=ItemState.DELIVERED)
    assert list(lanes.due_destinations()) == []
    assert lanes.end_drains() == 1
    lane = Lane.objects.get()
    assert (lane.state, lane.drain_to, lane.reason) == (LaneState.PAUSED, None, lanes.DRAINED)
    assert lane.ill_since is not None
    assert jobs.resume_lane(row, actor=SYSTEM)
    assert list(lanes.due_destinations()) == [row.pk]
    assert Lane.objects.get().ill_since is None
    events = AuditEvent.objects.order_by("pk").values_list("event", flat=True)
    assert list(events) == ["lane.drained", "lane.resumed"]


def test_an_item_that_is_being_sent_keeps_a_drain_open_and_a_parked_one_does_not() -> None:
    row = _destination()
    leased, _parked = _open_items(row, ItemState.LEASED, ItemState.PARKED)
    jobs.drain_lane(row, actor=SYSTEM)
    assert lanes.end_drains() == 0
    JobItem.objects.filter(pk=leased.pk).update(state=ItemState.DELIVERED)
    assert lanes.end_drains() == 1


def test_a_drain_outlives_a_failure_and_ends_when_it_is_resumed() -> None:
    row = _destination()
    _open_items(row, ItemState.PENDING)
    jobs.drain_lane(row, actor=SYSTEM)
    began = Lane.objects.get().ill_since
    lanes.update(row, _failed("transport"), delivered=False)
    lanes.update(row, [], delivered=True)
    lane = Lane.objects.get()
    assert (lane.state, lane.ill_since) == (LaneState.OPEN, began)
    assert lane.drain_to is not None
    assert jobs.resume_lane(row, actor=SYSTEM)
    assert Lane.objects.get().drain_to is None


@pytest.mark.parametrize("state", [LaneState.PAUSED, LaneState.STOPPED])
def test_a_lane_that_stands_is_not_drained(state: LaneState) -> None:
    assert not jobs.drain_lane(_destination(state=state), actor=SYSTEM)


def test_a_lane_is_ill_from_its_first_failure_until_it_is_well() -> None:
    row = _destination()
    lanes.update(row, _failed("transport"), delivered=False)
    since = Lane.objects.get().ill_since
    assert since is not None
    with clock.shifted(MINUTE):
        lanes.update(row, _failed("transport"), delivered=False)
        jobs.pause_lane(row, actor=SYSTEM)
    assert Lane.objects.get().ill_since == since
    jobs.resume_lane(row, actor=SYSTEM)
    assert Lane.objects.get().ill_since is None
