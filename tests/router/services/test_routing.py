"""Routing: marks answered once, rules in their order, timers that fire once, reasons kept."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any  # rule trees, and values by keyword

import pytest
from django.db import connection
from django_q.models import OrmQ

from router.models import (
    Decision,
    Instance,
    Job,
    JobItem,
    QuietTimer,
    RoutingDefaults,
    RoutingMark,
    Rule,
    RuleState,
    TimerItem,
)
from router.services import clock, decisions, indexing, reckoning, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)

MR = {"field": "Modality", "op": "equals", "value": "MR"}
CT = {"field": "Modality", "op": "equals", "value": "CT"}


@pytest.fixture(autouse=True)
def _places(site: Site) -> None:
    for name in ("pacs", "disk", "cloud"):
        factories.destination(name)


@pytest.fixture
def forward() -> Iterator[Any]:
    """Return a function that moves the clock on, for the rest of the test."""
    with ExitStack() as stack:
        yield lambda **by: stack.enter_context(clock.shifted(timedelta(**by)))


def _arrive(site: Site, *numbers: int, **values: Any) -> list[Instance]:
    """Index objects and route them."""
    spooled = site.take(*(image(n, **values) for n in numbers))
    indexing.index(spooled)
    while routing.route_batch():
        pass
    ids = [item.receipt_id for item in spooled]
    return list(Instance.objects.filter(file_id__in=ids).order_by("id"))


def _pairs() -> list[tuple[str, str]]:
    """Return what goes where: (destination, last part of the SOP Instance UID)."""
    rows = JobItem.objects.values_list("destination__name", "instance__sop_instance_uid")
    return sorted((name, uid.rsplit(".", 1)[1]) for name, uid in rows)


def _balanced() -> None:
    assert reckoning.reckon().gaps == []


def _results(decision: Decision) -> dict[str, str]:
    return {one["rule"]: one["result"] for one in decision.explanation}


# --- rules ----------------------------------------------------------------------------------------
def test_a_live_rule_sends(site: Site) -> None:
    factories.rule("all", send=["pacs"])
    _arrive(site, 1, 2)
    assert _pairs() == [("pacs", "1"), ("pacs", "2")]
    decision = Decision.objects.get()
    assert (decision.outcome, decision.destinations) == ("routed", {"pacs": "all"})
    assert (decision.instances_count, decision.chosen_count, decision.joined_count) == (2, 2, 0)
    assert Job.objects.get().rule == "all"
    assert set(RoutingMark.objects.values_list("decision", flat=True)) == {decision.pk}
    _balanced()


def test_shadow_draft_and_disabled_rules_send_nothing(site: Site) -> None:
    factories.rule("shadow", send=["pacs"], state=RuleState.SHADOW, stop=True, priority=1)
    factories.rule("draft", send=["pacs"], state=RuleState.DRAFT, stop=True, priority=2)
    factories.rule("off", send=["pacs"], enabled=False, stop=True, priority=3)
    factories.rule("live", send=["disk"], priority=4)
    _arrive(site, 1)
    assert _pairs() == [("disk", "1")]
    results = _results(Decision.objects.get())
    assert results["shadow"] == "matched"
    assert results["draft"] == "draft"
    assert results["off"] == "disabled"


def test_stop_ends_the_walk_in_the_order_of_priority(site: Site) -> None:
    factories.rule("third", send=["cloud"], priority=30)
    factories.rule("second", send=["disk"], priority=20, stop=True)
    factories.rule("first", send=["pacs"], priority=10)
    _arrive(site, 1)
    assert _pairs() == [("disk", "1"), ("pacs", "1")]
    decision = Decision.objects.get()
    assert [one["rule"] for one in decision.explanation] == ["first", "second", "third"]
    assert decision.explanation[2]["stopped_by"] == "second"


def test_a_rule_that_does_not_match_does_not_stop(site: Site) -> None:
    factories.rule("first", send=["pacs"], priority=1, stop=True, when=MR)
    factories.rule("second", send=["disk"], priority=2)
    _arrive(site, 1)
    assert _pairs() == [("disk", "1")]


def test_equal_priorities_go_by_name(site: Site) -> None:
    factories.rule("b", send=["disk"])
    factories.rule("a", send=["pacs"], stop=True)
    _arrive(site, 1)
    assert _pairs() == [("pacs", "1")]


def test_one_rule_to_many_destinations(site: Site) -> None:
    factories.rule("all", send=["pacs", "disk", "cloud"])
    _arrive(site, 1, 2)
    assert len(_pairs()) == 6
    assert Job.objects.count() == 3
    _balanced()


# --- priority -------------------------------------------------------------------------------------
def _priorities() -> dict[str, tuple[int, set[int]]]:
    """Return, by destination, the priority of its job and those of its items."""
    return {
        job.destination.name: (
            job.priority,
            set(job.items.values_list("priority", flat=True)),
        )
        for job in Job.objects.select_related("destination")
    }


def test_a_job_is_as_urgent_as_its_rule_says_or_else_its_destination(site: Site) -> None:
    factories.destination("night", settings={"urgency": "low"})
    factories.rule("plain", send=["pacs", "night"])
    factories.rule("stroke", send=["disk"], urgency="urgent")
    _arrive(site, 1, 2)
    assert _priorities() == {"pacs": (2, {2}), "night": (3, {3}), "disk": (1, {1})}


def test_of_two_rules_the_more_urgent_counts(site: Site) -> None:
    factories.rule("first", send=["pacs", "disk"], urgency="low", priority=1)
    factories.rule("second", send=["pacs"], urgency="urgent", priority=2)
    factories.rule("third", send=["disk"], priority=3)  # as the destination has it
    _arrive(site, 1)
    assert _priorities() == {"pacs": (1, {1}), "disk": (2, {2})}


def test_what_waits_is_hurried_when_a_more_urgent_rule_joins_it(site: Site, forward: Any) -> None:
    factories.rule("at-once", send=["pacs"], urgency="low", priority=1)
    factories.rule("whole", send=["pacs"], urgency="urgent", trigger="study", priority=2)
    _arrive(site, 1, 2)
    JobItem.objects.filter(instance__sop_instance_uid__endswith=".1").update(state="cancelled")
    assert _priorities() == {"pacs": (3, {3})}
    forward(seconds=61)
    assert routing.fire_timers() == 1
    rows = JobItem.objects.values_list("state", "priority")
    assert sorted(rows) == [("cancelled", 3), ("pending", 1)]
    _balanced()


def test_what_comes_later_has_the_priority_that_a_person_gave_the_job(site: Site) -> None:
    factories.rule("all", send=["pacs"])
    _arrive(site, 1)
    Job.objects.update(priority=1)
    _arrive(site, 2)
    assert _priorities() == {"pacs": (1, {1, 2})}


def test_two_rules_to_one_destination_send_once(site: Site) -> None:
    factories.rule("first", send=["pacs"], priority=1)
    factories.rule("second", send=["pacs", "disk"], priority=2)
    _arrive(site, 1)
    assert _pairs() == [("disk", "1"), ("pacs", "1")]
    assert Decision.objects.get().destinations == {"pacs": "first", "disk": "second"}
    _balanced()


def test_two_rules_to_one_destination_under_two_transforms_send_twice(site: Site) -> None:
    factories.rule("first", send=["pacs"], priority=1, transform="whole")
    factories.rule("again", send=["pacs"], priority=2, transform="whole")
    factories.rule("second", send=["pacs"], priority=3, transform="anonymous")
    (row,) = _arrive(site, 1)
    chosen = JobItem.objects.values_list("destination__name", "transform", "job__rule")
    assert set(chosen) == {("pacs", "whole", "first"), ("pacs", "anonymous", "second")}
    decision = Decision.objects.get()
    assert decision.rules_to("pacs") == ("first", "second")
    assert (decision.chosen_count, decision.joined_count) == (2, 0)
    _balanced()
    routing.reconsider([row.pk])
    routing.route_batch()
    last = Decision.objects.latest("pk")
    assert (last.chosen_count, last.joined_count, JobItem.objects.count()) == (2, 2, 2)
    _balanced()


def test_a_pair_chosen_earlier_is_joined(site: Site) -> None:
    factories.rule("all", send=["pacs"])
    rows = _arrive(site, 1, 2)
    factories.rule("more", send=["disk"])
    assert routing.reconsider([row.pk for row in rows]) == 2
    assert routing.route_batch() == 2
    assert _pairs() == [("disk", "1"), ("disk", "2"), ("pacs", "1"), ("pacs", "2")]
    last = Decision.objects.latest("pk")
    assert (last.chosen_count, last.joined_count) == (4, 2)
    assert Decision.objects.count() == 2  # the first one stays to be read
    _balanced()


@pytest.mark.parametrize(("unmatched", "outcome"), [("hold", "held"), ("archive", "archived")])
def test_what_no_rule_takes(site: Site, unmatched: str, outcome: str) -> None:
    RoutingDefaults.objects.update_or_create(pk=1, defaults={"unmatched": unmatched})
    factories.rule("mr", send=["pacs"], when=MR)
    _arrive(site, 1)
    decision = Decision.objects.get()
    assert (decision.outcome, decision.chosen_count) == (outcome, 0)
    assert _pairs() == []
    assert not RoutingMark.objects.undecided().exists()


def test_without_any_rule_a_decision_is_written_too(site: Site) -> None:
    _arrive(site, 1)
    assert Decision.objects.get().outcome == "held"


def test_instances_with_one_explanation_share_a_decision(site: Site) -> None:
    factories.rule("ct", send=["pacs"], when=CT)
    indexing.index(site.take(image(1), image(2), image(3, Modality="SR", series=2)))
    indexing.index(site.take(image(4, study=2)))
    assert routing.route_batch() == 4
    assert sorted(Decision.objects.values_list("instances_count", flat=True)) == [1, 1, 2]
    assert _pairs() == [("pacs", "1"), ("pacs", "2"), ("pacs", "4")]


def test_the_explanation_is_kept_with_the_value_seen(site: Site) -> None:
    factories.revision()
    factories.rule("mr", send=["pacs"], when={"all": [CT, MR]})
    _arrive(site, 1)
    decision = Decision.objects.get()
    (outcome,) = decision.explanation
    reason = outcome["reasons"][0]
    assert (reason["field"], reason["wanted"], reason["ok"]) == ("Modality", "MR", False)
    assert reason["seen"] == ["CT"]
    assert decision.revision_id == 1


@pytest.mark.parametrize("value", [b"A\0B", b"\xed\xa0\x80", b"\x1b$B\xff", b"\xff" * 900])
def test_an_odd_value_seen_does_not_stop_routing(site: Site, value: bytes) -> None:
    """PostgreSQL takes neither NULs nor half surrogates into JSON."""
    factories.rule("x", send=["pacs"], when={"field": "PatientID", "op": "equals", "value": "7"})
    _arrive(site, 1, PatientID=value, SpecificCharacterSet="ISO_IR 192")
    assert Decision.objects.get().outcome == "held"


def test_facts_of_the_association_count(site: Site) -> None:
    factories.rule(
        "ae", send=["pacs"], when={"field": "calling_ae", "op": "matches", "value": "CT*"}
    )
    factories.rule("src", send=["disk"], when={"field": "source", "op": "equals", "value": "x"})
    indexing.index(site.take(image(1), calling_ae="CT9", source="x"))
    indexing.index(site.take(image(2), calling_ae="MR9", source="y"))
    routing.route_batch()
    assert _pairs() == [("disk", "1"), ("pacs", "1")]


def test_the_rules_read_what_came_with_the_mark_and_no_file(site: Site) -> None:
    factories.rule("mr", send=["pacs"], when=MR)
    factories.rule("ct", send=["disk"], when=CT)
    indexing.index(site.take(image(1), image(2, Modality="MR")))
    for path in site.stored():
        path.unlink()
    assert routing.route_batch() == 2
    assert _pairs() == [("disk", "1"), ("pacs", "2")]
    assert not RoutingMark.objects.exclude(header=None).exists()  # and is not kept for ever


@pytest.mark.parametrize("packed", [None, b"", b"of another release"])
def test_a_mark_without_a_header_of_ours_has_the_file_read(
    site: Site, packed: bytes | None
) -> None:
    factories.rule("ct", send=["disk"], when=CT)
    indexing.index(site.take(image(1)))
    RoutingMark.objects.update(header=packed)
    assert routing.route_batch() == 1
    assert _pairs() == [("disk", "1")]


def test_a_header_too_large_to_keep_is_read_from_the_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "PACKED_LIMIT", 10)
    factories.rule("ct", send=["disk"], when=CT)
    indexing.index(site.take(image(1)))
    assert RoutingMark.objects.get().header is None
    assert routing.route_batch() == 1
    assert _pairs() == [("disk", "1")]


def test_a_file_that_cannot_be_read_is_tried_later_and_stops_no_other(
    site: Site, forward: Any
) -> None:
    factories.rule("all", send=["pacs"])
    indexing.index(site.take(image(1), image(2)))
    lost = site.objects / Instance.objects.get(sop_instance_uid__endswith=".3.1").location
    RoutingMark.objects.update(header=None)
    lost.rename(site.objects / "aside")
    assert routing.route_batch() == 2
    assert _pairs() == [("pacs", "2")]
    assert (routing.marks_due(), routing.route_batch()) == (False, 0)

    forward(seconds=2)
    assert (routing.marks_due(), routing.route_batch()) == (True, 1)
    (site.objects / "aside").rename(lost)
    forward(seconds=3)
    assert routing.route_batch() == 1
    assert _pairs() == [("pacs", "1"), ("pacs", "2")]


def test_an_object_whose_bytes_stay_away_is_held_with_the_problem(site: Site, forward: Any) -> None:
    factories.rule("all", send=["pacs"])
    indexing.index(site.take(image(1)))
    RoutingMark.objects.update(header=None)
    site.stored()[0].unlink()
    for _ in range(decisions.MOST_TRIES):
        assert routing.route_batch() == 1
        assert not Decision.objects.exists()
        forward(seconds=61)
    assert routing.route_batch() == 1
    decision = Decision.objects.get()
    assert decision.outcome == "held"
    assert "could not be read" in decision.problem
    assert _pairs() == []


def test_a_new_revision_is_used_at_once(site: Site) -> None:
    factories.revision()
    factories.rule("all", send=["pacs"])
    _arrive(site, 1)
    factories.rule("more", send=["disk"])
    _arrive(site, 2)  # the working copy of no revision is not in force
    factories.revision()
    _arrive(site, 3)
    assert _pairs() == [("disk", "3"), ("pacs", "1"), ("pacs", "2"), ("pacs", "3")]


def test_nothing_to_route(site: Site) -> None:
    assert routing.route_batch() == 0
    assert routing.oldest_undecided() is None
    assert not Decision.objects.exists()


def test_a_batch_takes_the_oldest(site: Site) -> None:
    indexing.index(site.take(*(image(n) for n in range(1, 6))))
    oldest = RoutingMark.objects.order_by("pk").first()
    assert oldest is not None
    assert routing.oldest_undecided() == oldest.created_at
    assert routing.route_batch(limit=2) == 2
    assert RoutingMark.objects.undecided().count() == 3
    oldest.refresh_from_db()
    assert oldest.decision is not None


@committing
def test_a_decision_rings_the_destinations(site: Site) -> None:
    factories.rule("all", send=["pacs", "disk"])
    _arrive(site, 1, 2)
    rung = [tuple(row.task["args"]) for row in OrmQ.objects.all() if "deliver" in row.task["func"]]
    pks = JobItem.objects.values_list("destination", flat=True)
    assert sorted(rung) == sorted((pk, 0) for pk in set(pks))


# --- timers ---------------------------------------------------------------------------------------
def _timed(trigger: str, **fields: Any) -> None:
    factories.rule("quiet", send=["pacs"], trigger=trigger, quiet_seconds=60, **fields)


def test_a_study_rule_waits_until_the_study_is_quiet(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1)
    assert Decision.objects.get().outcome == "waiting"
    forward(seconds=50)
    _arrive(site, 2, series=2)  # pushes back
    forward(seconds=50)
    assert (routing.timers_due(), routing.fire_timers()) == (False, 0)
    forward(seconds=11)
    assert (routing.timers_due(), routing.fire_timers()) == (True, 1)
    assert _pairs() == [("pacs", "1"), ("pacs", "2")]
    assert routing.fire_timers() == 0  # once
    assert not TimerItem.objects.exists()
    last = Decision.objects.latest("pk")
    assert (last.phase, last.outcome) == ("quiet", "routed")
    _balanced()


def test_a_header_is_kept_for_as_long_as_a_timer_needs_it(site: Site, forward: Any) -> None:
    _timed("study", when=CT)
    factories.rule("later", send=["disk"], trigger="series", quiet_seconds=600, when=CT)
    _arrive(site, 1)
    site.stored()[0].unlink()
    forward(seconds=61)
    assert routing.fire_timers() == 1
    assert RoutingMark.objects.exclude(header=None).count() == 1
    forward(seconds=600)
    assert routing.fire_timers() == 1
    assert _pairs() == [("disk", "1"), ("pacs", "1")]
    assert not RoutingMark.objects.exclude(header=None).exists()


def test_a_timer_whose_files_cannot_be_read_fires_later(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1)
    RoutingMark.objects.update(header=None)
    (lost,) = site.stored()
    lost.rename(site.objects / "aside")
    forward(seconds=61)
    assert routing.fire_timers() == 0
    assert routing.timers_due() is False
    (site.objects / "aside").rename(lost)
    forward(seconds=2)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1")]


def test_another_study_does_not_push_back(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1, study=1)
    forward(seconds=50)
    _arrive(site, 2, study=2)
    forward(seconds=11)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1")]


def test_a_series_rule_waits_for_each_series(site: Site, forward: Any) -> None:
    _timed("series")
    _arrive(site, 1, series=1)
    forward(seconds=50)
    _arrive(site, 2, series=2)
    forward(seconds=11)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1")]
    forward(seconds=50)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1"), ("pacs", "2")]


def test_an_instance_that_the_rule_does_not_take_pushes_back_too(site: Site, forward: Any) -> None:
    _timed("study", when=CT)
    _arrive(site, 1)
    forward(seconds=50)
    _arrive(site, 2, Modality="SR", series=2)
    forward(seconds=11)
    assert routing.fire_timers() == 0
    forward(seconds=50)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1")]


def test_the_cap_ends_the_waiting(site: Site, forward: Any) -> None:
    RoutingDefaults.objects.update_or_create(pk=1, defaults={"quiet_cap_seconds": 100})
    _timed("study")
    _arrive(site, 1)
    forward(seconds=55)
    _arrive(site, 2)
    timer = QuietTimer.objects.get()
    assert timer.due_at == timer.cap_at
    forward(seconds=46)
    assert routing.fire_timers() == 1


def test_a_late_instance_sends_only_itself(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1, 2)
    forward(seconds=61)
    assert routing.fire_timers() == 1
    _arrive(site, 3)
    assert QuietTimer.objects.count() == 2
    assert list(TimerItem.objects.values_list("instance__sop_instance_uid", flat=True)) == [
        image(3).sop_instance_uid
    ]
    forward(seconds=61)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1"), ("pacs", "2"), ("pacs", "3")]
    assert Decision.objects.latest("pk").chosen_count == 1
    _balanced()


def test_an_undecided_arrival_keeps_the_timer_from_firing(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1)
    indexing.index(site.take(image(2)))
    forward(seconds=61)
    assert routing.fire_timers() == 0
    routing.route_batch()
    assert routing.fire_timers() == 0  # pushed back
    forward(seconds=61)
    assert routing.fire_timers() == 1
    assert len(_pairs()) == 2


def test_instance_and_study_rules_to_one_destination_send_once(site: Site, forward: Any) -> None:
    _timed("study")
    factories.rule("now", send=["pacs"])
    _arrive(site, 1)
    assert _pairs() == [("pacs", "1")]
    forward(seconds=61)
    assert routing.fire_timers() == 1
    assert _pairs() == [("pacs", "1")]
    assert Decision.objects.latest("pk").joined_count == 1
    _balanced()


def test_a_rule_changed_meanwhile_decides_as_it_is_when_it_fires(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1)
    Rule.objects.update(send=["disk"])
    forward(seconds=61)
    assert routing.fire_timers() == 1
    assert _pairs() == [("disk", "1")]


def test_a_rule_that_is_gone_when_it_fires_holds_the_instances(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1)
    Rule.objects.all().delete()
    forward(seconds=61)
    assert routing.fire_timers() == 1
    last = Decision.objects.latest("pk")
    assert (last.phase, last.outcome) == ("quiet", "held")
    assert _pairs() == []


# --- two routers ----------------------------------------------------------------------------------
def _together(count: int, work: Any) -> list[int]:
    start = threading.Barrier(count)

    def run(_number: int) -> int:
        start.wait(20)
        try:
            return int(work())
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count), timeout=90))


def _route_all() -> int:
    """Route until nothing is left, as the task does."""
    done = 0
    while True:
        try:
            if not (taken := routing.route_batch(limit=3)):
                return done
            done += taken
        except routing.Overtaken:
            continue


@committing
def test_routers_at_the_same_time_answer_each_mark_once(site: Site) -> None:
    factories.rule("all", send=["pacs", "disk"])
    _timed("study")
    indexing.index(site.take(*(image(n, study=n % 3) for n in range(1, 31))))
    assert sum(_together(4, _route_all)) == 30
    assert len(_pairs()) == JobItem.objects.count() == 60
    assert sum(Decision.objects.values_list("instances_count", flat=True)) == 30
    assert QuietTimer.objects.count() == 3
    assert TimerItem.objects.count() == 30
    _balanced()


@committing
def test_a_timer_fires_once_however_many_look(site: Site, forward: Any) -> None:
    _timed("study")
    _arrive(site, 1, 2)
    forward(seconds=61)
    assert sum(_together(4, routing.fire_timers)) == 1
    assert _pairs() == [("pacs", "1"), ("pacs", "2")]
    assert Decision.objects.filter(phase="quiet").count() == 1


@committing
def test_many_timers_fire_while_others_write(site: Site, forward: Any) -> None:
    """More timers than one page of rows; another connection commits between any two of them."""
    _timed("series")
    indexing.index(site.take(*(image(n, study=1, series=n) for n in range(1, 106))))
    _route_all()
    forward(seconds=61)
    stop, writes = threading.Event(), list[int]()

    def write() -> None:
        try:
            while not stop.wait(0.002):  # SQLite gives its lock to whoever asks first
                factories.heartbeat()
                writes.append(1)
        finally:
            connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        fired = routing.fire_timers(limit=1000)
    finally:
        stop.set()
        writer.join()
    assert writes
    assert fired == len(_pairs()) == 105


def test_configuration_is_kept_between_batches(site: Site) -> None:
    factories.revision()
    assert decisions.configuration() is decisions.configuration()
