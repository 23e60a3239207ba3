"""Tasks mean "look now": they answer their bell, do what is there, and may run twice."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django_q.models import OrmQ

from router import doorbell, stopping, tasks
from router.models import (
    Bell,
    Decision,
    Heartbeat,
    ItemState,
    JobItem,
    LaneSlot,
    LaneState,
    LedgerCheck,
    Proof,
    QuietTimer,
    Replay,
)
from router.services import claims, clock, heartbeats, indexing, proving, replays, routing, upkeep
from tests import factories
from tests.intake import Site, image
from tests.replaying import ANN, confirmed, planned, wish

pytestmark = pytest.mark.django_db(transaction=True)


def _queued() -> set[str]:
    return set(Bell.objects.filter(rung=True).values_list("key", flat=True))


def _timer(site: Site) -> QuietTimer:
    """A study that waits to be quiet under a rule; routed, not fired."""
    factories.destination("pacs")
    factories.rule("quiet", send=["pacs"], trigger="study", quiet_seconds=60)
    indexing.index(site.take(image(1), image(2)))
    tasks.route()
    return QuietTimer.objects.get()


def test_route_decides_for_everything_that_is_marked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "BATCH", 2)
    factories.rule(send=[factories.destination("pacs").name])
    indexing.index(site.take(*(image(number, study=number) for number in range(1, 6))))
    assert "route" in _queued()

    tasks.route()

    assert Decision.objects.count() == 5
    assert JobItem.objects.count() == 5
    assert _queued() == {f"deliver:{JobItem.objects.all()[0].destination_id}:0"}


def test_route_again_has_nothing_to_do(site: Site) -> None:
    indexing.index(site.take(image(1)))
    tasks.route()

    tasks.route()

    assert Decision.objects.count() == 1


def test_route_leaves_the_rest_to_the_next_ring_when_it_must_stop(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexing.index(site.take(image(1)))
    flag = tmp_path / "stop"
    monkeypatch.setenv(stopping.VARIABLE, str(flag))
    stopping.request(flag)

    tasks.route()

    assert not Decision.objects.exists()
    assert "route" in _queued()


def test_fire_timers_fires_what_is_due(site: Site) -> None:
    timer = _timer(site)
    tasks.fire_timers()
    assert QuietTimer.objects.get().fired_at is None

    with clock.shifted(timedelta(seconds=61)):
        tasks.fire_timers()
        tasks.fire_timers()

    timer.refresh_from_db()
    assert timer.fired_at is not None
    assert JobItem.objects.count() == 2


def test_deliver_answers_its_own_bell(site: Site) -> None:
    pacs = factories.destination()
    doorbell.ring("deliver", pacs.pk, 0)
    doorbell.ring("deliver", pacs.pk, 1)

    tasks.deliver(pacs.pk, 0)

    assert _queued() == {f"deliver:{pacs.pk}:1"}


def test_deliver_to_a_destination_that_is_gone_is_nothing() -> None:
    tasks.deliver(404, 0)

    assert not JobItem.objects.exists()


def test_prove_answers_its_bell_and_does_nothing_where_nothing_is_due() -> None:
    pacs = factories.destination()
    doorbell.ring("prove", pacs.pk)

    tasks.prove(pacs.pk)
    tasks.prove(404)

    assert _queued() == set()


def test_prove_leaves_it_to_others_where_they_are_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Any
) -> None:
    settings.DATA_DIR = tmp_path
    asked: list[int] = []
    monkeypatch.setattr(proving, "drain", lambda pk, **_: asked.append(pk))
    monkeypatch.setattr(tasks, "PROVERS", 0)
    tasks.prove(1)
    assert asked == []
    monkeypatch.setattr(tasks, "PROVERS", 1)
    tasks.prove(1)
    assert asked == [1]


def test_prove_survives_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> int:
        raise OperationalError("away")

    monkeypatch.setattr(proving, "drain", away)
    tasks.prove(1)


def test_sweep_rings_for_proofs_that_are_due() -> None:
    peer = {"host": "h", "port": 1, "ae_title": "A", "proof": "verified"}
    pacs = factories.destination(settings=peer)
    item = factories.item(factories.job(destination=pacs), state=ItemState.DELIVERED)
    due = clock.now() + timedelta(minutes=1)
    Proof.objects.create(item=item, destination=pacs, study=item.job.study, delivery=0, due_at=due)

    tasks.sweep()
    assert f"prove:{pacs.pk}" not in _queued()
    with clock.shifted(timedelta(minutes=2)):
        tasks.sweep()
    assert f"prove:{pacs.pk}" in _queued()


def test_a_replay_is_planned_and_released_by_its_tasks() -> None:
    factories.item(factories.job(destination=factories.destination("pacs")), state="delivered")
    replay = replays.request(wish(source="ct-1"), actor=ANN, user=None)
    assert _queued() == {f"plan_replay:{replay.pk}"}

    tasks.plan_replay(replay.pk)
    tasks.plan_replay(replay.pk)
    replay.refresh_from_db()
    confirmed(replay)
    assert f"advance_replay:{replay.pk}" in _queued()
    tasks.advance_replay(replay.pk)
    tasks.advance_replay(replay.pk)

    item = JobItem.objects.get(cause="replay")
    assert item.state == ItemState.PENDING
    assert _queued() == {f"deliver:{item.destination_id}:0"}


@pytest.mark.parametrize(
    ("state", "rings"),
    [("planning", "plan_replay"), ("running", "advance_replay"), ("paused", "advance_replay"),
     ("cancelling", "advance_replay"), ("discarded", "advance_replay"), ("planned", ""),
     ("done", ""), ("cancelled", ""), ("failed", "")],
)  # fmt: skip
def test_sweep_rings_for_replays_that_have_something_to_do(state: str, rings: str) -> None:
    factories.item(factories.job(destination=factories.destination("pacs")), state="delivered")
    replay = planned(source="ct-1")
    Replay.objects.update(state=state)
    Bell.objects.all().delete()

    tasks.sweep()

    assert _queued() == ({f"{rings}:{replay.pk}"} if rings else set())


def test_canary_shows_that_a_worker_answers() -> None:
    doorbell.ring("canary")

    tasks.canary()

    assert Heartbeat.objects.get().role == "worker"
    assert _queued() == set()


def test_reckon_keeps_one_result_a_night(site: Site) -> None:
    indexing.index(site.take(image(1)))
    tasks.reckon()
    assert not LedgerCheck.objects.exists()  # nothing is old enough to be worth it

    with clock.shifted(timedelta(hours=30)):
        tasks.route()
        tasks.reckon()
        tasks.reckon()

    assert LedgerCheck.objects.get().gaps_count == 0


# --- the sweep -----------------------------------------------------------------------------------
def test_sweep_rings_for_nothing_where_nothing_is_due() -> None:
    factories.destination()
    doorbell.ring("sweep")

    tasks.sweep()

    assert _queued() == set()


def test_sweep_rings_anew_for_what_lost_its_ring(site: Site) -> None:
    timer = _timer(site)
    indexing.index(site.take(image(3, study=2)))
    due = factories.item(state=ItemState.WAITING, due_at=clock.now())
    doorbell.forget_all()

    with clock.shifted(timedelta(seconds=61)):
        tasks.sweep()

    assert timer.fired_at is None
    assert _queued() == {"route", "fire_timers", f"deliver:{due.destination_id}:0"}
    assert OrmQ.objects.count() == 3


@pytest.mark.parametrize(
    ("lane", "rings"),
    [
        ({"state": LaneState.OPEN}, True),
        ({"state": LaneState.STOPPED}, False),
        ({"state": LaneState.PAUSED}, False),
        ({"state": LaneState.BACKOFF, "resume_at": timedelta(hours=1)}, False),
        ({"state": LaneState.BACKOFF, "resume_at": timedelta(seconds=-1)}, True),
    ],
)
def test_sweep_rings_only_for_a_lane_that_runs(lane: dict[str, Any], rings: bool) -> None:
    if "resume_at" in lane:
        lane = lane | {"resume_at": clock.now() + lane["resume_at"]}
    pacs = factories.destination(lane=lane)
    factories.item(factories.job(destination=pacs))

    tasks.sweep()

    assert bool(_queued()) == rings


def _expired() -> JobItem:
    past = clock.now() - timedelta(seconds=1)
    return factories.item(state=ItemState.LEASED, owner="gone", lease_until=past, fence=1)


def test_sweep_takes_back_what_a_lost_worker_held() -> None:
    item = _expired()
    heartbeats.beat("sweep")

    tasks.sweep()

    item.refresh_from_db()
    assert (item.state, item.lost) == (ItemState.PENDING, 1)
    assert _queued() == {f"deliver:{item.destination_id}:0"}


def test_sweep_after_an_outage_spares_the_leases_that_nobody_could_renew() -> None:
    """Their holders have what they sent in hand and write it now."""
    tasks.sweep()
    item = _expired()
    LaneSlot.objects.create(
        destination=item.destination, number=0, owner="s", lease_until=item.lease_until
    )
    seconds = upkeep.SWEEP_SILENT.total_seconds() + 1

    with clock.shifted(timedelta(seconds=seconds)):
        tasks.sweep()
        tasks.sweep()  # comes at its usual pace and takes nothing back either
        fresh = {"lease_until__gt": clock.now() + timedelta(seconds=29)}
        assert JobItem.objects.filter(**fresh).exists()
        assert LaneSlot.objects.filter(**fresh).exists()
        item.refresh_from_db()
        assert (item.state, item.lost) == (ItemState.LEASED, 0)

    for number in range(4):  # nobody renewed it, although there was time for it
        seconds += claims.LEASE.total_seconds() / 4
        with clock.shifted(timedelta(seconds=seconds)):
            tasks.sweep()
            item.refresh_from_db()
            assert (item.state == ItemState.LEASED) is (number < 3)


def test_a_sweep_that_waited_behind_busy_workers_takes_back_what_was_lost() -> None:
    """It is late, but the watchdog saw the database all the time: there was no outage."""
    tasks.sweep()
    item = _expired()

    for seconds in range(0, 45, 5):
        with clock.shifted(timedelta(seconds=seconds)):
            upkeep.keep_from_silence()
    with clock.shifted(timedelta(seconds=45)):
        tasks.sweep()

    item.refresh_from_db()
    assert (item.state, item.lost) == (ItemState.PENDING, 1)


def test_the_watchdog_leaves_the_end_of_an_outage_to_the_sweep() -> None:
    tasks.sweep()
    item = _expired()

    with clock.shifted(upkeep.SWEEP_SILENT + timedelta(seconds=1)):
        upkeep.keep_from_silence()
        tasks.sweep()

    item.refresh_from_db()
    assert (item.state, item.lost) == (ItemState.LEASED, 0)


def test_an_outage_that_ends_a_lease_is_long_enough_to_be_noticed() -> None:
    shortest = claims.LEASE.total_seconds() - claims.RENEW_SECONDS
    assert upkeep.SWEEP_SILENT.total_seconds() < shortest


def test_sweep_outlives_a_database_that_is_away() -> None:
    def away(*_: object) -> None:
        raise OperationalError("the database is away")

    with connection.execute_wrapper(away):
        tasks.sweep()

    tasks.sweep()
    assert _queued() == set()
