"""Groups: which member has a study, chosen once and for good, and why; however many choose."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any  # rule trees and fields of rows

import pytest
from django.db import connection, transaction

from router.destinations.windows import DAYS
from router.models import (
    Assignment,
    Decision,
    Destination,
    DestinationGroup,
    Instance,
    ItemShare,
    ItemState,
    Job,
    JobItem,
    Lane,
    LaneState,
    Study,
)
from router.services import clock, groups, indexing, members, reckoning, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)
NAMES = ("a", "b", "c")
FOREVER = timedelta(days=1)


@pytest.fixture
def places() -> dict[str, Destination]:
    return {name: factories.destination(name) for name in NAMES}


def _pool(places: dict[str, Destination], **fields: Any) -> DestinationGroup:
    return factories.group("pool", members=places.values(), **fields)


def _balance(places: dict[str, Destination], by: str = "round_robin") -> DestinationGroup:
    return _pool(places, kind="balance", by=by)


def _lane(place: Destination, state: LaneState, **fields: Any) -> None:
    Lane.objects.filter(destination=place).update(state=state, **fields)


def _assign(count: int = 1) -> list[Assignment]:
    """Assign new studies, one after the other."""
    found = []
    for _ in range(count):
        study = factories.study()
        found.append(groups.assigned([(study.pk, "pool")])[study.pk, "pool"])
    return found


def _names(found: list[Assignment]) -> list[str]:
    return [one.member.name for one in found]


# --- fail-over ------------------------------------------------------------------------------------
def test_fail_over_uses_the_first_while_it_is_well_and_returns_to_it(
    places: dict[str, Destination],
) -> None:
    _pool(places)
    assert _names(_assign(2)) == ["a", "a"]
    _lane(places["a"], LaneState.BACKOFF, failures=1)
    (second,) = _assign()
    assert (second.member.name, second.reason) == (
        "b",
        "the first member that is well; left out: a does not answer",
    )
    _lane(places["a"], LaneState.OPEN, failures=0)
    assert _names(_assign()) == ["a"]


def test_without_return_it_stays_with_the_one_that_is_well(places: dict[str, Destination]) -> None:
    _pool(places, returns=False)
    assert _names(_assign()) == ["a"]
    _lane(places["a"], LaneState.STOPPED)
    assert _names(_assign()) == ["b"]
    _lane(places["a"], LaneState.OPEN)
    assert _names(_assign()) == ["b"]
    _lane(places["b"], LaneState.STOPPED)
    assert _names(_assign()) == ["c"]  # the next in the order, not the first again
    _lane(places["c"], LaneState.STOPPED)
    assert _names(_assign()) == ["a"]


@pytest.mark.parametrize("kind", ["failover", "balance"])
def test_a_disabled_group_gives_all_to_its_first_member(
    places: dict[str, Destination], kind: str
) -> None:
    _pool(places, kind=kind, by="round_robin", enabled=False)
    _lane(places["a"], LaneState.STOPPED)
    found = _assign(2)
    assert _names(found) == ["a", "a"]
    assert "the group is disabled" in found[0].reason


# --- health ---------------------------------------------------------------------------------------
def _stop(place: Destination) -> None:
    _lane(place, LaneState.STOPPED)


def _pause(place: Destination) -> None:
    _lane(place, LaneState.PAUSED)


def _back_off(place: Destination) -> None:
    _lane(place, LaneState.BACKOFF)


def _drain(place: Destination) -> None:
    _lane(place, LaneState.OPEN, drain_to=0)


def _disable(place: Destination) -> None:
    Destination.objects.filter(pk=place.pk).update(enabled=False)


def _remove(place: Destination) -> None:
    Destination.objects.filter(pk=place.pk).update(removed=True)


def _move_address(place: Destination) -> None:
    factories.item(factories.job(destination=place), state=ItemState.HELD)
    Destination.objects.filter(pk=place.pk).update(endpoint=2)


def _close(place: Destination) -> None:
    assert place.version is not None
    days = [DAYS[(clock.now().weekday() + 3) % 7]]
    windows = [{"days": days, "from": "00:00", "to": "00:00", "zone": "UTC"}]
    place.version.settings["windows"] = windows
    place.version.save()


ILL: dict[str, tuple[Callable[[Destination], None], bool]] = {
    "is stopped": (_stop, True),
    "is paused": (_pause, True),
    "does not answer": (_back_off, True),
    "is drained": (_drain, True),
    "is disabled": (_disable, True),
    "is no destination any more": (_remove, True),
    "holds objects back since its address changed": (_move_address, False),
    "is outside its windows": (_close, False),
}
"""What may be the matter with a member, and whether its studies leave it for that."""


@pytest.mark.parametrize("ill", ILL)
def test_a_member_that_is_ill_is_not_chosen_and_the_reason_says_so(
    places: dict[str, Destination], ill: str
) -> None:
    group = _balance(places)
    make_ill, is_left = ILL[ill]
    make_ill(places["b"])
    found = _assign(3)
    assert _names(found) == ["a", "c", "a"]
    assert all(one.reason == f"in turn; left out: b {ill}" for one in found)
    assert [one.ill for one in members.of(group)] == ["", ill, ""]
    assert [one.name for one in members.left(group)] == (["b"] if is_left else [])


def test_what_a_person_holds_makes_no_member_ill(places: dict[str, Destination]) -> None:
    factories.item(factories.job(destination=places["a"]), state=ItemState.HELD)
    assert not any(one.ill for one in members.of(_pool(places)))


def test_where_all_are_ill_the_first_waits(places: dict[str, Destination]) -> None:
    _pool(places)
    for place in places.values():
        _stop(place)
    (found,) = _assign()
    assert (found.member.name, found.reason) == (
        "a",
        "the first member; no member is well, so it waits there",
    )


def test_where_all_are_ill_they_wait_in_their_shares(places: dict[str, Destination]) -> None:
    _balance(places)
    _disable(places["a"])
    for name in "bc":
        _back_off(places[name])
    assert _names(_assign(4)) == ["b", "c", "b", "c"]


def test_one_that_waits_for_its_window_is_better_than_one_that_does_not_answer(
    places: dict[str, Destination],
) -> None:
    _pool(places)
    _back_off(places["a"])
    _close(places["b"])
    _stop(places["c"])
    assert _names(_assign()) == ["b"]


# --- balance --------------------------------------------------------------------------------------
def test_in_turn_each_member_gets_its_share(places: dict[str, Destination]) -> None:
    _balance(places)
    assert _names(_assign(7)) == list("abcabca")


def test_in_turn_also_within_one_batch(places: dict[str, Destination]) -> None:
    _balance(places)
    wanted = [(factories.study().pk, "pool") for _ in range(9)]
    found = groups.assigned(wanted)
    assert Counter(one.member.name for one in found.values()) == dict.fromkeys("abc", 3)


def test_least_open_work_chooses_who_has_least_and_takes_turns_among_equals(
    places: dict[str, Destination],
) -> None:
    _balance(places, "least_open")
    assert _names(_assign(3)) == ["a", "b", "c"]
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        job = factories.job(destination=places[name])
        for _ in range(count):
            factories.item(job)
        factories.item(job, state=ItemState.DELIVERED)
        factories.item(job, state=ItemState.PARKED)
    (found,) = _assign()
    assert (found.member.name, found.reason) == ("b", "least open work, 1 objects")
    JobItem.objects.filter(destination=places["a"]).update(state=ItemState.DELIVERED)
    assert _names(_assign()) == ["a"]


def test_by_hash_a_study_has_its_member_whatever_the_order_and_the_others(
    places: dict[str, Destination],
) -> None:
    group = _balance(places, "hash")
    before = {one.study_id: one.member.name for one in _assign(60)}
    assert min(Counter(before.values()).values()) > 5
    Assignment.objects.all().delete()
    _stop(places["b"])
    DestinationGroup.objects.filter(pk=group.pk).update(members=["c", "b", "a"], last=None)
    after = groups.assigned((study, "pool") for study in before)
    stayed = {study: one.member.name for (study, _name), one in after.items()}
    assert {study: name for study, name in stayed.items() if before[study] != "b"} == {
        study: name for study, name in before.items() if name != "b"
    }
    assert set(stayed.values()) == {"a", "c"}


# --- one study, one member ------------------------------------------------------------------------
def test_a_study_keeps_its_member(places: dict[str, Destination]) -> None:
    _balance(places)
    (first,) = _assign()
    _stop(places["a"])
    again = groups.assigned([(first.study_id, "pool")])
    assert again[first.study_id, "pool"] == first
    assert Assignment.objects.count() == 1


@committing
def test_two_who_assign_at_once_agree(places: dict[str, Destination]) -> None:
    _balance(places)
    studies = [factories.study().pk for _ in range(8)]

    def assign(_worker: int) -> dict[int, str]:
        try:
            with transaction.atomic():
                found = groups.assigned((study, "pool") for study in studies)
                return {study: one.member.name for (study, _name), one in found.items()}
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(assign, range(4)))

    assert all(one == said[0] for one in said)
    assert Assignment.objects.count() == len(studies)


# --- what routing makes of it ---------------------------------------------------------------------
def _arrive(site: Site, *numbers: int, **values: Any) -> list[Instance]:
    spooled = site.take(*(image(n, **values) for n in numbers))
    indexing.index(spooled)
    while routing.route_batch():
        pass
    ids = [item.receipt_id for item in spooled]
    return list(Instance.objects.filter(file_id__in=ids).order_by("id"))


def _pairs() -> list[tuple[str, str]]:
    rows = JobItem.objects.values_list("destination__name", "instance__sop_instance_uid")
    return sorted((name, uid.rsplit(".", 1)[1]) for name, uid in rows)


def _balanced() -> None:
    assert reckoning.reckon().gaps == []


def test_a_rule_sends_to_a_group_as_to_a_destination(
    site: Site, places: dict[str, Destination]
) -> None:
    _balance(places)
    factories.destination("disk")
    factories.rule("all", send=["pool", "disk"])
    _arrive(site, 1, 2, study=1)
    _arrive(site, 3, study=2)
    assert _pairs() == [
        ("a", "1"),
        ("a", "2"),
        ("b", "3"),
        ("disk", "1"),
        ("disk", "2"),
        ("disk", "3"),
    ]
    first = Decision.objects.earliest("pk")
    assert first.destinations == {"a": "all", "disk": "all"}
    assert first.groups == {"pool": {"member": "a", "why": "in turn"}}
    job = Job.objects.get(destination=places["b"])
    assert (job.rule, job.assignment) == ("all", Assignment.objects.get(study=job.study))
    _balanced()


def test_what_comes_later_goes_to_the_same_member(
    site: Site, places: dict[str, Destination]
) -> None:
    _balance(places)
    factories.rule("all", send=["pool"])
    _arrive(site, 1, study=1)
    _arrive(site, 2, study=2)
    _arrive(site, 3, study=1)
    assert _pairs() == [("a", "1"), ("a", "3"), ("b", "2")]
    _balanced()


def test_when_a_timer_fires_the_study_goes_to_one_member(
    site: Site, places: dict[str, Destination]
) -> None:
    _balance(places)
    factories.rule("whole", send=["pool"], trigger="study", quiet_seconds=60)
    _arrive(site, 1, 2, study=1)
    _arrive(site, 3, study=2)
    with clock.shifted(FOREVER):
        assert routing.fire_timers() == 2
    assert Counter(name for name, _uid in _pairs()) == {"a": 2, "b": 1}
    _balanced()


@pytest.mark.parametrize("send", [["a", "pool"], ["pool", "a"]])
def test_a_member_that_is_named_too_gets_it_once_and_for_both(
    site: Site, places: dict[str, Destination], send: list[str]
) -> None:
    _pool(places)
    factories.rule("all", send=send)
    _arrive(site, 1)
    assert _pairs() == [("a", "1")]
    item = JobItem.objects.get()
    assert item.job.assignment is None  # by name: it stays, whatever becomes of the group
    assert ItemShare.objects.get().assignment == Assignment.objects.get()
    _balanced()


def test_what_joins_an_item_of_another_is_noted_once(
    site: Site, places: dict[str, Destination]
) -> None:
    _pool(places)
    factories.group("other", members=[places["a"], places["c"]])
    factories.rule("first", send=["pool"], priority=1)
    factories.rule("late", send=["a", "other"], trigger="study", priority=2)
    _arrive(site, 1, 2)
    with clock.shifted(FOREVER):
        routing.fire_timers()
    assert _pairs() == [("a", "1"), ("a", "2")]
    pool = Assignment.objects.get(group__name="pool")
    assert set(JobItem.objects.values_list("job__assignment", flat=True)) == {pool.pk}
    shares = set(
        ItemShare.objects.values_list("item__instance__instance_number", "assignment__group__name")
    )
    assert {name for _number, name in shares} == {None, "other"}
    assert ItemShare.objects.count() == 4
    decision = Decision.objects.latest("pk")
    assert decision.destinations == {"a": "late"}
    assert decision.groups["other"]["member"] == "a"
    assert Study.objects.count() == 1
    _balanced()


def test_a_name_that_was_a_group_until_now_still_leads_somewhere(
    site: Site, places: dict[str, Destination]
) -> None:
    group = _pool(places)
    factories.rule("all", send=["pool"])
    DestinationGroup.objects.filter(pk=group.pk).update(removed=True)
    _arrive(site, 1)
    assert _pairs() == [("a", "1")]


def test_a_destination_of_the_name_of_a_group_that_is_gone_is_the_destination(
    site: Site, places: dict[str, Destination]
) -> None:
    factories.group("a", members=[places["b"]], removed=True)
    factories.rule("all", send=["a"])
    _arrive(site, 1)
    assert _pairs() == [("a", "1")]
