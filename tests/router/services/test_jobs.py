"""What a person does with items and lanes: what changes, what is audited, who is rung."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from django_q.models import OrmQ

from router.models import (
    AuditEvent,
    Bell,
    DecisionOutcome,
    ItemState,
    JobItem,
    Lane,
    LaneState,
    Priority,
    RoutingMark,
)
from router.models.jobs import JobItemQuerySet
from router.services import jobs
from router.services.actors import Actor
from tests import factories

S = ItemState
ANN = Actor("ann", address="10.0.0.9")
Verb = Callable[[JobItemQuerySet], int]

pytestmark = pytest.mark.django_db

VERBS: dict[str, tuple[Verb, set[ItemState], ItemState, bool]] = {
    "items.retried": (lambda i: jobs.retry(i, actor=ANN), {S.PARKED, S.WAITING}, S.PENDING, True),
    "items.held": (lambda i: jobs.hold(i, actor=ANN), {S.PENDING, S.WAITING}, S.HELD, False),
    "items.released": (lambda i: jobs.release(i, actor=ANN), {S.HELD}, S.PENDING, True),
    "items.cancelled": (
        lambda i: jobs.cancel(i, actor=ANN),
        {S.PENDING, S.WAITING, S.HELD, S.PARKED},
        S.CANCELLED,
        False,
    ),
}
"""By audit event: the verb, where it is allowed, where it leads, and whether it rings."""


def test_a_priority_is_that_of_the_job_and_of_what_is_not_finished() -> None:
    job = factories.job()
    items = {state: factories.item(job, state=state) for state in S}
    other = factories.item()
    urgent = Priority.URGENT

    count = jobs.prioritise(JobItem.objects.filter(job=job), priority=urgent, actor=ANN)

    finished = {S.DELIVERED, S.DELIVERED_WITH_WARNING, S.CANCELLED}
    found = {state: JobItem.objects.get(pk=item.pk).priority for state, item in items.items()}
    assert found == {state: Priority.NORMAL if state in finished else urgent for state in S}
    assert count == len(S) - len(finished)
    job.refresh_from_db()
    other.refresh_from_db()
    assert (job.priority, other.priority) == (urgent, Priority.NORMAL)
    audited = AuditEvent.objects.get()
    assert audited.event == "items.prioritised"
    assert audited.details == {"count": count, "priority": "Urgent"}
    again = jobs.prioritise(JobItem.objects.filter(job=job), priority=urgent, actor=ANN)
    assert (again, AuditEvent.objects.count()) == (0, 1)


@pytest.mark.parametrize("event", VERBS)
def test_counts_changes_and_audits_what_may_change(event: str) -> None:
    verb, allowed, after, _rings = VERBS[event]
    job = factories.job()
    items = {state: factories.item(job, state=state) for state in S}

    assert verb(JobItem.objects.filter(job=job)) == len(allowed)

    states = {state: JobItem.objects.get(pk=item.pk).state for state, item in items.items()}
    assert states == {state: after if state in allowed else state for state in S}
    audited = AuditEvent.objects.get()
    assert (audited.event, audited.actor, audited.remote_address) == (event, "ann", "10.0.0.9")
    assert audited.details == {"count": len(allowed)}


@pytest.mark.parametrize("event", VERBS)
def test_nothing_changed_is_nothing_audited(event: str) -> None:
    factories.item(state=S.DELIVERED)
    assert VERBS[event][0](JobItem.objects.all()) == 0
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("event", VERBS)
def test_rings_the_destination_where_items_may_leave_now(event: str) -> None:
    verb, allowed, _after, rings = VERBS[event]
    item = factories.item(state=min(allowed))
    verb(JobItem.objects.all())
    expected = {f"deliver:{item.destination_id}:0"} if rings else set()
    assert set(Bell.objects.filter(rung=True).values_list("key", flat=True)) == expected
    assert OrmQ.objects.count() == len(expected)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("event", VERBS)
def test_two_who_act_on_the_same_items_at_once_change_each_once(event: str) -> None:
    """The second finds nothing left to change; neither sees an error."""
    verb, allowed, after, _rings = VERBS[event]
    job = factories.job()
    for _ in range(20):
        factories.item(job, state=min(allowed))
    together = threading.Barrier(2)

    def act(order: str) -> int:
        try:
            together.wait(10)
            return verb(JobItem.objects.filter(job=job, state=min(allowed)).order_by(order))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as people:
        counts = sorted(people.map(act, ["pk", "-pk"]))

    assert counts == [0, 20]
    assert set(JobItem.objects.values_list("state", flat=True)) == {after}
    assert AuditEvent.objects.count() == 1


def test_who_holds_or_cancels_is_named_on_the_item() -> None:
    held, cancelled = factories.item(), factories.item()
    jobs.hold(JobItem.objects.filter(pk=held.pk), actor=ANN)
    jobs.cancel(JobItem.objects.filter(pk=cancelled.pk), actor=ANN)
    reasons = JobItem.objects.order_by("pk").values_list("reason", flat=True)
    assert list(reasons) == ["Held by ann.", "Cancelled by ann."]


@pytest.mark.parametrize("state", [s for s in LaneState if s != LaneState.OPEN], ids=str)
def test_resume_opens_a_lane_at_once(state: LaneState) -> None:
    row = factories.destination(lane={"state": state, "failures": 4, "reason": "why"})
    assert jobs.resume_lane(row, actor=ANN)
    lane = Lane.objects.get()
    assert (lane.state, lane.failures, lane.reason, lane.resume_at) == ("open", 0, "", None)
    assert AuditEvent.objects.get().event == "lane.resumed"
    assert not jobs.resume_lane(row, actor=ANN)
    assert AuditEvent.objects.count() == 1


def test_pause_stops_a_lane_once() -> None:
    row = factories.destination()
    assert jobs.pause_lane(row, actor=ANN)
    assert not jobs.pause_lane(row, actor=ANN)
    lane = Lane.objects.get()
    assert (lane.state, lane.reason) == (LaneState.PAUSED, "Paused by ann.")
    audited = AuditEvent.objects.get()
    assert (audited.event, audited.target) == ("lane.paused", f"destination {row.name}")


def test_route_again_asks_anew_for_what_no_rule_took() -> None:
    study = factories.study()
    series = factories.series(study)
    held = factories.decision(study, outcome=DecisionOutcome.HELD)
    kept = factories.decision(study, outcome=DecisionOutcome.ROUTED)
    asked = factories.mark(factories.instance(series), decision=held)
    left = factories.mark(factories.instance(series), decision=kept)
    other = factories.mark(decision=factories.decision(outcome=DecisionOutcome.HELD))
    assert jobs.route_again(study, actor=ANN) == 1
    decided = dict(RoutingMark.objects.values_list("pk", "decision_id"))
    assert decided == {asked.pk: None, left.pk: kept.pk, other.pk: other.decision_id}
    audited = AuditEvent.objects.get()
    assert audited.study_instance_uid == study.study_instance_uid
