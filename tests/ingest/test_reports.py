"""Reports on commitments that come to our listener: who may bring them, and what they are told."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from ingest.receiver import take_report
from ingest.reports import Unstored
from router.dicom.commitment import Report
from router.models import Bell, Commitment
from router.services import clock
from tests import factories
from tests.commitments import WELL_KNOWN, Committer, Manner, Request
from tests.ingest.conftest import StartReceiver
from tests.receivers import CT, Running

PEER = {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "calling_ae": ""}
ELSEWHERE = {"name": "ct-1", "ae_title": "CT1", "hosts": ["10.1.0.0/16"]}
REQUEST = Request("2.25.7", ((CT, "1.2.3"), (CT, "1.2.4")))


class Taken:
    """Keeps what is reported and by whom, and answers it as told."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.reports: list[tuple[Report, str]] = []

    def __call__(self, report: Report, calling_ae: str) -> int:
        self.reports.append((report, calling_ae))
        return self.status


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def archive() -> Iterator[Committer]:
    with Committer(Manner(way="new")) as running:
        running.take("1.2.3", CT)
        yield running


def bring(archive: Committer, running: Running, **manner: Any) -> list[int | None]:
    """Have the archive report to the receiver; its answers, None where it could not."""
    archive.manner.router = running.listening.address
    for name, value in manner.items():
        setattr(archive.manner, name, value)
    archive.report(REQUEST)
    return archive.answers


@pytest.mark.parametrize("with_role", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_destination_of_ours_may_report(
    start_receiver: StartReceiver, archive: Committer, taken: Taken, host: str, *, with_role: bool
) -> None:
    running = start_receiver(sources=[ELSEWHERE], peers=[{**PEER, "host": host}], take_report=taken)
    assert bring(archive, running, with_role=with_role) == [0]
    ((report, calling_ae),) = taken.reports
    assert calling_ae == "ARCHIVE"
    assert report.transaction_uid == "2.25.7"
    assert report.committed == {(CT, "1.2.3")}
    assert report.failed == {(CT, "1.2.4"): 0x0112}
    running.intake.wait_closed()
    assert running.intake.closed[0][1] == "released"


def test_it_may_do_nothing_else(start_receiver: StartReceiver) -> None:
    running = start_receiver(sources=[ELSEWHERE], peers=[PEER])
    ae = AE(ae_title="ARCHIVE")
    for uid in (Verification, CT, StorageCommitmentPushModel):
        ae.add_requested_context(uid)
    roles = [build_role(StorageCommitmentPushModel, scu_role=True, scp_role=True)]
    assoc = ae.associate(*running.listening.address, ae_title="DICOMROUTER", ext_neg=roles)
    accepted = assoc.accepted_contexts
    refused = {str(one.abstract_syntax): one.result for one in assoc.rejected_contexts}
    assoc.release()
    assert [str(one.abstract_syntax) for one in accepted] == [str(StorageCommitmentPushModel)]
    assert (accepted[0].as_scu, accepted[0].as_scp) == (False, True)
    assert refused == {str(Verification): 1, CT: 1}


@pytest.mark.parametrize(
    "peer",
    [
        {**PEER, "host": "10.0.0.1"},
        {**PEER, "ae_title": "OTHER"},
        {**PEER, "host": "no-such-host.invalid"},
    ],
)
def test_a_stranger_is_rejected(
    start_receiver: StartReceiver, archive: Committer, taken: Taken, peer: dict[str, str]
) -> None:
    running = start_receiver(sources=[ELSEWHERE], peers=[peer], take_report=taken)
    assert bring(archive, running) == [None]
    assert taken.reports == []


@pytest.mark.parametrize(
    ("calling_ae", "called", "status"),
    [("US-THERE", "US-THERE", 0), ("US-THERE", "DICOMROUTER", 0), ("", "US-THERE", None)],
)
def test_it_may_call_us_as_we_call_ourselves_there(
    start_receiver: StartReceiver,
    archive: Committer,
    taken: Taken,
    calling_ae: str,
    called: str,
    status: int | None,
) -> None:
    peer = {**PEER, "calling_ae": calling_ae}
    running = start_receiver(sources=[ELSEWHERE], peers=[peer], take_report=taken)
    assert bring(archive, running, called=called) == [status]


@pytest.mark.parametrize(
    ("services", "with_role", "answer"),
    [
        (["echo", "commit"], True, 0),
        (["echo", "commit"], False, None),  # by the Standard it comes as an SCU
        (["echo", "store"], True, None),
    ],
)
def test_a_source_needs_the_service_and_the_role(
    start_receiver: StartReceiver,
    archive: Committer,
    taken: Taken,
    services: list[str],
    answer: int | None,
    *,
    with_role: bool,
) -> None:
    source = {"name": "cluster", "ae_title": "ARCHIVE", "services": services}
    running = start_receiver(sources=[source], take_report=taken)
    assert bring(archive, running, with_role=with_role) == [answer]


def test_a_source_that_is_a_destination_too_may_do_both(
    start_receiver: StartReceiver, archive: Committer, taken: Taken
) -> None:
    source = {"name": "pacs", "ae_title": "ARCHIVE", "services": ["echo", "store"]}
    running = start_receiver(sources=[source], peers=[PEER], take_report=taken)
    assert bring(archive, running) == [0]
    assert running.intake.opened[0][0].source == "pacs"


def test_an_unknown_transaction_is_answered_with_failure(
    start_receiver: StartReceiver, archive: Committer
) -> None:
    running = start_receiver(peers=[PEER], take_report=Taken(0x0115))
    assert bring(archive, running) == [0x0115]


def test_what_cannot_be_stored_is_not_answered_with_success(
    start_receiver: StartReceiver, archive: Committer
) -> None:
    def cannot(_report: Report, _calling_ae: str) -> int:
        raise Unstored

    running = start_receiver(peers=[PEER], take_report=cannot)
    assert bring(archive, running) == [0x0110]


@pytest.mark.parametrize(
    ("kind", "instance", "transaction", "status"),
    [
        (1, WELL_KNOWN, "2.25.7", 0x0000),
        (3, WELL_KNOWN, "2.25.7", 0x0113),
        (1, "1.2.3.4", "2.25.7", 0x0112),
        (1, WELL_KNOWN, "", 0x0115),
    ],
)
def test_what_is_no_report_has_its_status(
    start_receiver: StartReceiver,
    taken: Taken,
    kind: int,
    instance: str,
    transaction: str,
    status: int,
) -> None:
    running = start_receiver(peers=[PEER], take_report=taken)
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = []
    ae = AE(ae_title="ARCHIVE")
    ae.add_requested_context(StorageCommitmentPushModel)
    assoc = ae.associate(*running.listening.address, ae_title="DICOMROUTER")
    answered, _reply = assoc.send_n_event_report(ds, kind, StorageCommitmentPushModel, instance)
    assoc.release()
    assert answered.Status == status
    assert answered.AffectedSOPInstanceUID == instance
    assert len(taken.reports) == (status == 0)


def test_many_report_at_once(start_receiver: StartReceiver, taken: Taken) -> None:
    running = start_receiver(peers=[PEER], take_report=taken)
    archive = Committer(Manner(router=running.listening.address))
    archive.take("1.2.3", CT)
    requests = [Request(f"2.25.{number}", REQUEST.references) for number in range(1, 9)]
    threads = [threading.Thread(target=archive.report, args=(one,)) for one in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert archive.answers == [0] * 8
    assert {one.transaction_uid for one, _who in taken.reports} == {
        one.transaction_uid for one in requests
    }


@pytest.mark.django_db(transaction=True)
class TestStoring:
    """What the receiver does with a report (`ingest.receiver.take_report`)."""

    REPORT = Report("2.25.7", frozenset({(CT, "1.2.3")}))

    def test_a_report_on_no_request_of_ours_is_refused(self) -> None:
        assert take_report(self.REPORT, "ARCHIVE") == 0x0115

    def test_a_report_is_stored(self) -> None:
        peer = {"host": "127.0.0.1", "port": 104, "ae_title": "ARCHIVE"}
        pacs = factories.destination(settings=peer)
        now, version = clock.now(), pacs.version
        assert version is not None
        item = factories.item(factories.job(destination=pacs), state="delivered")
        request = Commitment.objects.create(
            transaction_uid="2.25.7",
            destination=pacs,
            version=version,
            references_count=1,
            requested_at=now,
            until=now,
        )
        request.attempts.create(item=item, fence=1, delivery=0, grade="committed", started_at=now)
        reference = (item.instance.sop_class_uid, item.instance.sop_instance_uid)
        said = Report("2.25.7", frozenset({reference, (CT, "1.2.3")}))
        assert take_report(said, "STRANGER") == 0x0115
        assert take_report(said, "ARCHIVE") == 0
        row = Commitment.objects.get()
        assert (row.state, row.report) == (
            "reported",
            {"committed": [[*reference]], "failed": []},
        )
        assert Bell.objects.filter(key=f"prove:{pacs.pk}", rung=True).exists()

    def test_a_database_that_is_away_is_said(self) -> None:
        def refuse(*_arguments: object) -> object:
            raise OperationalError("away")

        with connection.execute_wrapper(refuse), pytest.raises(Unstored):
            take_report(self.REPORT, "ARCHIVE")
