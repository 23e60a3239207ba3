"""Fail-over: a study leaves a member that is ill as a whole, and the ledger still balances."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any  # a fixture of pytest-django, fields of rows

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from router import tasks
from router.models import (
    Assignment,
    Attempt,
    AttemptOutcome,
    AuditEvent,
    Bell,
    Cause,
    Decision,
    Destination,
    DestinationGroup,
    ItemShare,
    ItemState,
    Job,
    JobItem,
    Lane,
    LaneState,
    Priority,
)
from router.services import (
    clock,
    delivery,
    failover,
    groups,
    indexing,
    jobs,
    probing,
    reckoning,
    routing,
)
from router.services.actors import SYSTEM
from tests import deliveries, factories
from tests.intake import Site, image
from tests.sinks import Script, Sink

S = ItemState
MINUTE = timedelta(minutes=1)
PATIENCE = timedelta(seconds=300)

pytestmark = pytest.mark.django_db


@pytest.fixture
def places() -> dict[str, Destination]:
    return {name: factories.destination(name) for name in "abc"}


@pytest.fixture
def pool(places: dict[str, Destination]) -> DestinationGroup:
    return factories.group("pool", members=places.values())


def _study(*states: ItemState, transform: str = "", **fields: Any) -> Assignment:
    """Make a study of the pool whose items at its member are in these states."""
    study = factories.study()
    with transaction.atomic():
        one = groups.assigned([(study.pk, "pool")])[study.pk, "pool"]
    series = factories.series(study)
    job = factories.job(study, destination=one.member, assignment=one)
    decision = factories.decision(study, instances_count=len(states), chosen_count=len(states))
    for state in states:
        item = factories.item(
            job,
            instance=factories.instance(series),
            state=state,
            transform=transform,
            decision=decision,
            **fields,
        )
        if state in {S.DELIVERED, S.DELIVERED_WITH_WARNING}:
            factories.attempt(item)
    return one


def _fail(
    place: Destination, state: LaneState = LaneState.BACKOFF, ago: timedelta = MINUTE
) -> None:
    lane = Lane.objects.filter(destination=place)
    lane.update(
        state=state, failures=1, ill_since=clock.now() - ago, resume_at=clock.now() + MINUTE
    )


def _at(one: Assignment) -> dict[str, Counter[str]]:
    """Return the states of the study's items by destination."""
    found: dict[str, Counter[str]] = {}
    for name, state in JobItem.objects.filter(instance__study=one.study_id).values_list(
        "destination__name", "state"
    ):
        found.setdefault(name, Counter())[state] += 1
    return found


def _gaps() -> list[tuple[str, str]]:
    return [gap for gap in reckoning.reckon().gaps if gap[0] in {"pairs", "groups"}]


def test_a_study_of_which_nothing_was_sent_moves_at_once(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING, S.WAITING, priority=Priority.URGENT)
    Job.objects.update(priority=Priority.URGENT)
    _fail(places["a"])
    assert failover.is_due()
    assert failover.movable() == 1
    assert failover.run(5) == 1
    assert _at(one) == {"a": {"cancelled": 2}, "b": {"pending": 2}}
    one.refresh_from_db()
    assert (one.member, one.number) == (places["b"], 2)
    assert one.reason == (
        "moved from a, which does not answer: the first member that is well; "
        "left out: a does not answer"
    )
    assert one.history[0]["member"] == "a"
    assert one.history[0]["reason"] == "the first member"
    moved = JobItem.objects.filter(destination=places["b"])
    assert set(moved.values_list("cause", "priority")) == {(Cause.FAILOVER, Priority.URGENT)}
    assert Job.objects.get(destination=places["b"]).rule == "all-to-pacs"
    given_up = JobItem.objects.filter(destination=places["a"]).values_list("reason", flat=True)
    assert set(given_up) == {"b gets the study instead: a does not answer."}
    event = AuditEvent.objects.get()
    assert (event.event, event.target) == ("study.reassigned", "group pool: a to b")
    assert (event.details["sent"], event.details["given_up"]) == (2, 2)
    assert event.study_instance_uid == one.study.study_instance_uid
    assert _gaps() == []
    assert failover.run(5) == 0


@pytest.mark.parametrize(
    "outcome", [AttemptOutcome.UNKNOWN, AttemptOutcome.WORKER_LOST, AttemptOutcome.TRANSPORT]
)
def test_a_study_of_which_a_part_may_be_there_waits_for_the_patience(
    places: dict[str, Destination], pool: DestinationGroup, outcome: AttemptOutcome
) -> None:
    one = _study(S.WAITING, S.PENDING)
    factories.attempt(JobItem.objects.earliest("pk"), outcome=outcome)
    _fail(places["a"])
    in_doubt = outcome != AttemptOutcome.TRANSPORT
    assert failover.run(5) == (not in_doubt)
    with clock.shifted(PATIENCE):
        assert failover.run(5) == in_doubt
    assert _at(one) == {"a": {"cancelled": 2}, "b": {"pending": 2}}


def test_a_study_that_is_partly_there_is_sent_anew_as_a_whole(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.DELIVERED, S.DELIVERED_WITH_WARNING, S.PENDING, S.PARKED, S.CANCELLED)
    _fail(places["a"])
    assert failover.movable() == failover.run(5) == 0
    with clock.shifted(PATIENCE):
        assert failover.movable() == failover.run(5) == 1
    assert _at(one) == {
        "a": {"delivered": 1, "warning": 1, "cancelled": 3},
        "b": {"pending": 4},  # all but what a person had given up
    }
    one.refresh_from_db()
    assert one.reason.endswith("; all of it is sent there, since a has a part or may")
    assert _gaps() == []


def test_a_study_that_is_all_there_stays(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.DELIVERED, S.PARKED)
    _fail(places["a"])
    with clock.shifted(PATIENCE):
        assert failover.run(5) == 0
    assert set(_at(one)) == {"a"}


def test_what_is_being_sent_is_waited_for(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING, S.LEASED)
    _fail(places["a"])
    with clock.shifted(PATIENCE):
        assert failover.run(5) == 0
        JobItem.objects.filter(state=S.LEASED).update(state=S.WAITING)
        assert failover.run(5) == 1
    assert set(_at(one)["b"]) == {"pending"}


def test_what_a_person_holds_stays_held_at_the_new_member(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING, S.HELD, reason="Held by ann.")
    _fail(places["a"], LaneState.PAUSED)
    assert failover.run(5) == 1
    assert _at(one) == {"a": {"cancelled": 2}, "b": {"pending": 1, "held": 1}}
    held = JobItem.objects.get(state=S.HELD)
    assert held.reason == "Held before it came here: Held by ann."


def test_where_nobody_is_well_everything_waits(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING)
    for place in places.values():
        _fail(place)
    assert not failover.is_due()
    assert failover.run(5) == 0
    assert set(_at(one)) == {"a"}


def test_a_disabled_group_moves_nothing(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    _study(S.PENDING)
    _fail(places["a"])
    DestinationGroup.objects.update(enabled=False)
    assert not failover.is_due()
    assert failover.run(5) == 0


def test_what_a_rule_sends_to_the_member_by_name_stays(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING)
    other = factories.item(factories.job(one.study, destination=places["a"]))
    _fail(places["a"])
    assert failover.run(5) == 1
    other.refresh_from_db()
    assert other.state == S.PENDING
    assert _at(one) == {"a": {"cancelled": 1, "pending": 1}, "b": {"pending": 1}}


def test_an_item_that_is_there_for_both_stays_and_is_sent_to_the_new_member_too(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING)
    by_name = factories.item(factories.job(one.study, destination=places["a"]))
    ItemShare.objects.create(item=by_name, assignment=one)
    joined_by_name = JobItem.objects.earliest("pk")
    ItemShare.objects.create(item=joined_by_name, assignment=None)
    _fail(places["a"])
    assert failover.run(5) == 1
    assert _at(one) == {"a": {"pending": 2}, "b": {"pending": 2}}
    assert failover.run(5) == 0
    assert _gaps() == []


def test_a_study_that_only_shares_what_a_rule_sent_by_name_moves_as_well(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study()
    by_name = factories.item(factories.job(one.study, destination=places["a"]))
    ItemShare.objects.create(item=by_name, assignment=one)
    _fail(places["a"])
    assert failover.run(5) == 1
    assert _at(one) == {"a": {"pending": 1}, "b": {"pending": 1}}


def test_two_groups_share_an_item_and_each_moves_its_own(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING)
    factories.group("other", members=[places["a"], places["c"]])
    other = groups.assigned([(one.study_id, "other")])[one.study_id, "other"]
    ItemShare.objects.create(item=JobItem.objects.get(), assignment=other)
    _fail(places["a"])
    assert failover.run(5) == 2
    assert _at(one) == {"a": {"cancelled": 1}, "b": {"pending": 1}, "c": {"pending": 1}}
    assert _gaps() == []


def test_what_the_new_member_has_already_is_not_sent_twice(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING, S.PENDING)
    first = JobItem.objects.earliest("pk")
    job = factories.job(one.study, destination=places["b"])
    factories.item(job, instance=first.instance, state=S.DELIVERED)
    _fail(places["a"])
    assert failover.run(5) == 1
    assert _at(one)["b"] == {"delivered": 1, "pending": 1}
    assert ItemShare.objects.get().assignment == one


def test_back_to_a_member_that_has_a_part_only_the_rest_is_sent(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.DELIVERED, S.PENDING)
    _fail(places["a"], ago=PATIENCE)
    assert failover.run(5) == 1
    Lane.objects.filter(destination=places["a"]).update(state=LaneState.OPEN, failures=0)
    _fail(places["b"])
    assert failover.run(5) == 1
    assert _at(one) == {
        "a": {"delivered": 1, "cancelled": 1, "pending": 1},
        "b": {"cancelled": 2},
    }
    one.refresh_from_db()
    assert (one.number, [row["member"] for row in one.history]) == (3, ["a", "b"])
    assert _gaps() == []


def test_what_is_decided_later_joins_what_moved(
    site: Site, places: dict[str, Destination], pool: DestinationGroup
) -> None:
    """A pair that fail-over chose is not chosen again by a rule that comes later."""
    factories.rule("at-once", send=["pool"], priority=1)
    factories.rule("whole", send=["pool"], trigger="study", priority=2)
    indexing.index(site.take(image(1)))
    routing.route_batch()
    _fail(places["a"])
    assert failover.run(5) == 1
    with clock.shifted(timedelta(hours=1)):
        assert routing.fire_timers() == 1
    one = Assignment.objects.get()
    assert _at(one) == {"a": {"cancelled": 1}, "b": {"pending": 1}}
    decision = Decision.objects.latest("pk")
    assert (decision.destinations, decision.joined_count) == ({"b": "whole"}, 1)
    assert reckoning.reckon().gaps == []


def test_a_member_that_is_drained_keeps_what_was_open_and_loses_what_came_later(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    before = _study(S.PENDING)
    jobs.drain_lane(places["a"], actor=SYSTEM)
    after = factories.study()
    assert groups.assigned([(after.pk, "pool")])[after.pk, "pool"].member == places["b"]
    assert failover.run(5) == 0
    late = factories.job(before.study, destination=places["a"], assignment=before)
    factories.item(late)
    assert failover.run(5) == 1
    assert _at(before)["b"] == {"pending": 2}


def test_one_that_is_no_member_any_more_finishes_what_it_has_unless_it_is_ill(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    one = _study(S.PENDING)
    DestinationGroup.objects.update(members=["b", "c"], former=["a"])
    assert failover.run(5) == 0
    _fail(places["a"])
    assert failover.run(5) == 1
    assert _at(one)["b"] == {"pending": 1}


def test_a_fruitless_look_is_not_repeated_at_once(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    _study(S.DELIVERED, S.PENDING)
    _fail(places["a"])
    assert failover.is_due()
    failover.run(5)
    assert not failover.is_due()
    with clock.shifted(failover.LOOK_AGAIN):
        assert failover.is_due()


def test_the_most_urgent_study_moves_first(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    _study(S.PENDING)
    urgent = _study(S.PENDING, priority=Priority.URGENT)
    _fail(places["a"])
    failover.run(5)
    assert JobItem.objects.filter(destination=places["b"]).earliest("pk").job.study == urgent.study


@pytest.mark.parametrize("spoiled", ["stray", "missing"])
def test_the_reckoning_finds_a_study_that_is_split(
    places: dict[str, Destination], pool: DestinationGroup, spoiled: str
) -> None:
    one = _study(S.DELIVERED, S.PENDING)
    _fail(places["a"], ago=PATIENCE)
    failover.run(5)
    assert _gaps() == []
    if spoiled == "stray":
        JobItem.objects.filter(destination=places["a"], state=S.CANCELLED).update(state=S.PENDING)
    else:
        JobItem.objects.filter(destination=places["b"]).earliest("pk").delete()
    uid = one.study.study_instance_uid
    ((kind, sentence),) = _gaps()
    assert kind == "groups"
    assert sentence.startswith(f"study {uid} is b's in pool, and ")


@pytest.mark.django_db(transaction=True)
def test_the_sweep_moves_studies_and_asks_who_does_not_answer(
    places: dict[str, Destination], pool: DestinationGroup
) -> None:
    _study(S.PENDING)
    _fail(places["a"])
    Lane.objects.filter(destination=places["a"]).update(resume_at=clock.now() - MINUTE)
    tasks.sweep()
    assert {"move_studies"} <= _rung()
    tasks.move_studies()
    tasks.sweep()
    assert f"probe:{places['a'].pk}" in _rung()
    assert connection.in_atomic_block is False


def _rung() -> set[str]:
    return set(Bell.objects.filter(rung=True).values_list("key", flat=True))


# --- the way back ---------------------------------------------------------------------------------
def _failing(sink: Sink) -> Destination:
    place = deliveries.node(sink.settings, retry=["60s"])
    lane = Lane.objects.filter(destination=place)
    now = clock.now()
    lane.update(state=LaneState.BACKOFF, failures=2, resume_at=now - MINUTE, ill_since=now)
    return place


def test_a_member_with_nothing_left_is_asked_once_a_pause_and_well_when_it_answers() -> None:
    with Sink() as sink:
        place = _failing(sink)
        assert list(probing.due()) == []  # no member of a group
        factories.group("pool", members=[place])
        assert list(probing.due()) == [place.pk]
        assert probing.probe(place.pk)
        assert sink.echoes == 1
        lane = Lane.objects.get(destination=place)
        assert (lane.state, lane.failures, lane.ill_since) == (LaneState.OPEN, 0, None)
        assert not probing.probe(place.pk)
        assert sink.echoes == 1


def test_a_member_that_still_does_not_answer_waits_for_the_next_pause() -> None:
    with Sink(Script(reject=(2, 3, 2))) as sink:
        place = _failing(sink)
        factories.group("pool", members=[place])
        assert not probing.probe(place.pk)
        lane = Lane.objects.get(destination=place)
        assert (lane.state, lane.failures) == (LaneState.BACKOFF, 3)
        assert lane.resume_at is not None
        assert lane.resume_at > clock.now() + timedelta(seconds=50)
        assert lane.reason
        assert list(probing.due()) == []


def test_a_member_with_due_items_is_tried_with_one_of_them() -> None:
    with Sink() as sink:
        place = _failing(sink)
        factories.group("pool", members=[place])
        factories.item(factories.job(destination=place))
        assert list(probing.due()) == []


def test_what_moved_is_delivered_by_the_new_member(settings: Settings, tmp_path: Path) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    with Sink() as sink:
        dead = factories.destination(
            "dead", settings=deliveries.cleaned(sink.settings | {"port": 9})
        )
        live = deliveries.node(sink.settings)
        pool = factories.group("pool", members=[dead, live])
        items = deliveries.chosen(dead, tmp_path, 3)
        study = items[0].job.study
        one = groups.assigned([(study.pk, pool.name)])[study.pk, pool.name]
        Job.objects.update(assignment=one)
        assert one.member == dead
        delivery.drain(dead.pk, 0, stop=lambda: False)
        assert Lane.objects.get(destination=dead).state == LaneState.BACKOFF
        assert failover.run(5) == 1
        delivery.drain(live.pk, 0, stop=lambda: False)
        assert len(sink.objects) == 3
    assert Counter(Attempt.objects.values_list("item__destination__name", flat=True)) == {
        "dead": 3,
        live.name: 3,
    }
    assert reckoning.reckon().gaps == []
