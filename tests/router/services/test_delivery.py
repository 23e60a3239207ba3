"""Delivery over real associations: what leaves, what becomes of each item, and who may say so."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any  # Django's wrapper of statements

import pytest
from django.db import connection, connections
from pynetdicom import evt
from pytest_django import Settings

from router import storage
from router.destinations.outcomes import Outcome
from router.models import (
    Attempt,
    AttemptOutcome,
    Bell,
    CounterKind,
    Destination,
    DestinationVersion,
    HourCount,
    InstanceState,
    ItemState,
    JobItem,
    Lane,
    LaneSlot,
    LaneState,
)
from router.services import claims, clock, delivery, jobs, reckoning
from router.services.actors import SYSTEM
from tests import deliveries
from tests.ports import free_port
from tests.sinks import RawSink, Script, Sink

S = ItemState
A = AttemptOutcome
SECOND = timedelta(seconds=1)
LASTING = (1, 1, 7)  # A-ASSOCIATE-RJ: called AE title not recognised
TRANSIENT = (2, 3, 2)  # local limit exceeded

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def objects(settings: Settings, tmp_path: Path) -> storage.FileStorage:
    return deliveries.fresh_storage(settings, tmp_path)


def _drain(
    destination: Destination, slot: int = 0, *, stop: Callable[[], bool] = lambda: False
) -> int:
    return delivery.drain(destination.pk, slot, stop=stop)


def _after(count: int) -> Callable[[], bool]:
    """Return a stop that is false `count` times and true from then on."""
    answers = iter([False] * count)
    return lambda: next(answers, True)


def _states(items: list[JobItem]) -> list[str]:
    return [_again(item).state for item in items]


def _again(item: JobItem) -> JobItem:
    return JobItem.objects.get(pk=item.pk)


def _uids(items: list[JobItem]) -> list[str]:
    return [item.instance.sop_instance_uid for item in items]


def _attempts(item: JobItem) -> list[str]:
    return list(item.attempts.order_by("fence").values_list("outcome", flat=True))


def _lane(destination: Destination) -> Lane:
    return Lane.objects.get(destination=destination)


def _balance() -> list[tuple[str, str]]:
    return reckoning.reckon(deep=True).gaps


def _counted(kind: CounterKind) -> list[tuple[str, str, str, int, int]]:
    rows = HourCount.objects.filter(kind=kind).order_by("destination", "modality")
    return list(rows.values_list("modality", "source", "destination", "objects_count", "bytes"))


# --- a destination that is dead for long -----------------------------------------------------
def test_a_dead_destination_costs_one_connection_a_pause_and_drains_when_it_is_back(
    tmp_path: Path,
) -> None:
    with RawSink(lambda _connection: None) as dead:
        pacs = deliveries.node(dead.settings, ae_title="SINK", associations=3)
        items = deliveries.chosen(pacs, tmp_path, 110)
        _drain(pacs)
        first = dead.connections
        for probe in range(1, 5):
            resume = _lane(pacs).resume_at
            assert resume is not None
            with clock.shifted(resume - clock.now() + SECOND):
                for slot in (2, 1, 0, 2, 1, 0):
                    _drain(pacs, slot)
            assert (dead.connections - first, _lane(pacs).failures) == (probe, probe + 1)
        assert [_again(item).tries for item in items] == [0] * 110
    again = Sink()
    again.port = dead.port
    with again, clock.shifted(86_400 * SECOND):
        assert _drain(pacs) == 110
    assert len(again.hashes()) == 110
    assert _lane(pacs).state == LaneState.OPEN
    assert _balance() == []


class _Cutting(Sink):
    """A sink that cuts the connection at some objects, however often they come."""

    def __init__(self, at: Callable[[str], bool]) -> None:
        super().__init__()
        self._at = at

    def _on_store(self, event: evt.Event) -> int:
        if self._at(str(event.request.AffectedSOPInstanceUID)):
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return super()._on_store(event)


def test_a_peer_that_cuts_the_connection_at_every_object_is_paced(tmp_path: Path) -> None:
    with _Cutting(lambda _uid: True) as sink:
        pacs = deliveries.node(sink.settings)
        Lane.objects.filter(destination=pacs).update(verified_endpoint=pacs.endpoint)
        items = deliveries.chosen(pacs, tmp_path, 30)
        _drain(pacs)
        first = sink.associations
        assert first <= 3
        for probe in range(1, 4):
            resume = _lane(pacs).resume_at
            assert resume is not None
            with clock.shifted(resume - clock.now() + SECOND):
                _drain(pacs)
            assert (sink.associations - first, _lane(pacs).failures) == (probe, probe + 1)
    assert sum(_again(item).tries for item in items) == sink.associations


def test_an_object_that_a_peer_always_cuts_off_stops_no_other(tmp_path: Path) -> None:
    poison = ""
    with _Cutting(lambda uid: uid == poison) as sink:
        pacs = deliveries.node(sink.settings)
        first, *others = deliveries.chosen(pacs, tmp_path, 5)
        poison = first.instance.sop_instance_uid
        Lane.objects.filter(destination=pacs).update(
            state=LaneState.BACKOFF, failures=2, resume_at=clock.now()
        )
        JobItem.objects.filter(pk=first.pk).update(tries=2)
        _drain(pacs)  # the probe is another one
        assert _lane(pacs).state == LaneState.OPEN
    assert _states(others) == [S.DELIVERED] * 4
    assert (_states([first]), _attempts(first)) == ([S.WAITING], [A.UNKNOWN])


# --- what an answer means --------------------------------------------------------------------
def test_delivers_the_very_bytes_and_proves_it(tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 3)
        assert _drain(pacs) == 3
    assert sink.hashes() == {i.instance.sop_instance_uid: i.instance.sha256 for i in items}
    for item in map(_again, items):
        assert (item.state, item.proof, item.status) == (S.DELIVERED, "accepted", 0)
        assert item.egress_sha256 == item.instance.sha256
        assert (item.owner, item.lease_until, item.tries, item.fence) == ("", None, 0, 1)
        assert item.finished_at is not None
        attempt = item.attempts.get()
        assert (attempt.outcome, attempt.status, attempt.version) == (A.SUCCESS, 0, pacs.version)
        assert attempt.ended_at is not None
        assert attempt.bytes_sent >= item.size
    assert _balance() == []


def test_echoes_before_the_first_object_of_an_address_only(tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        for _ in range(2):
            deliveries.chosen(pacs, tmp_path)
            assert _drain(pacs) == 1
    assert sink.echoes == 1
    assert _lane(pacs).verified_endpoint == pacs.endpoint


@pytest.mark.parametrize(
    ("status", "state", "attempt"),
    [
        (0x0000, S.DELIVERED, A.SUCCESS),
        (0xB000, S.DELIVERED_WITH_WARNING, A.WARNING),
        (0xB006, S.DELIVERED_WITH_WARNING, A.WARNING),
        (0xB007, S.DELIVERED_WITH_WARNING, A.WARNING),
        (0xA700, S.WAITING, A.REFUSED),
        (0xA7FF, S.WAITING, A.REFUSED),
        (0x0110, S.WAITING, A.REFUSED),
        (0xA900, S.PARKED, A.REFUSED),
        (0x0117, S.PARKED, A.REFUSED),
        (0x0213, S.WAITING, A.REFUSED),
        (0x0107, S.DELIVERED_WITH_WARNING, A.WARNING),
        (0x0124, S.PARKED, A.REFUSED),
        (0xFFFF, S.WAITING, A.REFUSED),
        (0xC000, S.WAITING, A.REFUSED),
        (0xCFFF, S.WAITING, A.REFUSED),
        (0x0122, S.PARKED, A.REFUSED),
    ],
)
def test_an_answer_decides_by_the_outcome_table(
    status: int, state: ItemState, attempt: AttemptOutcome, tmp_path: Path
) -> None:
    with Sink(Script(statuses={1: status})) as sink:
        pacs = deliveries.node(sink.settings)
        first, second = deliveries.chosen(pacs, tmp_path, 2)
        assert _drain(pacs) == 2
    item = _again(first)
    assert (item.state, item.status, _attempts(item)) == (state, status, [attempt])
    assert item.tries == (0 if state in {S.DELIVERED, S.DELIVERED_WITH_WARNING} else 1)
    assert bool(item.reason) is (state != S.DELIVERED)
    assert (item.due_at is not None) is (state == S.WAITING)
    assert _again(second).state == S.DELIVERED  # one object's trouble is not the next one's
    assert _lane(pacs).state == LaneState.OPEN
    assert _balance() == []


def test_a_destination_may_judge_a_status_otherwise(tmp_path: Path) -> None:
    with Sink(Script(statuses={1: 0xB007})) as sink:
        pacs = deliveries.node(sink.settings, outcomes={"B007": Outcome.DATA_ERROR.value})
        (item,) = deliveries.chosen(pacs, tmp_path)
        _drain(pacs)
    assert _states([item]) == [S.PARKED]


def test_an_object_cut_before_its_answer_is_unknown_and_waits(tmp_path: Path) -> None:
    with Sink(Script(close_at=1)) as sink:
        pacs = deliveries.node(sink.settings)
        (item,) = deliveries.chosen(pacs, tmp_path)
        _drain(pacs)
    assert (_states([item]), _attempts(item)) == ([S.WAITING], [A.UNKNOWN])


def test_three_refusals_that_are_not_understood_park(tmp_path: Path) -> None:
    with Sink(Script(statuses=dict.fromkeys(range(1, 9), 0xC123))) as sink:
        pacs = deliveries.node(sink.settings, retry=["1s"])
        (item,) = deliveries.chosen(pacs, tmp_path)
        seen = []
        for hours in range(4):
            with clock.shifted(timedelta(hours=hours)):
                _drain(pacs)
            seen += _states([item])
    assert seen == [S.WAITING, S.WAITING, S.PARKED, S.PARKED]
    assert len(sink.objects) == 3
    assert _attempts(item) == [A.REFUSED] * 3
    assert _again(item).tries == 3


def test_only_what_is_missing_is_sent_again(tmp_path: Path) -> None:
    with Sink(Script(statuses={2: 0xA700})) as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 4)
        _drain(pacs)
        assert _states(items) == [S.DELIVERED, S.WAITING, S.DELIVERED, S.DELIVERED]
        with clock.shifted(timedelta(minutes=1)):
            assert _drain(pacs) == 1
    first, second, third, fourth = _uids(items)
    assert [o.sop_instance_uid for o in sink.objects] == [first, second, third, fourth, second]
    assert _states(items) == [S.DELIVERED] * 4
    assert _attempts(items[1]) == [A.REFUSED, A.SUCCESS]
    assert _balance() == []


def test_counts_delivered_and_parked_by_hour_modality_source_and_destination(
    tmp_path: Path,
) -> None:
    with Sink(Script(statuses={1: 0xA900})) as sink:
        pacs = deliveries.node(sink.settings)
        refused, taken = deliveries.chosen(pacs, tmp_path, 2, modality="MR", source="mr-2")
        (other,) = deliveries.chosen(pacs, tmp_path)
        _drain(pacs)
    assert _counted(CounterKind.PARKED) == [("MR", "mr-2", pacs.name, 1, refused.size)]
    assert _counted(CounterKind.DELIVERED) == [
        ("CT", "ct-1", pacs.name, 1, other.size),
        ("MR", "mr-2", pacs.name, 1, taken.size),
    ]


# --- a destination as a whole ----------------------------------------------------------------
def test_a_lasting_rejection_stops_the_lane_and_leaves_the_items(tmp_path: Path) -> None:
    with Sink(Script(reject=LASTING)) as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 3)
        _drain(pacs)
        _drain(pacs)
        assert sink.associations == 0
    lane = _lane(pacs)
    assert (lane.state, lane.resume_at) == (LaneState.STOPPED, None)
    assert "1/1/7" in lane.reason
    assert _states(items) == [S.PENDING] * 3
    assert [_again(item).tries for item in items] == [0] * 3
    assert [len(_attempts(item)) for item in items] == [1] * 3  # a stopped lane tries nothing
    with Sink() as healthy:
        _move(pacs, healthy.settings)
        assert jobs.resume_lane(pacs, actor=SYSTEM)
        assert _drain(pacs) == 3
    assert _states(items) == [S.DELIVERED] * 3
    assert _balance() == []


def _move(destination: Destination, peer: dict[str, object], *, endpoint: int = 1) -> None:
    """Apply settings that lead elsewhere; the same endpoint stands for a repaired far end."""
    number = destination.versions.count() + 1
    version = DestinationVersion.objects.create(
        destination=destination,
        number=number,
        endpoint=endpoint,
        settings=deliveries.cleaned(peer),
        created_at=clock.now(),
    )
    Destination.objects.filter(pk=destination.pk).update(version=version, endpoint=endpoint)
    destination.refresh_from_db()


def test_a_transient_rejection_only_backs_off(tmp_path: Path) -> None:
    with Sink(Script(reject=TRANSIENT)) as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 2)
        _drain(pacs)
    lane = _lane(pacs)
    assert (lane.state, lane.failures) == (LaneState.BACKOFF, 1)
    assert _states(items) == [S.PENDING] * 2
    assert [_again(item).tries for item in items] == [0] * 2
    assert _attempts(items[0]) == [A.NOT_SENT]


def test_a_destination_that_comes_up_again_gets_everything_in_order_of_age(
    tmp_path: Path,
) -> None:
    port = free_port()
    pacs = deliveries.node(
        {"host": "127.0.0.1", "port": port, "ae_title": "SINK"}, retry=["100s", "500s"]
    )
    items = deliveries.chosen(pacs, tmp_path, 4)
    began = clock.now()
    _drain(pacs)
    lane = _lane(pacs)
    assert (lane.state, lane.failures, _states(items)) == (LaneState.BACKOFF, 1, [S.PENDING] * 4)
    assert lane.resume_at is not None
    assert 89 * SECOND < lane.resume_at - began < 150 * SECOND
    sink = Sink()
    sink.port = port
    with clock.shifted(200 * SECOND):
        _drain(pacs)
        assert _lane(pacs).failures == 2
        assert [len(_attempts(item)) for item in items] == [2, 1, 1, 1]  # a probe sends one
    with sink:
        with clock.shifted(300 * SECOND):
            assert _drain(pacs) == 0  # not before its time
        with clock.shifted(1000 * SECOND):
            assert _drain(pacs) == 4
    assert [stored.sop_instance_uid for stored in sink.objects] == _uids(items)
    assert _states(items) == [S.DELIVERED] * 4
    lane = _lane(pacs)
    assert (lane.state, lane.failures, lane.resume_at) == (LaneState.OPEN, 0, None)
    assert _balance() == []


def test_one_destination_away_delays_no_other(tmp_path: Path) -> None:
    away = deliveries.node({"host": "127.0.0.1", "port": free_port(), "ae_title": "AWAY"})
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        late = deliveries.chosen(away, tmp_path, 2)
        items = deliveries.chosen(pacs, tmp_path, 2)
        _drain(away)
        assert _drain(pacs) == 2
    assert (_states(items), _states(late)) == ([S.DELIVERED] * 2, [S.PENDING] * 2)
    assert (_lane(pacs).state, _lane(away).state) == (LaneState.OPEN, LaneState.BACKOFF)


def test_older_items_leave_first_whatever_they_waited_for(tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        due = clock.now() - SECOND
        old = deliveries.chosen(pacs, tmp_path, 2, state=S.WAITING, due_at=due, tries=1)
        young = deliveries.chosen(pacs, tmp_path, 2)
        later = deliveries.chosen(pacs, tmp_path, 1, state=S.WAITING, due_at=due + 3600 * SECOND)
        _drain(pacs)
    # The first good answer wakes what waits for this destination.
    assert [o.sop_instance_uid for o in sink.objects][:4] == _uids(old + young)
    assert _states(old + young) == [S.DELIVERED] * 4
    assert _states(later) == [S.WAITING]


@pytest.mark.parametrize("how", ["disabled", "removed", "paused", "stopped"])
def test_a_destination_that_takes_no_work_gets_none(how: str, tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path)
        if how in {"disabled", "removed"}:
            change = {"enabled": False} if how == "disabled" else {"removed": True}
            Destination.objects.filter(pk=pacs.pk).update(**change)
        else:
            Lane.objects.filter(destination=pacs).update(state=how)
        assert _drain(pacs) == 0
    assert (sink.associations, _states(items)) == (0, [S.PENDING])


def test_a_changed_address_holds_until_released_and_then_gets_it(tmp_path: Path) -> None:
    with Sink() as old, Sink() as new:
        pacs = deliveries.node(old.settings)
        items = deliveries.chosen(pacs, tmp_path, 2)
        _move(pacs, new.settings, endpoint=2)
        _drain(pacs)
        assert _states(items) == [S.HELD] * 2
        assert all(pacs.name in _again(item).reason for item in items)
        assert (old.associations, new.associations) == (0, 0)
        _drain(pacs)
        assert jobs.release(JobItem.objects.filter(destination=pacs), actor=SYSTEM) == 2
        assert _drain(pacs) == 2
        assert (len(old.objects), len(new.objects), new.echoes) == (0, 2, 1)
    assert _states(items) == [S.DELIVERED] * 2
    assert _balance() == []


def test_an_address_that_changes_under_way_gets_no_more_than_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.0)
    with Sink(Script(delay=0.3)) as old:
        pacs = deliveries.node(old.settings)
        items = deliveries.chosen(pacs, tmp_path, 10)

        def stop() -> bool:
            if old.objects and threading.current_thread() is threading.main_thread():
                Destination.objects.filter(pk=pacs.pk).update(endpoint=2)
            return False

        _drain(pacs, stop=stop)
    states = _states(items)
    assert states == [S.DELIVERED] * len(old.objects) + [S.HELD] * (10 - len(old.objects))
    assert 0 < len(old.objects) < 8
    assert _balance() == []


# --- the stored bytes (R20) ------------------------------------------------------------------
@pytest.mark.parametrize("damage", ["missing", "changed", "shorter", "longer"])
def test_an_object_that_is_not_what_was_received_is_parked_unsent(
    damage: str, objects: storage.FileStorage, tmp_path: Path
) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        first, bad, last = deliveries.chosen(pacs, tmp_path, 3)
        _damage(objects.root / bad.instance.location, damage)
        _drain(pacs)
    arrived = [stored.sop_instance_uid for stored in sink.objects]
    assert arrived == _uids([first, last])
    assert _states([first, bad, last]) == [S.DELIVERED, S.PARKED, S.DELIVERED]
    assert _again(bad).reason
    assert _lane(pacs).state == LaneState.OPEN
    assert _counted(CounterKind.PARKED) == [("CT", "ct-1", pacs.name, 1, bad.size)]


def test_an_object_that_cannot_be_read_now_waits_and_stops_no_other(
    objects: storage.FileStorage, tmp_path: Path
) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        first, bad, last = deliveries.chosen(pacs, tmp_path, 3)
        path = objects.root / bad.instance.location
        path.unlink()
        path.symlink_to(path.name)  # opening and measuring it fail, and not because it is missing
        _drain(pacs)
        assert [stored.sop_instance_uid for stored in sink.objects] == _uids([first, last])
    assert _states([first, bad, last]) == [S.DELIVERED, S.WAITING, S.DELIVERED]
    assert "cannot be read" in _again(bad).reason
    assert _lane(pacs).state == LaneState.OPEN


def _damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        path.write_bytes({"changed": changed, "shorter": data[:-9], "longer": data + b"\0\0"}[how])


def test_an_object_that_is_not_current_any_more_is_parked_unsent(tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        (item,) = deliveries.chosen(pacs, tmp_path)
        item.instance.state = InstanceState.PURGED
        item.instance.save(update_fields=["state"])
        assert _drain(pacs) == 0
    assert (sink.associations, _states([item]), _attempts(item)) == (0, [S.PARKED], [])


# --- workers ---------------------------------------------------------------------------------
class _Died(BaseException):
    """A worker that ends without a word."""


def _dying(after: int) -> Callable[[], bool]:
    answers = iter([False] * after)

    def stop() -> bool:
        if next(answers, True):
            raise _Died
        return False

    return stop


def test_an_item_that_outlives_five_workers_is_parked_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        poison, *others = deliveries.chosen(pacs, tmp_path, 3)
        for number in range(5):
            with clock.shifted(number * 60 * SECOND):
                with pytest.raises(_Died):
                    _drain(pacs, stop=_dying(1))
                assert _states([poison]) == [S.LEASED]
                assert delivery.recover_lost() == 0  # its lease still runs
            with clock.shifted(number * 60 * SECOND + claims.LEASE + SECOND):
                assert delivery.recover_lost() == (3 if number == 0 else 1)
        assert _states([poison]) == [S.PARKED]
        assert _attempts(poison) == [A.WORKER_LOST] * 5
        assert "5 workers" in _again(poison).reason
        assert sink.objects == []
        with clock.shifted(600 * SECOND):
            assert _drain(pacs) == 2
    assert _states([poison, *others]) == [S.PARKED, S.DELIVERED, S.DELIVERED]
    assert _counted(CounterKind.PARKED) == [("CT", "ct-1", pacs.name, 1, poison.size)]
    assert _balance() == []


def test_a_stop_in_the_middle_gives_the_rest_back(tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 5)
        _drain(pacs, stop=_after(3))  # once before the claim, then before each object
        assert len(sink.objects) == 2
        assert _states(items) == [S.DELIVERED] * 2 + [S.PENDING] * 3
        assert [_again(item).tries for item in items] == [0] * 5
        assert _attempts(items[4]) == [A.NOT_SENT]
        assert not LaneSlot.objects.exclude(owner="").exists()
        assert _balance() == []
        assert _drain(pacs) == 3  # at once, without waiting for a lease to end
    assert [stored.sop_instance_uid for stored in sink.objects] == _uids(items)


def test_what_was_answered_before_the_drain_failed_is_written(tmp_path: Path) -> None:
    """It fails in the thread that holds the claim, while answers of the other wait to be read."""
    with Sink(Script(delay=0.3)) as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 8)

        def stop() -> bool:
            is_ours = threading.current_thread() is threading.main_thread()
            if is_ours and sink.objects and sink.wait_for(len(sink.objects) + 3):
                raise _Died
            return False

        with pytest.raises(_Died):
            _drain(pacs, stop=stop)
        count = len(sink.objects)
    assert 4 <= count < 8
    ends = [outcome for item in items for outcome in _attempts(item)]
    assert ends[: count - 1] == [A.SUCCESS] * (count - 1)
    assert ends[count - 1] in {A.SUCCESS, A.UNKNOWN}  # it was in flight
    assert ends[count:] == [A.NOT_SENT] * (8 - count)
    assert S.LEASED not in _states(items)
    assert not LaneSlot.objects.exclude(owner="").exists()


@pytest.mark.django_db(transaction=True)
def test_a_slow_destination_gets_nothing_new_when_the_time_of_the_drain_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DRAIN_SECONDS", 1.5)
    with Sink(Script(delay=0.3)) as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 60)
        count = _drain(pacs)
        sent = len(sink.objects)
    assert 1 <= sent <= 1.5 / 0.3 + 1
    assert _states(items) == [S.DELIVERED] * sent + [S.PENDING] * (60 - sent)
    # What was claimed in vain is little: it is written, and read again by who looks at an item.
    assert count - sent == Attempt.objects.filter(outcome=A.NOT_SENT).count() < delivery.FIRST
    assert Bell.objects.get(key=f"deliver:{pacs.pk}:0").rung


def test_the_first_object_is_begun_however_late_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DRAIN_SECONDS", 0.1)
    with Sink(Script(delay=0.2)) as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 2)
        _drain(pacs)
        _drain(pacs)
        assert len(sink.objects) == 2
    assert _states(items) == [S.DELIVERED] * 2


def test_a_drain_claims_as_much_as_it_will_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DRAIN_SECONDS", 6.0)
    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.1)
    with Sink(Script(delay=0.1)) as sink:
        pacs = deliveries.node(sink.settings)
        deliveries.chosen(pacs, tmp_path, 120)
        _drain(pacs)
        sent = len(sink.objects)
    assert delivery.FIRST < sent < 120
    assert Attempt.objects.filter(outcome=A.NOT_SENT).count() < delivery.FIRST


def test_a_claim_that_a_slow_database_was_long_about_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a lease is sure for, and would be claimed and given back for ever."""
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(claims, "SURE_SECONDS", 2.0)

    def slowly(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("INSERT INTO router_attempt"):
            time.sleep(2.5)
        return execute(sql, *rest)

    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 3)
        with connection.execute_wrapper(slowly):
            assert _drain(pacs) == 3
    assert [_attempts(item) for item in items] == [[A.SUCCESS]] * 3


@pytest.mark.django_db(transaction=True)
def test_a_late_worker_changes_nothing(tmp_path: Path) -> None:
    """Its lease ends while it sends; another claims and delivers; its own results are refused."""
    with Sink() as sink:
        pacs = deliveries.node(sink.settings, associations=2)
        items = deliveries.chosen(pacs, tmp_path, 3)
        calls: list[int] = []

        def overtaken() -> bool:
            calls.append(1)
            if len(calls) == 3:  # the first object was answered, and its result is not written yet
                with clock.shifted(claims.LEASE + SECOND):
                    assert delivery.recover_lost() == 3
                    assert sum(_drain(pacs, slot=1) for _ in items) == 3
            return False

        assert _drain(pacs, stop=overtaken) == 0
    assert 4 <= len(sink.objects) <= 6  # it ends as soon as it sees that its lease is lost
    for item in map(_again, items):
        assert (item.state, item.fence, item.lost) == (S.DELIVERED, 2, 1)
        assert _attempts(item) == [A.WORKER_LOST, A.SUCCESS]
    ((_modality, _source, _name, count, _bytes),) = _counted(CounterKind.DELIVERED)
    assert count == 3
    assert _balance() == []


def test_slots_limit_the_associations(settings: Settings, tmp_path: Path) -> None:
    settings.WORKERS = 4
    with Sink() as sink:
        pacs = deliveries.node(sink.settings, associations=16)
        deliveries.chosen(pacs, tmp_path)
        assert _drain(pacs, slot=2) == 0  # at most half of the workers
        assert sink.associations == 0
        assert _drain(pacs, slot=1) == 1


def test_a_slot_that_another_drain_holds_is_left_alone(tmp_path: Path) -> None:
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path)
        until = clock.now() + 30 * SECOND
        LaneSlot.objects.create(destination=pacs, number=0, owner="other", lease_until=until)
        assert _drain(pacs) == 0
        assert _states(items) == [S.PENDING]
        assert LaneSlot.objects.get().owner == "other"
        with clock.shifted(31 * SECOND):
            assert _drain(pacs) == 1  # its holder is gone


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("busy", "due", "rung"),
    [([0], True, 1), ([0, 1], True, 2), ([0, 1, 2], True, None), ([0], False, None)],
)
def test_a_ring_that_meets_a_busy_slot_goes_on_to_one_that_is_free(
    busy: list[int], due: bool, rung: int | None, settings: Settings, tmp_path: Path
) -> None:
    """Slot 0 may be busy with one long object: what is due meanwhile has the others."""
    settings.WORKERS = 6
    pacs = deliveries.node({"host": "127.0.0.1", "port": 1, "ae_title": "X"}, associations=3)
    if due:
        deliveries.chosen(pacs, tmp_path)
    until = clock.now() + 30 * SECOND
    for number in busy:
        LaneSlot.objects.create(destination=pacs, number=number, owner="o", lease_until=until)
    for number in busy:
        assert _drain(pacs, number) == 0
    free = Bell.objects.filter(key__startswith=f"deliver:{pacs.pk}:").exclude(
        key__in=[f"deliver:{pacs.pk}:{number}" for number in busy]
    )
    expected = [] if rung is None else [f"deliver:{pacs.pk}:{rung}"]
    assert list(free.values_list("key", flat=True)) == expected


@pytest.mark.django_db(transaction=True)
def test_beside_a_probe_of_a_dead_destination_nothing_is_rung(tmp_path: Path) -> None:
    pacs = deliveries.node({"host": "127.0.0.1", "port": 1, "ae_title": "X"}, associations=3)
    deliveries.chosen(pacs, tmp_path)
    Lane.objects.filter(destination=pacs).update(
        state=LaneState.BACKOFF, failures=1, resume_at=clock.now()
    )
    until = clock.now() + 30 * SECOND
    LaneSlot.objects.create(destination=pacs, number=0, owner="o", lease_until=until)
    assert _drain(pacs) == 0
    assert not Bell.objects.exists()


class _Looking(Sink):
    """A sink that looks into the database while an object is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, int]] = []

    def _on_established(self, event: evt.Event) -> None:
        super()._on_established(event)
        self._look()

    def _on_store(self, event: evt.Event) -> int:
        self._look()
        return super()._on_store(event)

    def _look(self) -> None:
        try:
            states = JobItem.objects.values_list("state", flat=True)
            outcomes = Attempt.objects.values_list("outcome", flat=True)
            self.seen.append((states.get(), outcomes.get(), 1))
        finally:
            connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_the_attempt_stands_before_the_network_is_touched(tmp_path: Path) -> None:
    with _Looking() as sink:
        pacs = deliveries.node(sink.settings)
        deliveries.chosen(pacs, tmp_path)
        assert _drain(pacs) == 1
    assert sink.seen == [(S.LEASED, A.RUNNING, 1)] * 3  # echo, association, object
