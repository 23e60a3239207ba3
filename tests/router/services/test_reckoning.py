"""The reckoning finds each planted gap, and nothing where everything is in its place."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F
from pytest_django.fixtures import Settings

from router import storage
from router.models import (
    Attempt,
    AttemptOutcome,
    Commitment,
    CounterKind,
    Decision,
    HourCount,
    Instance,
    ItemState,
    JobItem,
    LaneState,
    Proof,
    ProofAttempt,
    Receipt,
    ReceiptOutcome,
    RoutingMark,
    Series,
    Study,
)
from router.services import clock, reckoning
from tests import deliveries, factories

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Ledger:
    """Three delivered objects of one study, and where they lie."""

    objects: storage.FileStorage
    items: list[JobItem]

    @property
    def instance(self) -> Instance:
        return self.items[0].instance

    @property
    def path(self) -> Path:
        return self.objects.root / self.instance.location


@pytest.fixture
def ledger(settings: Settings, tmp_path: Path) -> Ledger:
    objects = deliveries.fresh_storage(settings, tmp_path)
    items = deliveries.chosen(factories.destination(), tmp_path, 3, state=ItemState.DELIVERED)
    for item in items:
        deliveries.arrived(item)
    return Ledger(objects, items)


def _gaps(*, deep: bool = False) -> list[tuple[str, str]]:
    return reckoning.reckon(deep=deep).gaps


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_ledger_has_no_gap(ledger: Ledger, *, deep: bool) -> None:
    found = reckoning.reckon(deep=deep)
    assert found.gaps == []
    assert (found.counts["acknowledged"], found.counts["current"], found.counts["files"]) == (
        3,
    ) * 3
    assert (found.counts["items delivered"], found.counts["pairs chosen"]) == (3, 3)


def _grow(ledger: Ledger) -> None:
    with ledger.path.open("ab") as file:
        file.write(b"\0\0")


def _shrink(ledger: Ledger) -> None:
    ledger.path.write_bytes(ledger.path.read_bytes()[:-2])


def _stranger(ledger: Ledger) -> None:
    ledger.path.with_name("0" * 32 + ".dcm").write_bytes(b"nobody's")


def _lost_row(ledger: Ledger) -> None:
    """An instance row goes, with all that hangs on it; its file and its receipt stay."""
    pk = ledger.instance.pk
    Attempt.objects.filter(item__instance=pk).delete()
    JobItem.objects.filter(instance=pk).delete()
    RoutingMark.objects.filter(instance=pk).delete()
    Receipt.objects.filter(instance=pk).update(instance=None)
    Instance.objects.filter(pk=pk).delete()


def _without_receipt(ledger: Ledger) -> None:
    Receipt.objects.filter(instance=ledger.instance).delete()


def _unmarked(ledger: Ledger) -> None:
    RoutingMark.objects.filter(instance=ledger.instance).delete()


def _undecided(ledger: Ledger) -> None:
    marks = RoutingMark.objects.filter(instance=ledger.instance)
    marks.update(decision=None, created_at=clock.now() - timedelta(minutes=2))


def _missing_item(ledger: Ledger) -> None:
    Attempt.objects.filter(item=ledger.items[0]).delete()
    ledger.items[0].delete()


def _swapped_items(ledger: Ledger) -> None:
    """One decision lacks an item and another has one too many: the sums agree."""
    other = factories.decision(ledger.instance.study, chosen_count=0, instances_count=0)
    JobItem.objects.filter(pk=ledger.items[0].pk).update(decision=other)


def _no_attempt(ledger: Ledger) -> None:
    Attempt.objects.filter(item=ledger.items[0]).delete()


def _only_a_failed_attempt(ledger: Ledger) -> None:
    Attempt.objects.filter(item=ledger.items[0]).update(outcome=AttemptOutcome.REFUSED)


def _hanging_attempt(ledger: Ledger) -> None:
    factories.attempt(ledger.items[0], outcome=AttemptOutcome.RUNNING, ended_at=None)


def _wrong_count(ledger: Ledger) -> None:
    Study.objects.update(instances_count=4)


def _wrong_bytes(ledger: Ledger) -> None:
    Study.objects.update(bytes=1)


def _wrong_series_count(ledger: Ledger) -> None:
    Series.objects.update(instances_count=2)


def _called_verified(ledger: Ledger) -> None:
    """Called verified, and nobody was asked."""
    JobItem.objects.filter(pk=ledger.items[0].pk).update(proof="verified")


def _asked(ledger: Ledger, *outcomes: str, state: str = "proven", proof: str = "verified") -> None:
    """Called proven after these answers."""
    item, now = ledger.items[0], clock.now()
    JobItem.objects.filter(pk=item.pk).update(proof=proof)
    Proof.objects.create(
        item=item, destination=item.destination, study=item.job.study, state=state, delivery=0
    )
    for fence, outcome in enumerate(outcomes, 1):
        ProofAttempt.objects.create(
            item=item,
            fence=fence,
            delivery=0,
            grade="verified",
            outcome=outcome,
            started_at=now,
            ended_at=now + timedelta(seconds=fence),
        )


def _denied_last(ledger: Ledger) -> None:
    _asked(ledger, "proven", "failed")


def _proven_before(ledger: Ledger) -> None:
    """What was said is of an earlier delivery."""
    _asked(ledger, "proven")
    ProofAttempt.objects.update(delivery=7)


def _more_than_was_said(ledger: Ledger) -> None:
    _asked(ledger, "proven", proof="committed")


def _proven_and_not_called_so(ledger: Ledger) -> None:
    _asked(ledger, "proven", proof="accepted")


def _proof_of_nothing(ledger: Ledger) -> None:
    """The item is not delivered any more, and its proof still waits."""
    _asked(ledger, state="waiting", proof="accepted")
    Proof.objects.update(delivery=7)


def _forgotten_proof(ledger: Ledger) -> None:
    """The destination needs more than it said, and nothing asks for it."""
    version = ledger.items[0].destination.version
    assert version is not None
    version.settings["proof"] = "verified"
    version.save(update_fields=["settings"])
    _asked(ledger, "proven")
    last = ledger.items[2]
    Proof.objects.create(item=last, destination=last.destination, study=last.job.study, delivery=0)


def _hanging_question(ledger: Ledger) -> None:
    _asked(ledger, "proven", "")


def _unsettled_report(ledger: Ledger) -> None:
    then, version = clock.now() - timedelta(hours=1), ledger.items[0].destination.version
    assert version is not None
    Commitment.objects.create(
        transaction_uid="2.25.1",
        destination=ledger.items[0].destination,
        version=version,
        state="reported",
        references_count=1,
        requested_at=then,
        until=then,
        reported_at=then,
    )


def _miscounted_arrivals(_ledger: Ledger) -> None:
    HourCount.objects.filter(kind=CounterKind.RECEIVED).update(objects_count=2)


def _miscounted_bytes(_ledger: Ledger) -> None:
    HourCount.objects.filter(kind=CounterKind.DELIVERED).update(bytes=1)


def _counted_in_another_hour(_ledger: Ledger) -> None:
    delivered = HourCount.objects.filter(kind=CounterKind.DELIVERED)
    delivered.update(hour=F("hour") - timedelta(hours=1))


def _counted_for_another_source(_ledger: Ledger) -> None:
    HourCount.objects.filter(kind=CounterKind.RECEIVED).update(source="mr-1")


PLANTED: dict[str, tuple[Callable[[Ledger], object], set[str], str]] = {
    "a deleted file": (lambda ledger: ledger.path.unlink(), {"files"}, "has no file"),
    "a longer file": (_grow, {"files"}, "bytes, not"),
    "a shorter file": (_shrink, {"files"}, "bytes, not"),
    "a file of nobody": (_stranger, {"files"}, "has no row"),
    "a lost row": (_lost_row, {"objects", "files", "pairs", "studies", "counts"}, "no object row"),
    "an object without receipt": (_without_receipt, {"objects", "counts"}, "has no receipt"),
    "an unmarked object": (_unmarked, {"decisions"}, "never marked"),
    "an undecided mark": (_undecided, {"decisions"}, "wait for a decision"),
    "a missing item": (_missing_item, {"pairs", "counts"}, "chose 3, 2 items"),
    "items of the wrong decision": (_swapped_items, {"pairs"}, "chose 0, 1 items"),
    "a delivery without attempt": (_no_attempt, {"attempts", "counts"}, "no attempt says so"),
    "a delivery that was refused": (
        _only_a_failed_attempt,
        {"attempts", "counts"},
        "no attempt says so",
    ),
    "an attempt that hangs": (_hanging_attempt, {"attempts"}, "never ended"),
    "a wrong count of a study": (_wrong_count, {"studies"}, "says 4"),
    "wrong bytes of a study": (_wrong_bytes, {"studies"}, "says 1 for bytes"),
    "arrivals miscounted": (_miscounted_arrivals, {"counts"}, "says 2 objects"),
    "bytes miscounted": (_miscounted_bytes, {"counts"}, "(1 bytes) delivered"),
    "the wrong hour": (_counted_in_another_hour, {"counts"}, "says 0 objects (0 bytes) delivered"),
    "the wrong source": (_counted_for_another_source, {"counts"}, "received of mr-1; 0 objects"),
    "a wrong count of a series": (_wrong_series_count, {"studies"}, "says 2"),
    "a proof that nobody gave": (_called_verified, {"proofs"}, "called verified and no answer"),
    "a proof that was denied": (_denied_last, {"proofs"}, "the last answer denies it"),
    "a proof of an earlier delivery": (_proven_before, {"proofs"}, "no answer says so"),
    "more proof than was given": (_more_than_was_said, {"proofs"}, "called committed"),
    "a proof without its item": (_proven_and_not_called_so, {"proofs"}, "the item is not"),
    "a proof of nothing": (_proof_of_nothing, {"proofs"}, "is waiting and the item is not"),
    "a forgotten proof": (_forgotten_proof, {"proofs"}, "nothing asks for its proof"),
    "a question that hangs": (_hanging_question, {"proofs"}, "never ended"),
    "a report that lies about": (_unsettled_report, {"proofs"}, "was never settled"),
}
"""Each gap: how it is planted, under which kinds it shows, and what one sentence says."""


@pytest.mark.parametrize("what", PLANTED)
def test_finds(what: str, ledger: Ledger) -> None:
    plant, kinds, sentence = PLANTED[what]
    plant(ledger)
    found = _gaps()
    assert {kind for kind, _ in found} == kinds
    assert any(sentence in text for _, text in found)


def test_finds_changed_bytes_only_when_it_looks_deep(ledger: Ledger) -> None:
    data = bytearray(ledger.path.read_bytes())
    data[-5] ^= 1
    ledger.path.write_bytes(data)
    assert _gaps() == []
    uid = ledger.instance.sop_instance_uid
    assert _gaps(deep=True) == [("hashes", f"instance {uid} has changed on storage")]


def test_a_duplicate_and_a_refusal_leave_the_balance_closed(ledger: Ledger) -> None:
    again = factories.receipt(ledger.instance, uid="d" * 32, outcome=ReceiptOutcome.DUPLICATE)
    refused = factories.receipt(ledger.instance, uid="e" * 32, outcome=ReceiptOutcome.REFUSED)
    deliveries.tally(again)
    deliveries.tally(refused)
    Receipt.objects.filter(pk=refused.pk).update(instance=None)
    found = reckoning.reckon()
    assert found.gaps == []
    assert (found.counts["acknowledged"], found.counts["duplicates"]) == (4, 1)


def test_a_fresh_mark_is_no_gap(ledger: Ledger) -> None:
    RoutingMark.objects.update(decision=None)
    JobItem.objects.update(decision=None)
    Decision.objects.all().delete()
    assert _gaps() == []


def test_names_what_is_still_to_be_done(ledger: Ledger) -> None:
    assert reckoning.unfinished() == {}
    job = ledger.items[0].job
    JobItem.objects.filter(pk=ledger.items[0].pk).update(state=ItemState.LEASED)
    JobItem.objects.filter(pk=ledger.items[1].pk).update(state=ItemState.PENDING)
    RoutingMark.objects.filter(instance=ledger.instance).update(decision=None)
    assert reckoning.unfinished() == {
        "undecided marks": 1,
        "due items": 1,
        "items being sent": 1,
    }
    lane = job.destination.lane
    lane.state = LaneState.STOPPED
    lane.save(update_fields=["state"])
    assert "due items" not in reckoning.unfinished()
