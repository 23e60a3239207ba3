"""What a result does to an item, its attempt and its lane; and that a lost lease does nothing."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from router.destinations.base import Result
from router.destinations.outcomes import Outcome
from router.models import (
    Attempt,
    AttemptOutcome,
    HourCount,
    ItemState,
    JobItem,
    Lane,
    LaneSlot,
    LaneState,
)
from router.services import claims, clock, results
from router.services.claims import Claim
from tests import factories

S, A = ItemState, AttemptOutcome
OWNER = "mine"

pytestmark = pytest.mark.django_db


def _claim(*, tries: int = 0) -> Claim:
    """Make a claim of one item, as a drain holds it while it sends."""
    until = clock.now() + claims.LEASE
    item = factories.item(state=S.LEASED, owner=OWNER, fence=4, lease_until=until, tries=tries)
    version = item.destination.version
    assert version is not None
    version.settings |= {"retry": ["30s", "60s"]}
    version.save(update_fields=["settings"])
    slot = LaneSlot.objects.create(destination=item.destination, number=0, owner="slot")
    factories.attempt(item, fence=4, outcome=A.RUNNING, ended_at=None, status=None)
    return Claim(OWNER, slot, item.destination, claims.held(JobItem.objects.filter(pk=item.pk)))


def _result(claim: Claim, outcome: Outcome, status: int | None = 0xC000) -> Result:
    (item_id,) = claim.items
    return Result(item_id, outcome, "So it was.", status=status, bytes_sent=77)


def _item(claim: Claim) -> JobItem:
    return JobItem.objects.get(pk__in=claim.items)


OUTCOMES = {
    Outcome.DELIVERED: (S.DELIVERED, 0, A.SUCCESS),
    Outcome.WARNING: (S.DELIVERED_WITH_WARNING, 0, A.WARNING),
    Outcome.RETRY: (S.WAITING, 1, A.REFUSED),
    Outcome.FEW_TRIES: (S.WAITING, 1, A.REFUSED),
    Outcome.DATA_ERROR: (S.PARKED, 1, A.REFUSED),
    Outcome.CONFIGURATION: (S.PARKED, 1, A.REFUSED),
    Outcome.UNKNOWN: (S.WAITING, 1, A.UNKNOWN),
    Outcome.NOT_SENT: (S.PENDING, 0, A.NOT_SENT),
    Outcome.EXCLUDED: (S.CANCELLED, 0, A.NOT_SENT),
}


def test_the_table_knows_every_outcome() -> None:
    assert set(OUTCOMES) == set(Outcome)


@pytest.mark.parametrize("outcome", Outcome, ids=str)
def test_finishes_by_the_table(outcome: Outcome) -> None:
    claim = _claim()
    state, tries, attempted = OUTCOMES[outcome]

    assert results.finish(claim, [_result(claim, outcome)]) == 1

    item, attempt = _item(claim), Attempt.objects.get()
    assert (item.state, item.tries, item.fence) == (state, tries, 4)
    assert (item.owner, item.lease_until) == ("", None)
    assert (attempt.outcome, attempt.bytes_sent) == (attempted, 77)
    assert attempt.ended_at is not None
    assert (item.due_at is not None) is (state == S.WAITING)
    assert (item.finished_at is not None) is (state in {S.DELIVERED, S.DELIVERED_WITH_WARNING})


def _rows() -> list[list[Mapping[str, object]]]:
    """Return what may not change through a worker that is late."""
    return [
        list(JobItem.objects.order_by("pk").values()),
        list(Attempt.objects.order_by("pk").values()),
        list(HourCount.objects.values()),
    ]


@pytest.mark.parametrize("now", [S.LEASED, S.PENDING, S.DELIVERED, S.PARKED, S.HELD, S.CANCELLED])
@pytest.mark.parametrize("outcome", Outcome, ids=str)
def test_a_lost_lease_changes_nothing(outcome: Outcome, now: ItemState) -> None:
    claim = _claim()
    owner = "another" if now == S.LEASED else ""
    JobItem.objects.update(state=now, owner=owner, fence=5)
    Attempt.objects.update(outcome=A.WORKER_LOST, ended_at=clock.now())
    before = _rows()

    assert results.finish(claim, [_result(claim, outcome)]) == 0

    assert _rows() == before


def test_a_transport_error_is_no_refusal() -> None:
    claim = _claim()
    results.finish(claim, [_result(claim, Outcome.RETRY, None)])
    assert Attempt.objects.get().outcome == A.TRANSPORT


@pytest.mark.parametrize(
    ("earlier", "state"),
    [
        ([0xC000, 0xC000], S.PARKED),
        ([0xC000], S.WAITING),
        ([0xA700, 0xA700, 0xA700], S.WAITING),  # a full destination uses up none of the few tries
        ([0xA700, 0xC000, None, 0xC001], S.PARKED),
    ],
)
def test_few_tries_counts_its_own_kind_of_answer(
    earlier: list[int | None], state: ItemState
) -> None:
    claim = _claim(tries=len(earlier))
    item = _item(claim)
    for fence, status in enumerate(earlier):
        outcome = A.REFUSED if status else A.TRANSPORT
        factories.attempt(item, fence=fence, outcome=outcome, status=status)
    results.finish(claim, [_result(claim, Outcome.FEW_TRIES)])
    assert _item(claim).state == state


def test_few_tries_begin_anew_after_a_person_retried() -> None:
    claim = _claim(tries=1)
    for fence, status in enumerate([0xC000, 0xC000, 0xC000, None]):
        outcome = A.REFUSED if status else A.TRANSPORT
        factories.attempt(_item(claim), fence=fence, outcome=outcome, status=status)
    results.finish(claim, [_result(claim, Outcome.FEW_TRIES)])
    assert _item(claim).state == S.WAITING


@pytest.mark.parametrize(("tries", "pause"), [(0, 30), (1, 60), (9, 60)])
def test_a_retry_waits_by_the_table_of_its_destination(tries: int, pause: int) -> None:
    claim = _claim(tries=tries)
    began = clock.now()
    results.finish(claim, [_result(claim, Outcome.RETRY)])
    due = _item(claim).due_at
    assert due is not None
    assert timedelta(seconds=pause * 0.9) <= due - began <= timedelta(seconds=pause * 1.1 + 20)


def test_an_answer_of_the_whole_destination_stops_its_lane() -> None:
    claim = _claim(tries=2)
    (item_id,) = claim.items
    rejected = Result(item_id, Outcome.CONFIGURATION, "Unknown here.", lane="configuration")
    results.finish(claim, [rejected])
    assert (_item(claim).state, _item(claim).tries) == (S.PENDING, 2)
    assert Lane.objects.get().state == LaneState.STOPPED
