"""Releasing: at a pace, within a window, once each, and what pause, cancel and death leave."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django import Settings

from router import storage
from router.models import (
    AuditEvent,
    Cause,
    Destination,
    Instance,
    InstanceState,
    ItemState,
    Job,
    JobItem,
    Priority,
    Replay,
    ReplayOnly,
    ReplayState,
)
from router.services import (
    clock,
    delivery,
    jobs,
    reckoning,
    replay_release,
    replay_settling,
    replays,
    triage,
)
from router.services.replay_release import NotWritten
from tests import deliveries, factories
from tests.archives import Archive
from tests.replaying import ANN, advance, confirmed, delivered, items, pairs, planned

S = ItemState
SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def objects(settings: Settings, tmp_path: Path) -> storage.FileStorage:
    return deliveries.fresh_storage(settings, tmp_path)


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive() as running:
        yield running


@pytest.fixture
def pacs() -> Destination:
    return factories.destination("pacs")


def _chosen(destination: Destination, count: int, **fields: object) -> list[JobItem]:
    """Rows of one study, without files."""
    job = factories.job(destination=destination, rule="to-pacs")
    series, usual = factories.series(job.study), {"state": S.DELIVERED}
    return [
        factories.item(job, instance=factories.instance(series), **usual | fields)
        for _ in range(count)
    ]


def _running(destination: Destination, count: int, rate: float = 0.0) -> Replay:
    _chosen(destination, count)
    return confirmed(planned(destination=destination.name, rate=rate))


def _gaps() -> list[tuple[str, str]]:
    return reckoning.reckon(deep=True).gaps


# --- what is made --------------------------------------------------------------------------------
def test_sends_what_was_planned_and_the_ledger_closes(archive: Archive, tmp_path: Path) -> None:
    node = deliveries.node(archive.settings)
    rows = [one for _ in range(3) for one in deliveries.chosen(node, tmp_path, 4)]
    delivery.drain(node.pk, 0, stop=lambda: False)
    assert len(archive.objects) == 12
    lost = [one.instance.sop_instance_uid for one in rows[:4]]
    archive.lose(lost)
    replay = confirmed(planned(ReplayOnly.MISSING, source="ct-1"))
    assert replay.objects_count == 4
    before = len(archive.objects)
    delivered(replay, node)
    assert (replay.state, items(replay)) == (ReplayState.DONE, {"delivered": 4})
    sent = archive.objects[before:]
    assert sorted(one.sop_instance_uid for one in sent) == sorted(lost)
    assert _gaps() == []
    assert reckoning.unfinished() == {}
    job = Job.objects.get(cause=Cause.REPLAY)
    assert (job.replay, job.study, job.destination) == (replay, rows[0].job.study, node)
    assert {one.decision for one in job.items.all()} == {None}
    finished = AuditEvent.objects.get(event="replay.finished")
    assert (finished.target, finished.details) == (f"replay {replay.pk}", {"delivered": 4})


def test_nothing_is_released_before_a_yes(pacs: Destination) -> None:
    _chosen(pacs, 2)
    replay = advance(planned(source="ct-1"))
    assert (items(replay), pairs(replay)) == ({}, {"planned": 2})


def test_items_give_way_to_what_arrives_unless_a_person_says_otherwise(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 2)
    replay = advance(_running(pacs, 4))
    made = JobItem.objects.filter(job__replay=replay)
    assert set(made.values_list("priority", "job__priority")) == {(Priority.LOW, Priority.LOW)}
    jobs.prioritise(made, priority=Priority.URGENT, actor=ANN)
    made.update(state=S.DELIVERED, finished_at=clock.now())
    advance(replay)
    fresh = made.filter(state=S.PENDING)
    assert set(fresh.values_list("priority", flat=True)) == {Priority.URGENT}


def test_items_are_for_the_address_that_was_confirmed(pacs: Destination) -> None:
    Destination.objects.filter(pk=pacs.pk).update(endpoint=4)
    replay = advance(_running(pacs, 3))
    made = JobItem.objects.filter(job__replay=replay)
    assert set(made.values_list("endpoint", "cause", "state")) == {(4, "replay", "pending")}
    assert [one.item_id for one in replay.pairs.in_order()] == sorted(one.pk for one in made)


# --- the pace ------------------------------------------------------------------------------------
def test_keeps_its_rate_whatever_the_destination_could_take(pacs: Destination) -> None:
    replay = _running(pacs, 60, rate=10.0)
    started, seen = clock.now(), list[tuple[float, int]]()
    for at in range(0, 70, 5):
        with clock.shifted(timedelta(seconds=at / 10)):
            advance(replay)
            passed = (clock.now() - started).total_seconds()
            seen.append((passed, sum(items(replay).values())))
    assert seen[0][1] == 5
    assert [one for one in seen if one[1] > 5 + 10 * one[0]] == []
    assert [one for one in seen if one[1] < min(60, 10 * one[0]) - 5] == []
    assert seen[-1][1] == 60


def test_makes_up_for_a_late_look_but_not_for_hours(pacs: Destination) -> None:
    replay = _running(pacs, 100, rate=10.0)
    advance(replay)
    with clock.shifted(timedelta(hours=5)):
        began = clock.now()
        advance(replay)
        looked = (clock.now() - began + replay_release.SLACK).total_seconds()
        assert 30 <= sum(items(replay).values()) <= 10 + 10 * looked


def test_a_slow_rate_releases_one_at_a_time(pacs: Destination) -> None:
    replay = advance(_running(pacs, 3, rate=0.5))
    assert sum(items(replay).values()) == 1
    assert replay_release.advance(replay.pk).wait == pytest.approx(2.0, abs=0.5)


def test_only_a_window_is_open_and_the_rest_follows_as_it_ends(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 4)
    replay = advance(_running(pacs, 10))
    assert items(replay) == {"pending": 4}
    first = JobItem.objects.filter(job__replay=replay).earliest("pk")
    JobItem.objects.filter(pk=first.pk).update(state=S.DELIVERED, finished_at=clock.now())
    assert items(advance(replay)) == {"delivered": 1, "pending": 4}
    assert pairs(replay) == {"ended": 1, "released": 4, "planned": 5}


def test_a_dead_destination_does_not_keep_another_waiting(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 2)
    other = factories.destination("other")
    _chosen(pacs, 5)
    _chosen(other, 5)
    replay = advance(confirmed(planned(source="ct-1")))
    made = JobItem.objects.filter(job__replay=replay, destination=other)
    for _ in range(4):
        made.filter(state=S.PENDING).update(state=S.DELIVERED, finished_at=clock.now())
        advance(replay)
    assert made.filter(state=S.DELIVERED).count() == 5
    assert JobItem.objects.filter(job__replay=replay, destination=pacs).count() == 2
    assert replay.state == ReplayState.RUNNING


def test_a_kind_that_takes_whole_studies_gets_them_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_release, "CHUNK", 3)
    hook = factories.destination("hook", kind="webhook")
    for size in (2, 5, 1):
        _chosen(hook, size)
    replay = confirmed(planned(destination="hook"))
    replay_release.advance(replay.pk)
    assert items(replay) == {"pending": 7}
    assert replay.pairs.planned().count() == 1
    assert items(advance(replay)) == {"pending": 8}


# --- once each -----------------------------------------------------------------------------------
def test_what_another_job_sends_meanwhile_is_not_sent_twice(pacs: Destination) -> None:
    rows = _chosen(pacs, 2)
    replay = confirmed(planned(source="ct-1"))
    JobItem.objects.filter(pk=rows[0].pk).update(state=S.PENDING)
    advance(replay)
    assert (items(replay), pairs(replay)) == ({"pending": 1}, {"dropped": 1, "released": 1})
    assert "under way" in replay.pairs.get(state="dropped").detail


def test_what_is_gone_meanwhile_is_dropped_with_the_reason(pacs: Destination) -> None:
    rows = _chosen(pacs, 2)
    replay = confirmed(planned(source="ct-1"))
    Instance.objects.filter(pk=rows[0].instance_id).update(state=InstanceState.PURGED)
    advance(replay)
    assert "not current" in replay.pairs.get(state="dropped").detail
    Destination.objects.update(removed=True)
    again = confirmed_after_removal(pacs)
    assert pairs(advance(again)) == {"dropped": 1}
    assert again.state == ReplayState.DONE


def confirmed_after_removal(pacs: Destination) -> Replay:
    """A replay that was confirmed just before its destination was removed."""
    Destination.objects.update(removed=False)
    JobItem.objects.filter(cause=Cause.REPLAY).update(state=S.DELIVERED)
    replay = confirmed(planned(source="ct-1"))
    Destination.objects.update(removed=True)
    return replay


def test_of_two_who_release_at_once_one_writes(pacs: Destination) -> None:
    replay = _running(pacs, 3)
    chosen = list(replay.pairs.planned().select_related("instance"))
    now = clock.now()
    assert replay_release._write(replay, [pacs], chosen, now) == 3
    with pytest.raises(NotWritten):
        replay_release._write(replay, [pacs], chosen, now)
    assert items(replay) == {"pending": 3}


def test_a_worker_that_dies_before_it_commits_leaves_nothing_half(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = _running(pacs, 3)

    def dies(_rows: object) -> int:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(replay_release._RELEASE, "write", dies)
        with pytest.raises(MemoryError):
            replay_release.advance(replay.pk)
    assert (items(replay), pairs(replay)) == ({}, {"planned": 3})
    assert items(advance(replay)) == {"pending": 3}


# --- what failed before --------------------------------------------------------------------------
@pytest.mark.parametrize("state", [S.DELIVERED, S.PARKED])
def test_an_older_failure_is_replaced_by_what_became_of_it_now(
    pacs: Destination, state: ItemState
) -> None:
    old = _chosen(pacs, 2, state=S.PARKED, reason="It was full.")
    replay = advance(confirmed(planned(ReplayOnly.FAILED, source="ct-1")))
    assert triage.failures(JobItem.objects.all()).count() == 2
    made = JobItem.objects.filter(job__replay=replay)
    made.update(state=state, reason="", finished_at=clock.now())
    advance(replay)
    rows = JobItem.objects.filter(pk__in=[one.pk for one in old])
    reason = f"Replaced: replay {replay.pk} sent it again."
    assert set(rows.values_list("state", "reason")) == {(S.CANCELLED, reason)}
    assert replay.state == ReplayState.DONE


def test_a_cancelled_replay_leaves_older_failures_as_they_were(pacs: Destination) -> None:
    old = _chosen(pacs, 2, state=S.PARKED, reason="It was full.")
    replay = advance(confirmed(planned(ReplayOnly.FAILED, source="ct-1")))
    replays.cancel(replay, actor=ANN)
    advance(replay)
    rows = JobItem.objects.filter(pk__in=[one.pk for one in old])
    assert set(rows.values_list("state", "reason")) == {(S.PARKED, "It was full.")}
    assert pairs(planned(ReplayOnly.FAILED, source="ct-1")) == {"planned": 2}


# --- pause, cancel, discard ----------------------------------------------------------------------
def test_a_pause_holds_what_is_not_being_sent_and_what_comes_back(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 4)
    replay = advance(_running(pacs, 10))
    sending = JobItem.objects.filter(job__replay=replay).earliest("pk")
    JobItem.objects.filter(pk=sending.pk).update(state=S.LEASED, owner="w", lease_until=clock.now())
    assert replays.pause(replay, actor=ANN) == 3
    assert items(advance(replay)) == {"leased": 1, "held": 3}
    JobItem.objects.filter(pk=sending.pk).update(state=S.WAITING, owner="")
    assert items(advance(replay)) == {"held": 4}
    assert pairs(replay) == {"released": 4, "planned": 6}
    assert replays.resume(replay, actor=ANN) == 4
    assert items(advance(replay)) == {"pending": 4}


def test_what_a_person_holds_is_not_released_with_the_replay(pacs: Destination) -> None:
    replay = advance(_running(pacs, 2))
    own = JobItem.objects.filter(job__replay=replay)
    own.filter(pk=own.earliest("pk").pk).hold("Held by bob.")
    replays.pause(replay, actor=ANN)
    replays.resume(replay, actor=ANN)
    assert items(replay) == {"held": 1, "pending": 1}


def test_an_address_that_changes_pauses_it_until_somebody_says_so(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 2)
    replay = advance(_running(pacs, 5))
    Destination.objects.filter(pk=pacs.pk).update(endpoint=2)
    advance(replay)
    assert (replay.state, items(replay)) == (ReplayState.PAUSED, {"held": 2})
    assert "address of pacs has changed" in replay.reason
    replays.resume(replay, actor=ANN)
    made = JobItem.objects.filter(job__replay=replay)
    assert set(made.values_list("state", "endpoint")) == {("pending", 2)}
    made.update(state=S.DELIVERED, finished_at=clock.now())
    assert sum(items(advance(replay)).values()) == 4


def test_a_cancel_gives_up_what_was_not_sent_and_says_how_many(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 4)
    replay = advance(_running(pacs, 10))
    rows = list(JobItem.objects.filter(job__replay=replay).order_by("pk"))
    JobItem.objects.filter(pk=rows[0].pk).update(state=S.DELIVERED, finished_at=clock.now())
    JobItem.objects.filter(pk=rows[1].pk).update(state=S.LEASED, owner="w", lease_until=clock.now())
    replays.cancel(replay, actor=ANN)
    advance(replay)
    assert replay.state == ReplayState.CANCELLING
    assert items(replay) == {"delivered": 1, "leased": 1, "cancelled": 2}
    JobItem.objects.filter(pk=rows[1].pk).update(state=S.WAITING, owner="", due_at=clock.now())
    advance(replay)
    assert replay.state == ReplayState.CANCELLED
    assert items(replay) == {"delivered": 1, "cancelled": 3}
    assert pairs(replay) == {"ended": 4, "dropped": 6}
    assert _counts_close(replay)


def _counts_close(replay: Replay) -> bool:
    return [gap for gap in reckoning.reckon().gaps if gap[0] == "replays"] == []


def test_a_paused_one_is_cancelled_with_what_it_held(pacs: Destination) -> None:
    replay = advance(_running(pacs, 3))
    replays.pause(replay, actor=ANN)
    replays.cancel(replay, actor=ANN)
    assert items(advance(replay)) == {"cancelled": 3}
    assert replay.state == ReplayState.CANCELLED


def test_a_plan_that_was_discarded_keeps_no_pairs(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_settling, "MANY", 2)
    _chosen(pacs, 5)
    replay = planned(source="ct-1")
    replays.cancel(replay, actor=ANN)
    advance(replay)
    assert (pairs(replay), replay.has_pairs) == ({}, False)
    assert not Replay.objects.to_advance().exists()
    assert _counts_close(replay)


def test_a_plan_that_nobody_confirms_goes_by_itself(pacs: Destination) -> None:
    _chosen(pacs, 1)
    replay = planned(source="ct-1")
    with clock.shifted(timedelta(hours=47)):
        replays.ring_due()
    replay.refresh_from_db()
    assert replay.state == ReplayState.PLANNED
    with clock.shifted(timedelta(hours=49)):
        replays.ring_due()
    replay.refresh_from_db()
    assert (replay.state, replay.reason) == (ReplayState.DISCARDED, "Nobody confirmed it.")


# --- the ledger ----------------------------------------------------------------------------------
def test_the_reckoning_names_what_does_not_close(pacs: Destination) -> None:
    replay = advance(_running(pacs, 3))
    assert _counts_close(replay)
    first = replay.pairs.earliest("pk")
    replay.pairs.filter(pk=first.pk).update(item=None)
    Replay.objects.update(objects_count=4)
    found = {gap for gap in reckoning.reckon().gaps if gap[0] == "replays"}
    assert found == {
        ("replays", f"replay {replay.pk} says 4 objects, 3 pairs stand"),
        ("replays", f"pair {first.pk} was released and has no item"),
        ("replays", f"item {first.item_id} is of a replay and none of its pairs"),
    }


def test_a_replay_that_may_go_on_is_unfinished_and_one_that_waits_is_not(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_release, "WINDOW", 2)
    replay = _running(pacs, 5)
    assert replay_release.unfinished() == 1
    advance(replay)
    assert replay_release.unfinished() == 0  # the window is full; its items are counted themselves
    JobItem.objects.filter(job__replay=replay).update(state=S.PARKED)
    advance(replay)
    JobItem.objects.filter(job__replay=replay).update(state=S.PARKED)
    advance(replay)
    JobItem.objects.filter(job__replay=replay).update(state=S.PARKED)
    assert replay_release.unfinished() == 1  # to be ended
    advance(replay)
    assert (replay.state, replay_release.unfinished()) == (ReplayState.DONE, 0)
