"""Proofs from the delivery to their end: verified, committed, missing, unanswered, contradicted."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from router import storage
from router.models import (
    AuditEvent,
    Commitment,
    CommitmentState,
    CounterKind,
    Destination,
    HourCount,
    Instance,
    ItemState,
    JobItem,
    Lane,
    LaneState,
    Proof,
    ProofAttempt,
    ProofState,
)
from router.services import clock, commitments, delivery, jobs, proofs, proving, reckoning
from router.services.actors import SYSTEM
from tests import deliveries, factories
from tests.commitments import Committer, Manner

S, P = ItemState, ProofState
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
USUAL = {"proof_after": "1m", "proof_retry": ["10m", "20m"], "commit_wait": "5s"}
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def objects(settings: Settings, tmp_path: Path) -> storage.FileStorage:
    return deliveries.fresh_storage(settings, tmp_path)


@pytest.fixture
def archive() -> Iterator[Committer]:
    with Committer() as running:
        yield running


def node(archive: Committer, grade: str, **changes: object) -> Destination:
    return deliveries.node(archive.settings, **{**USUAL, "proof": grade, **changes})


def send(destination: Destination) -> int:
    return delivery.drain(destination.pk, 0, stop=lambda: False)


def prove(destination: Destination, after: timedelta = 2 * MINUTE) -> int:
    with clock.shifted(after):
        return proving.drain(destination.pk, stop=lambda: False)


def again(items: list[JobItem]) -> list[JobItem]:
    rows = JobItem.objects.in_bulk([item.pk for item in items])
    return [rows[item.pk] for item in items]


def grades(items: list[JobItem]) -> list[str]:
    return [item.proof for item in again(items)]


def proof_states(items: list[JobItem]) -> list[str]:
    return [Proof.objects.get(item=item).state for item in items]


def outcomes(item: JobItem) -> list[str]:
    return list(item.proof_attempts.order_by("fence").values_list("outcome", flat=True))


def balance() -> list[tuple[str, str]]:
    return reckoning.reckon(deep=True).gaps


def uids(items: list[JobItem]) -> list[str]:
    return [item.instance.sop_instance_uid for item in items]


GRADES = pytest.mark.parametrize("grade", ["verified", "committed"])


@GRADES
def test_what_is_there_is_proven_to_the_grade_that_is_needed(
    archive: Committer, tmp_path: Path, grade: str
) -> None:
    pacs = node(archive, grade)
    items = deliveries.chosen(pacs, tmp_path, 5)
    send(pacs)
    assert grades(items) == ["accepted"] * 5
    assert proof_states(items) == [P.WAITING] * 5
    assert prove(pacs, timedelta()) == 0, "it is not asked at once"
    assert not Instance.objects.all().proven().exists()
    assert prove(pacs) == 5
    assert grades(items) == [grade] * 5
    assert proof_states(items) == [P.PROVEN] * 5
    assert {tuple(outcomes(item)) for item in items} == {("proven",)}
    assert Instance.objects.all().proven().count() == 5
    assert archive.received == uids(items)
    assert prove(pacs, HOUR) == 0, "what is proven is not asked for again"
    assert balance() == []


def test_an_answer_is_enough_where_no_more_is_needed(archive: Committer, tmp_path: Path) -> None:
    pacs = node(archive, "accepted")
    items = deliveries.chosen(pacs, tmp_path, 3)
    send(pacs)
    assert prove(pacs, HOUR) == 0
    assert grades(items) == ["accepted"] * 3
    assert not Proof.objects.exists()
    assert Instance.objects.all().proven().count() == 3
    assert balance() == []


@pytest.mark.parametrize("way", ["same", "early"])
def test_exactly_what_was_dropped_is_sent_again(
    archive: Committer, tmp_path: Path, way: Any
) -> None:
    archive.manner.way = way
    archive.manner.drops = lambda number: number in (2, 5)
    pacs = node(archive, "committed")
    items = deliveries.chosen(pacs, tmp_path, 6)
    send(pacs)
    prove(pacs)
    lost = [items[1], items[4]]
    assert uids(lost) == archive.dropped
    assert [item.state for item in again(lost)] == [S.PENDING] * 2
    assert grades(items) == ["committed", "", "committed", "committed", "", "committed"]
    assert "0112, no such object instance" in again(lost)[0].reason
    assert balance() == []
    send(pacs)
    assert archive.received[6:] == uids(lost)
    prove(pacs)
    assert grades(items) == ["committed"] * 6
    assert [outcomes(item) for item in lost] == [["failed", "proven"]] * 2
    assert HourCount.objects.get(kind=CounterKind.DISPROVED).objects_count == 2
    assert AuditEvent.objects.get(event="proof.failed").details["count"] == 2
    assert balance() == []


def test_what_is_not_found_is_looked_for_again_before_it_is_missing(
    archive: Committer, tmp_path: Path
) -> None:
    pacs = node(archive, "verified")
    items = deliveries.chosen(pacs, tmp_path, 4)
    send(pacs)
    late, gone = uids(items)[0], uids(items)[2]
    archive.lose([late, gone])
    prove(pacs)
    assert proof_states(items) == [P.WAITING, P.PROVEN, P.WAITING, P.PROVEN]
    assert [item.state for item in again(items)] == [S.DELIVERED] * 4
    archive.take(late, factories.CT_IMAGE_STORAGE)  # it was not indexed yet
    assert prove(pacs, 3 * MINUTE) == 0
    prove(pacs, 15 * MINUTE)
    assert proof_states(items) == [P.PROVEN, P.PROVEN, P.FAILED, P.PROVEN]
    assert again(items)[2].state == S.PENDING
    send(pacs)
    prove(pacs)
    assert grades(items) == ["verified"] * 4
    assert archive.received[4:] == [gone]
    assert outcomes(items[2]) == ["absent", "failed", "proven"]
    assert balance() == []


def test_what_is_dropped_every_time_ends_with_a_person(archive: Committer, tmp_path: Path) -> None:
    archive.manner.drops = lambda _number: True
    pacs = node(archive, "committed", proof_resends=2)
    items = deliveries.chosen(pacs, tmp_path, 1)
    for _ in range(5):
        send(pacs)
        prove(pacs)
    assert len(archive.received) == 3, "sent once, and twice again"
    (item,) = again(items)
    assert (item.state, item.status, item.proof) == (S.PARKED, 0x0112, "")
    assert "no such object instance" in item.reason
    assert balance() == []
    archive.manner.drops = lambda _number: False
    jobs.retry(JobItem.objects.all(), actor=SYSTEM)
    send(pacs)
    prove(pacs)
    assert grades(items) == ["committed"]
    assert balance() == []


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (0x0112, S.PENDING),
        (0x0110, S.PENDING),
        (0x0213, S.PENDING),
        (0x1234, S.PENDING),
        (0x0119, S.PARKED),
        (0x0122, S.PARKED),
        (0x0131, S.DELIVERED),
    ],
)
def test_each_failure_reason_has_its_consequence(
    archive: Committer, tmp_path: Path, reason: int, state: ItemState
) -> None:
    archive.manner.drops, archive.manner.reason = lambda _number: True, reason
    pacs = node(archive, "committed")
    items = deliveries.chosen(pacs, tmp_path, 1)
    send(pacs)
    prove(pacs)
    assert [item.state for item in again(items)] == [state]
    assert Proof.objects.get().state == (P.WAITING if state == S.DELIVERED else P.FAILED)
    assert grades(items) != ["committed"]
    assert balance() == []


def test_another_object_in_its_place_is_not_sent_over(archive: Committer, tmp_path: Path) -> None:
    pacs = node(archive, "verified")
    items = deliveries.chosen(pacs, tmp_path, 1)
    send(pacs)
    archive.lose(uids(items))
    archive.take(uids(items)[0], "1.2.840.10008.5.1.4.1.1.7")
    prove(pacs)
    (item,) = again(items)
    assert item.state == S.PARKED
    assert "another SOP class" in item.reason
    assert balance() == []


# --- reports over an association of their own, late, or never -------------------------------------
def report(archive: Committer, number: int = -1) -> int:
    """Take the report of a request as the listener does."""
    from router.dicom import commitment

    request = archive.requests[number]
    _kind, ds = archive.information(request)
    failed = {
        (one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID): int(one.FailureReason)
        for one in ds.get("FailedSOPSequence", [])
    }
    committed = frozenset(
        (one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID)
        for one in ds.ReferencedSOPSequence
    )
    said = commitment.Report(request.transaction_uid, committed, failed)
    return commitments.receive(said, reporter=archive.script.ae_title)


@pytest.fixture
def silent(archive: Committer) -> Committer:
    """An archive whose reports come when the test says so."""
    archive.manner.way = "never"
    return archive


def test_a_report_that_comes_later_is_awaited(silent: Committer, tmp_path: Path) -> None:
    pacs = node(silent, "committed", commit_wait="0s", commit_timeout="1h")
    items = deliveries.chosen(pacs, tmp_path, 3)
    send(pacs)
    prove(pacs)
    assert proof_states(items) == [P.AWAITED] * 3
    assert grades(items) == ["accepted"] * 3
    assert prove(pacs, HOUR / 2) == 0, "it is awaited, not asked for again"
    silent.lose([uids(items)[1]])
    assert report(silent) == 0
    assert prove(pacs) == 0
    assert grades(items) == ["committed", "", "committed"]
    assert again(items)[1].state == S.PENDING
    assert balance() == []


def test_a_report_that_does_not_come_leaves_it_unconfirmed_and_asked_for_again(
    silent: Committer, tmp_path: Path
) -> None:
    pacs = node(silent, "committed", commit_wait="0s", commit_timeout="10m")
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    prove(pacs)
    assert prove(pacs, HOUR) == 0
    assert proof_states(items) == [P.UNCONFIRMED] * 2
    assert grades(items) == ["accepted"] * 2
    assert {tuple(outcomes(item)) for item in items} == {("unanswered",)}
    assert Commitment.objects.get().state == CommitmentState.TIMED_OUT
    assert balance() == []
    assert prove(pacs, HOUR + 15 * MINUTE) == 2
    assert report(silent) == 0
    prove(pacs, timedelta())
    assert grades(items) == ["committed"] * 2
    assert balance() == []


def test_a_report_after_all_hope_still_counts(silent: Committer, tmp_path: Path) -> None:
    pacs = node(silent, "committed", commit_wait="0s", commit_timeout="10m")
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    prove(pacs)
    prove(pacs, HOUR)
    silent.lose([uids(items)[0]])
    assert report(silent) == 0
    prove(pacs, timedelta())
    assert grades(items) == ["", "committed"]
    assert [outcomes(item) for item in items] == [["failed"], ["proven"]]
    assert balance() == []


def test_a_failure_that_is_reported_last_is_heard(silent: Committer, tmp_path: Path) -> None:
    """Asked twice, committed by the second answer, denied by the first one's late report."""
    pacs = node(silent, "committed", commit_wait="0s", commit_timeout="10m")
    items = deliveries.chosen(pacs, tmp_path, 1)
    send(pacs)
    prove(pacs)
    prove(pacs, HOUR)
    prove(pacs, HOUR + 15 * MINUTE)
    assert report(silent, 1) == 0
    prove(pacs, timedelta())
    assert grades(items) == ["committed"]
    silent.lose([uids(items)[0]])
    assert report(silent, 0) == 0
    prove(pacs, timedelta())
    assert grades(items) == [""]
    assert again(items)[0].state == S.PENDING
    assert balance() == []


def test_what_is_said_of_an_earlier_delivery_does_not_count(
    silent: Committer, tmp_path: Path
) -> None:
    pacs = node(silent, "committed", commit_wait="0s", commit_timeout="10m")
    items = deliveries.chosen(pacs, tmp_path, 1)
    send(pacs)
    prove(pacs)
    prove(pacs, HOUR)
    prove(pacs, HOUR + 15 * MINUTE)
    silent.lose(uids(items))
    report(silent, 1)
    prove(pacs, timedelta())
    send(pacs)
    assert grades(items) == ["accepted"], "sent again"
    silent.take(uids(items)[0], factories.CT_IMAGE_STORAGE)
    report(silent, 0)
    prove(pacs, timedelta())
    assert grades(items) == ["accepted"], "the request was about the delivery that was lost"
    assert balance() == []


def test_a_report_is_taken_twice_and_counts_once(silent: Committer, tmp_path: Path) -> None:
    pacs = node(silent, "committed", commit_wait="0s")
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    prove(pacs)
    assert [report(silent), report(silent)] == [0, 0]
    prove(pacs, timedelta())
    assert report(silent) == 0
    prove(pacs, timedelta())
    assert grades(items) == ["committed"] * 2
    assert ProofAttempt.objects.count() == 2
    assert balance() == []


def test_a_stranger_cannot_report(silent: Committer, tmp_path: Path) -> None:
    pacs = node(silent, "committed", commit_wait="0s")
    items = deliveries.chosen(pacs, tmp_path, 1)
    send(pacs)
    prove(pacs)
    silent.script = replace(silent.script, ae_title="STRANGER")
    assert report(silent) == 0x0115
    silent.script = replace(silent.script, ae_title="ARCHIVE")
    Commitment.objects.update(transaction_uid="2.25.1")
    assert report(silent) == 0x0115
    prove(pacs, timedelta())
    assert grades(items) == ["accepted"]


def test_a_report_that_names_nothing_proves_nothing(silent: Committer, tmp_path: Path) -> None:
    from router.dicom.commitment import Report

    pacs = node(silent, "committed", commit_wait="0s")
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    prove(pacs)
    uid = silent.requests[0].transaction_uid
    other = frozenset({("1.2.840.10008.5.1.4.1.1.7", uids(items)[0]), ("1.2.3", "1.2.4")})
    assert commitments.receive(Report(uid, other), reporter="ARCHIVE") == 0
    prove(pacs, timedelta())
    assert grades(items) == ["accepted"] * 2
    assert proof_states(items) == [P.WAITING] * 2
    assert {tuple(outcomes(item)) for item in items} == {("unanswered",)}
    assert Commitment.objects.get().report == {"committed": [], "failed": []}
    assert balance() == []


# --- far ends that do not answer ------------------------------------------------------------------
@GRADES
def test_a_dead_far_end_costs_one_question_a_pause_and_loses_nothing(
    archive: Committer, tmp_path: Path, grade: str
) -> None:
    pacs = node(archive, grade, proof_retry=["10m", "20m"])
    items = deliveries.chosen(pacs, tmp_path, 4)
    send(pacs)
    archive.die()
    prove(pacs)
    lane = Lane.objects.get(destination=pacs)
    assert (lane.proof_failures, lane.state) == (1, LaneState.OPEN)
    assert "refused" in lane.proof_reason
    assert grades(items) == ["accepted"] * 4
    assert prove(pacs, 5 * MINUTE) == 0
    for number in (2, 3):
        after = (40 * number) * MINUTE
        assert prove(pacs, after) == 1, "one, as a probe"
        assert Lane.objects.get(destination=pacs).proof_failures == number
    assert P.UNCONFIRMED in proof_states(items)
    with Committer(port=archive.port) as back:
        back.inherit(archive)
        assert prove(pacs, 4 * HOUR) == 4
    assert grades(items) == [grade] * 4
    assert Lane.objects.get(destination=pacs).proof_failures == 0
    assert balance() == []


def test_who_offers_no_commitment_leaves_it_unproven_with_the_reason(
    archive: Committer, tmp_path: Path
) -> None:
    with Committer(Manner(commits=False)) as poor:
        pacs = node(poor, "committed")
        items = deliveries.chosen(pacs, tmp_path, 2)
        send(pacs)
        prove(pacs)
    assert grades(items) == ["accepted"] * 2
    assert "offers no storage commitment" in Lane.objects.get(destination=pacs).proof_reason
    assert "offers no storage commitment" in Proof.objects.first().reason  # type: ignore[union-attr]
    assert balance() == []


def test_a_refused_request_is_made_again_by_the_table(archive: Committer, tmp_path: Path) -> None:
    archive.manner.action_status = 0x0213
    pacs = node(archive, "committed")
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    prove(pacs)
    assert proof_states(items) == [P.WAITING] * 2
    assert Lane.objects.get(destination=pacs).proof_failures == 0, "it did answer"
    prove(pacs, 15 * MINUTE)
    assert proof_states(items) == [P.UNCONFIRMED] * 2
    archive.manner.action_status = 0
    prove(pacs, HOUR)
    assert grades(items) == ["committed"] * 2
    assert Commitment.objects.filter(state=CommitmentState.REFUSED, status=0x0213).count() == 2
    assert balance() == []


@GRADES
def test_a_paused_or_moved_destination_is_not_asked(
    archive: Committer, tmp_path: Path, grade: str
) -> None:
    pacs = node(archive, grade)
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    Lane.objects.update(state=LaneState.PAUSED)
    assert not proofs.is_due(Destination.objects.get(), clock.now() + HOUR)
    assert prove(pacs, HOUR) == 0
    Lane.objects.update(state=LaneState.OPEN)
    Destination.objects.update(endpoint=2)
    assert prove(pacs, HOUR) == 0
    assert proof_states(items) == [P.UNCONFIRMED] * 2
    assert "address" in Proof.objects.first().reason  # type: ignore[union-attr]
    assert not archive.requests
    assert not archive.questions
    assert not Instance.objects.all().proven().exists()
    assert balance() == []


@GRADES
def test_told_to_stop_it_gives_back_what_it_held(
    archive: Committer, tmp_path: Path, grade: str
) -> None:
    pacs = node(archive, grade)
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    answers = iter([False])
    with clock.shifted(2 * MINUTE):
        proving.drain(pacs.pk, stop=lambda: next(answers, True))
    assert proof_states(items) == [P.WAITING] * 2
    assert {proof.tries for proof in Proof.objects.all()} == {0}
    assert Lane.objects.get(destination=pacs).proof_failures == 0
    prove(pacs)
    assert grades(items) == [grade] * 2
    assert balance() == []


# --- the queue -----------------------------------------------------------------------------------
def test_a_study_is_asked_for_as_a_whole(archive: Committer, tmp_path: Path) -> None:
    pacs = node(archive, "committed", commit_batch=4)
    first = deliveries.chosen(pacs, tmp_path, 6)
    second = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    late = deliveries.chosen(pacs, tmp_path, 1)  # another study, on its way
    Proof.objects.filter(item__in=second).update(study=late[0].job.study)
    prove(pacs)
    assert [len(one.references) for one in archive.requests] == [4, 2], "the second study waits"
    assert grades(first) == ["committed"] * 6
    assert prove(pacs, HOUR) == 2, "but not for ever"
    assert archive.associations == 4, "a probe, the objects, and one for each round"


def test_of_two_at_once_one_asks(archive: Committer, tmp_path: Path) -> None:
    pacs = node(archive, "verified")
    deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    inner: list[int] = []

    def stop() -> bool:
        if not inner:
            inner.append(proving.drain(pacs.pk, stop=lambda: False))
        return False

    with clock.shifted(2 * MINUTE):
        assert proving.drain(pacs.pk, stop=stop) == 2
    assert inner == [0]


@GRADES
def test_a_lost_asker_is_taken_over_from(
    archive: Committer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grade: str
) -> None:
    pacs = node(archive, grade, proof_retry=["1m"])
    items = deliveries.chosen(pacs, tmp_path, 3)
    send(pacs)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(proving, "_confirm", die)
        patch.setattr(proving, "_commit", die)
        with pytest.raises(KeyboardInterrupt):
            prove(pacs)
    assert proof_states(items) == [P.ASKING] * 3
    assert proofs.recover_lost() == 0, "its lease runs"
    with clock.shifted(HOUR):
        assert proofs.recover_lost() == 3
    assert {tuple(outcomes(item)) for item in items} == {("lost",)}
    assert balance() == []
    prove(pacs, HOUR + 5 * MINUTE)
    assert grades(items) == [grade] * 3
    assert balance() == []


def test_a_late_report_to_a_lost_asker_counts(silent: Committer, tmp_path: Path) -> None:
    pacs = node(silent, "committed", commit_wait="0s")
    items = deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    prove(pacs)
    Proof.objects.update(state=P.ASKING, owner="dead", lease_until=clock.now() - MINUTE)
    proofs.recover_lost()
    assert {tuple(outcomes(item)) for item in items} == {("lost",)}
    assert report(silent) == 0
    prove(pacs, timedelta())
    assert grades(items) == ["committed"] * 2
    assert balance() == []


# --- a grade that is raised, or lowered -----------------------------------------------------------
def set_grade(destination: Destination, grade: str) -> None:
    version = destination.version
    assert version is not None
    version.settings["proof"] = grade
    version.save(update_fields=["settings"])


def test_a_raised_grade_has_what_was_delivered_before_proven(
    archive: Committer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "ENROL", 2)
    pacs = node(archive, "accepted")
    items = deliveries.chosen(pacs, tmp_path, 5)
    send(pacs)
    for grade in ("verified", "committed"):
        set_grade(pacs, grade)
        proofs.raised(pacs)
        pacs.refresh_from_db()
        assert not Instance.objects.all().proven().exists()
        assert prove(pacs, timedelta()) == 0, "not before every delivery knows of it"
        assert prove(pacs, 2 * HOUR) == 5
        assert grades(items) == [grade] * 5
        assert Lane.objects.get(destination=pacs).enrol_at is None
        assert balance() == []
    set_grade(pacs, "accepted")
    assert Instance.objects.all().proven().count() == 5


def test_what_needs_no_more_is_asked_no_more(archive: Committer, tmp_path: Path) -> None:
    pacs = node(archive, "committed")
    deliveries.chosen(pacs, tmp_path, 2)
    send(pacs)
    set_grade(pacs, "accepted")
    assert prove(pacs, HOUR) == 0
    assert not archive.requests
    assert Instance.objects.all().proven().count() == 2


# --- other kinds ---------------------------------------------------------------------------------
def test_a_folder_is_read_back(tmp_path: Path) -> None:
    from router.destinations import KINDS

    out = tmp_path / "out"
    form = KINDS["folder"].form(
        {"path": str(out), "layout": "{SOPInstanceUID}.dcm", "proof": "verified", **RETRY}
    )
    assert form.is_valid(), form.errors
    disk = factories.destination(kind="folder", settings=form.cleaned_data)
    items = deliveries.chosen(disk, tmp_path, 4)
    send(disk)
    first, second, third, _fourth = (out / f"{uid}.dcm" for uid in uids(items))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"\1")
    third.write_bytes(third.read_bytes() + b"\0")
    prove(disk)
    prove(disk, HOUR)
    assert [item.state for item in again(items)] == [S.PENDING, S.PARKED, S.PARKED, S.DELIVERED]
    assert grades(items) == ["", "", "", "verified"]
    send(disk)
    prove(disk)
    assert grades(items)[0] == "verified"
    assert balance() == []


RETRY = {"proof_after": "1m", "proof_retry": ["10m"]}
