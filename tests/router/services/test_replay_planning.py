"""Planning: which pairs, what the ledger and the far end say of each, in chunks that survive."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any  # fields of a selection

import pytest
from pytest_django import Settings

from router import stopping, storage
from router.destinations.base import Confirmation
from router.models import (
    Assignment,
    AuditEvent,
    Cause,
    Destination,
    Instance,
    InstanceState,
    ItemState,
    JobItem,
    PairState,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayRoute,
    ReplayState,
)
from router.services import decisions, far_end, replay_planning, replays
from router.services.replay_planning import NotWritten
from tests import deliveries, factories
from tests.archives import Archive
from tests.ports import free_port as closed_port
from tests.replaying import ANN, pairs, plan, planned, wish

S, P = ItemState, PairState
FAILED, MISSING, ALL = ReplayOnly.FAILED, ReplayOnly.MISSING, ReplayOnly.ALL

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def objects(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> storage.FileStorage:
    monkeypatch.setattr(decisions, "_cached", None)
    return deliveries.fresh_storage(settings, tmp_path)


@pytest.fixture
def pacs() -> Destination:
    return factories.destination("pacs")


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive() as running:
        yield running


def _chosen(destination: Destination, count: int, **fields: object) -> list[JobItem]:
    """Rows of one study, without files."""
    job = factories.job(destination=destination, rule="to-pacs")
    series = factories.series(job.study)
    return [
        factories.item(job, instance=factories.instance(series), **fields) for _ in range(count)
    ]


def _at(archive: Archive, folder: Path, count: int, *, lost: int) -> tuple[Destination, list[str]]:
    """A destination that took `count` objects and has lost the last of them since."""
    node = deliveries.node(archive.settings)
    items = deliveries.chosen(node, folder, count, state=S.DELIVERED)
    uids = [one.instance.sop_instance_uid for one in items]
    for one in items[: count - lost]:
        archive.take(one.instance.sop_instance_uid, one.instance.sop_class_uid)
    return node, uids[count - lost :]


# --- as chosen then ------------------------------------------------------------------------------
def test_plans_what_was_chosen_then_and_sends_nothing(pacs: Destination) -> None:
    disk = factories.destination("disk")
    first, second = _chosen(pacs, 3, state=S.DELIVERED), _chosen(pacs, 2, state=S.DELIVERED)
    twin = factories.job(first[0].job.study, destination=disk, rule="to-disk")
    factories.item(twin, instance=first[0].instance, state=S.DELIVERED)
    replay = planned(source="ct-1")
    assert replay.state == ReplayState.PLANNED
    assert (replay.studies_count, replay.objects_count) == (2, 6)
    assert replay.bytes == sum(one.size for one in [*first, *second, first[0]])
    assert replay.endpoints == {str(pacs.pk): 1, str(disk.pk): 1}
    rows = list(
        replay.pairs.in_order().values_list("study_id", "destination__name", "rule", "state")
    )
    assert [row[0] for row in rows] == [first[0].job.study_id] * 4 + [second[0].job.study_id] * 2
    assert set(rows) == {
        (first[0].job.study_id, "pacs", "to-pacs", "planned"),
        (first[0].job.study_id, "disk", "to-disk", "planned"),
        (second[0].job.study_id, "pacs", "to-pacs", "planned"),
    }
    assert not JobItem.objects.filter(cause=Cause.REPLAY).exists()
    assert list(AuditEvent.objects.order_by("pk").values_list("event", flat=True)) == [
        "replay.requested", "replay.planned",
    ]  # fmt: skip


def test_failed_is_what_was_parked_last(pacs: Destination) -> None:
    _chosen(pacs, 2, state=S.DELIVERED)
    parked = _chosen(pacs, 3, state=S.PARKED)
    again = factories.job(parked[0].job.study, destination=pacs, cause=Cause.MANUAL)
    factories.item(again, instance=parked[0].instance, state=S.DELIVERED)
    replay = planned(FAILED, destination="pacs")
    assert pairs(replay) == {"planned": 2}
    found = set(replay.pairs.values_list("instance", flat=True))
    assert found == {one.instance_id for one in parked[1:]}


def test_what_a_person_gave_up_on_stays_given_up_unless_it_is_asked_for(pacs: Destination) -> None:
    _chosen(pacs, 2, state=S.CANCELLED)
    _chosen(pacs, 1, state=S.DELIVERED)
    assert pairs(planned(source="ct-1")) == {"planned": 1}
    assert pairs(planned(source="ct-1", state="cancelled")) == {"planned": 2}
    assert pairs(planned(FAILED, source="ct-1", state="cancelled")) == {"planned": 2}


def test_a_cancelled_replay_does_not_hide_that_something_was_delivered(pacs: Destination) -> None:
    (one,) = _chosen(pacs, 1, state=S.DELIVERED)
    later = factories.job(one.job.study, destination=pacs, cause=Cause.REPLAY)
    factories.item(later, instance=one.instance, state=S.CANCELLED)
    assert pairs(planned(source="ct-1")) == {"planned": 1}


@pytest.mark.parametrize(
    ("state", "becomes"),
    [(S.PENDING, P.ON_WAY), (S.LEASED, P.ON_WAY), (S.WAITING, P.ON_WAY), (S.HELD, P.ON_HOLD),
     (S.PARKED, P.PLANNED), (S.DELIVERED, P.PLANNED), (S.DELIVERED_WITH_WARNING, P.PLANNED)],
)  # fmt: skip
def test_what_is_under_way_or_held_is_left_to_its_job(
    pacs: Destination, state: ItemState, becomes: PairState
) -> None:
    _chosen(pacs, 1, state=state)
    assert pairs(planned(source="ct-1")) == {becomes: 1}


def test_a_removed_destination_gets_nothing(pacs: Destination) -> None:
    _chosen(pacs, 2, state=S.DELIVERED)
    Destination.objects.update(removed=True)
    replay = planned(source="ct-1")
    assert pairs(replay) == {"gone": 2}
    assert replay.state == ReplayState.DONE


@pytest.mark.parametrize(
    ("selection", "count"),
    [({"destination": "pacs"}, 3), ({"rule": "to-pacs"}, 3), ({"rule": "other"}, 2),
     ({"state": "parked"}, 1), ({"state": "delivered", "destination": "pacs"}, 2)],
)  # fmt: skip
def test_pairs_beside_the_selection_are_left_out(
    pacs: Destination, selection: dict[str, Any], count: int
) -> None:
    items = [*_chosen(pacs, 2, state=S.DELIVERED), *_chosen(pacs, 1, state=S.PARKED)]
    other = factories.job(items[0].job.study, destination=factories.destination(), rule="other")
    for one in items[:2]:
        factories.item(other, instance=one.instance, state=S.DELIVERED)
    assert planned(**selection).objects_count == count


def test_by_jobs_only_their_own_pairs(pacs: Destination) -> None:
    items = _chosen(pacs, 2, state=S.DELIVERED)
    other = factories.job(items[0].job.study, destination=factories.destination("disk"))
    factories.item(other, instance=items[0].instance, state=S.DELIVERED)
    replay = planned(jobs=(other.pk,))
    assert list(replay.pairs.values_list("destination__name", flat=True)) == ["disk"]


def test_leaves_under_the_transform_of_today_or_as_it_came(pacs: Destination) -> None:
    factories.rule("to-pacs", send=["pacs"], transform="new")
    _chosen(pacs, 1, state=S.DELIVERED, transform="old")
    for content, transform in ((ReplayContent.ORIGINAL, ""), (ReplayContent.CURRENT, "new")):
        replay = planned(source="ct-1", content=content)
        assert list(replay.pairs.values_list("transform", flat=True)) == [transform]


def test_one_object_under_two_transforms_leaves_once_as_it_came(pacs: Destination) -> None:
    (one,) = _chosen(pacs, 1, state=S.DELIVERED, transform="x")
    factories.item(one.job, instance=one.instance, state=S.DELIVERED, transform="y")
    assert planned(source="ct-1").objects_count == 1
    assert planned(source="ct-1", content=ReplayContent.CURRENT).objects_count == 2


def test_what_is_kept_apart_is_not_sent(pacs: Destination) -> None:
    items = _chosen(pacs, 3, state=S.DELIVERED)
    for one, state in zip(items, (InstanceState.PURGED, InstanceState.QUARANTINED), strict=False):
        Instance.objects.filter(pk=one.instance_id).update(state=state)
    assert planned(source="ct-1").objects_count == 1


# --- asked first ---------------------------------------------------------------------------------
def test_missing_is_what_the_far_end_does_not_have(archive: Archive, tmp_path: Path) -> None:
    _node, lost = _at(archive, tmp_path, 9, lost=4)
    replay = planned(MISSING, source="ct-1")
    assert pairs(replay) == {"planned": 4, "there": 5}
    chosen = replay.pairs.planned()
    assert sorted(chosen.values_list("instance__sop_instance_uid", flat=True)) == sorted(lost)
    assert archive.questions == 9
    details = dict(replay.pairs.values_list("state", "detail"))
    assert "does not find it (C-FIND)" in details["planned"]
    assert "finds it (C-FIND)" in details["there"]


def test_what_nobody_has_to_send_is_done_at_once_and_kept_as_a_report(
    archive: Archive, tmp_path: Path
) -> None:
    _at(archive, tmp_path, 3, lost=0)
    replay = planned(MISSING, source="ct-1")
    assert (replay.state, replay.objects_count) == (ReplayState.DONE, 0)
    assert replay.finished_at is not None
    assert pairs(replay) == {"there": 3}


def test_what_is_under_way_is_not_asked_for(archive: Archive, tmp_path: Path) -> None:
    node, _lost = _at(archive, tmp_path, 2, lost=2)
    JobItem.objects.filter(destination=node).update(state=S.PENDING)
    assert pairs(planned(MISSING, source="ct-1")) == {"on_way": 2}
    assert archive.questions == 0


def test_a_far_end_that_does_not_answer_is_asked_three_times_and_gets_nothing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _lost = _at(archive, tmp_path, 9, lost=9)
    assert node.version is not None
    node.version.settings["port"] = closed_port()
    node.version.save()
    asked: list[int] = []
    real = far_end.ask

    def ask(destination: Destination, instances: Sequence[int]) -> dict[int, Confirmation]:
        asked.append(len(instances))
        return real(destination, instances)

    monkeypatch.setattr(far_end, "ask", ask)
    monkeypatch.setattr(replay_planning, "CHUNK", 2)
    replay = planned(MISSING, source="ct-1")
    assert pairs(replay) == {"unknown": 9}
    assert asked == [2] * replay_planning.MOST_STRIKES
    assert all(replay.pairs.values_list("detail", flat=True))


def test_a_kind_that_cannot_be_asked_says_so() -> None:
    _chosen(factories.destination("hook", kind="webhook"), 2, state=S.DELIVERED)
    replay = planned(MISSING, source="ct-1")
    assert pairs(replay) == {"unknown": 2}
    assert "webhook cannot be asked" in replay.pairs.first().detail  # type: ignore[union-attr]


def test_what_leaves_transformed_cannot_be_asked_for(archive: Archive, tmp_path: Path) -> None:
    _at(archive, tmp_path, 1, lost=1)
    JobItem.objects.update(transform="x")
    replay = planned(MISSING, source="ct-1", content=ReplayContent.CURRENT)
    assert pairs(replay) == {"unknown": 1}


# --- by the rules of today -----------------------------------------------------------------------
def _routed(folder: Path, count: int) -> list[Instance]:
    """Objects with files whose marks were answered: no rule took them."""
    series = factories.series(factories.study(), modality="CT")
    decision = factories.decision(series.study, outcome="held", chosen_count=0)
    stored = [deliveries.stored(series, folder) for _ in range(count)]
    for one in stored:
        factories.mark(one, decision=decision)
    return stored


def test_the_rules_of_today_choose_what_nobody_chose_then(
    pacs: Destination, tmp_path: Path
) -> None:
    factories.destination("mr-store")
    factories.rule("ct", send=["pacs"], when={"field": "Modality", "op": "equals", "value": "CT"})
    factories.rule(
        "mr", send=["mr-store"], when={"field": "Modality", "op": "equals", "value": "MR"}
    )
    factories.rule("draft", send=["mr-store"], state="draft")
    _routed(tmp_path, 3)
    replay = planned(source="ct-1", route=ReplayRoute.RULES)
    assert replay.objects_count == 3
    rows = set(replay.pairs.values_list("destination__name", "rule", "state"))
    assert rows == {("pacs", "ct", "planned")}
    assert pairs(planned(source="ct-1", route=ReplayRoute.RULES, rule="mr")) == {}


def test_a_group_stands_for_the_member_that_has_the_study(
    pacs: Destination, tmp_path: Path
) -> None:
    other = factories.destination("other")
    factories.group("pool", members=[other, pacs], kind="balance", by="round_robin")
    factories.rule("all", send=["pool"])
    _routed(tmp_path, 3)
    replay = planned(source="ct-1", route=ReplayRoute.RULES)
    (one,) = Assignment.objects.all()
    assert replay.objects_count == 3
    rows = {(pair.study_id, pair.destination_id) for pair in replay.pairs.all()}
    assert rows == {(one.study_id, one.member_id)}


def test_what_routing_is_yet_to_decide_is_left_to_it(pacs: Destination, tmp_path: Path) -> None:
    factories.rule("all", send=["pacs"])
    series = factories.series(factories.study())
    factories.mark(deliveries.stored(series, tmp_path))
    replay = planned(source="ct-1", route=ReplayRoute.RULES)
    assert (pairs(replay), replay.unread_count) == ({}, 0)


def test_an_object_that_cannot_be_read_is_counted(
    pacs: Destination, tmp_path: Path, objects: storage.FileStorage
) -> None:
    factories.rule("all", send=["pacs"])
    good, bad = _routed(tmp_path, 2)
    (tmp_path / "objects" / bad.location).unlink()
    replay = planned(source="ct-1", route=ReplayRoute.RULES)
    assert list(replay.pairs.values_list("instance", flat=True)) == [good.pk]
    assert replay.unread_count == 1


def test_a_storage_that_is_away_makes_planning_wait(
    pacs: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.rule("all", send=["pacs"])
    _routed(tmp_path, 1)

    def away(*_: object) -> None:
        raise storage.StorageAway("gone")

    replay = replays.request(wish(source="ct-1", route=ReplayRoute.RULES), actor=ANN, user=None)
    with monkeypatch.context() as broken:
        broken.setattr(decisions, "explain", away)
        for _try in range(replay_planning.MOST_TRIES + 2):
            with pytest.raises(NotWritten):
                replay_planning.step(replay.pk)
    assert plan(replay).objects_count == 1


# --- in chunks -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("studies", "chunk"), [(1, 1), (2, 3), (3, 500), (100, 4)])
def test_chunks_of_any_size_find_the_same(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch, studies: int, chunk: int
) -> None:
    monkeypatch.setattr(replay_planning, "STUDIES", studies)
    monkeypatch.setattr(replay_planning, "CHUNK", chunk)
    items = [one for size in (1, 5, 2, 4, 1) for one in _chosen(pacs, size, state=S.DELIVERED)]
    replay = planned(source="ct-1")
    assert list(replay.pairs.in_order().values_list("instance", flat=True)) == [
        one.instance_id for one in items
    ]
    assert (replay.studies_seen, replay.studies_total) == (5, 5)


def test_of_two_planners_one_writes(pacs: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    _chosen(pacs, 4, state=S.DELIVERED)
    monkeypatch.setattr(replay_planning, "CHUNK", 2)
    replay = replays.request(wish(source="ct-1"), actor=ANN, user=None)
    real = replay_planning._write

    def overtaken(*args: object, **more: object) -> None:
        monkeypatch.setattr(replay_planning, "_write", real)
        replay_planning.step(replay.pk)
        real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(replay_planning, "_write", overtaken)
    with pytest.raises(NotWritten):
        replay_planning.step(replay.pk)
    assert replay.pairs.count() == 2
    assert plan(replay).objects_count == 4


def test_a_planner_that_dies_leaves_nothing_half_and_five_of_them_end_it(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    _chosen(pacs, 4, state=S.DELIVERED)
    replay = replays.request(wish(source="ct-1"), actor=ANN, user=None)

    def dies(_replay: Replay) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(replay_planning, "_finish", dies)
        for _try in range(replay_planning.MOST_TRIES - 1):
            with pytest.raises(MemoryError):
                replay_planning.step(replay.pk)
            assert not replay.pairs.exists()
    assert plan(replay).objects_count == 4

    hopeless = replays.request(wish(source="ct-1"), actor=ANN, user=None)
    with monkeypatch.context() as broken:
        broken.setattr(replay_planning, "_finish", dies)
        for _try in range(replay_planning.MOST_TRIES):
            with pytest.raises(MemoryError):
                replay_planning.step(hopeless.pk)
    assert not replay_planning.step(hopeless.pk)
    hopeless.refresh_from_db()
    assert (hopeless.state, "Plan it again" in hopeless.reason) == (ReplayState.FAILED, True)


def test_what_was_not_asked_because_we_stop_is_no_answer(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(archive, tmp_path, 2, lost=1)
    replay = replays.request(wish(MISSING, source="ct-1"), actor=ANN, user=None)
    with monkeypatch.context() as stopping_now:
        stopping_now.setattr(stopping, "requested", lambda: True)
        with pytest.raises(NotWritten):
            replay_planning.step(replay.pk)
    assert pairs(plan(replay)) == {"planned": 1, "there": 1}


def test_a_discarded_replay_is_not_planned_on(pacs: Destination) -> None:
    _chosen(pacs, 1, state=S.DELIVERED)
    replay = replays.request(wish(source="ct-1"), actor=ANN, user=None)
    replays.cancel(replay, actor=ANN)
    assert plan(replay).state == ReplayState.DISCARDED
    assert not replay.pairs.exists()


def test_the_limit_of_the_one_who_asks_holds(pacs: Destination) -> None:
    _chosen(pacs, 2, state=S.DELIVERED)
    other = factories.job(factories.study(source="mr-1"), destination=pacs)
    factories.item(other, state=S.DELIVERED)
    user = factories.user(limit={"sources": ["mr-1"]})
    replay = plan(replays.request(wish(destination="pacs"), actor=ANN, user=user))
    assert list(replay.pairs.values_list("study_id", flat=True)) == [other.study_id]
