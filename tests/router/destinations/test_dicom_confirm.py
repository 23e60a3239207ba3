"""Asking by C-FIND what a peer has: pynetdicom with awkward habits, DCMTK's dcmqrscp, Orthanc."""

import dataclasses
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from router.destinations import KINDS
from router.destinations.base import Confirmation, Confirming, Context, Outgoing
from router.destinations.dicom import DicomSender
from router.destinations.outcomes import Outcome
from tests.orthanc import Orthanc
from tests.ports import free_port
from tests.product import wait_until
from tests.router.destinations.objects import EXPLICIT, IMPLICIT, made
from tests.sinks import RawSink, Sink

Answer = Callable[[Dataset], Iterator[tuple[int, Dataset | None]]]


def sender(settings: dict[str, Any], **more: object) -> DicomSender:
    form = KINDS["dicom"].form(settings | {"response_timeout": "3s"} | more)
    assert form.is_valid(), form.errors
    return DicomSender(form.cleaned_data)


@contextmanager
def scp(answer: Answer, *syntaxes: str) -> Iterator[dict[str, Any]]:
    """A query SCP that answers an identifier as told."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield from answer(event.identifier)

    ae = AE(ae_title="FINDER")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind, list(syntaxes) or None)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)]
    )
    try:
        port = server.socket.getsockname()[1]
        yield {"host": "127.0.0.1", "port": port, "ae_title": "FINDER"}
    finally:
        server.shutdown()


def holding(items: Sequence[Outgoing], *, knows_lists: bool = True) -> Answer:
    """An archive of `items`, all of one series."""

    def answer(asked: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        assert (asked.QueryRetrieveLevel, asked.StudyInstanceUID) == ("IMAGE", "1.2.3.1")
        uids = asked["SOPInstanceUID"].value
        wanted = {uids} if isinstance(uids, str) else set(uids)
        if len(wanted) > 1 and not knows_lists:
            wanted = set()
        for item in items:
            if item.sop_instance_uid in wanted:
                match = Dataset()
                match.SOPInstanceUID, match.SOPClassUID = item.sop_instance_uid, item.sop_class_uid
                match.QueryRetrieveLevel = "IMAGE"
                yield 0xFF00, match

    return answer


def states(answers: Iterator[Confirmation], items: Sequence[Outgoing]) -> list[str]:
    found = {answer.item_id: answer.state for answer in answers}
    assert sorted(found) == sorted(item.item_id for item in items)
    return [found[item.item_id] for item in items]


@pytest.fixture
def items(tmp_path: Path) -> list[Outgoing]:
    return [made(tmp_path, item_id=n) for n in range(1, 8)]


def test_the_sender_can_be_asked() -> None:
    assert isinstance(sender({"host": "h", "port": 1, "ae_title": "A"}), Confirming)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("knows_lists", [True, False])
def test_present_and_absent(items: list[Outgoing], syntax: str, *, knows_lists: bool) -> None:
    there = [item for item in items if item.item_id not in (2, 5)]
    with scp(holding(there, knows_lists=knows_lists), syntax) as settings:
        found = states(sender(settings).confirm(items, Context()), items)
    assert found == ["present", "absent", "present", "present", "absent", "present", "present"]


def test_an_empty_archive_has_nothing(items: list[Outgoing]) -> None:
    with scp(holding([])) as settings:
        assert set(states(sender(settings).confirm(items, Context()), items)) == {"absent"}


def test_more_than_one_question_can_ask_for(tmp_path: Path) -> None:
    many = [made(tmp_path, item_id=n) for n in range(1, 121)]
    with scp(holding(many[:110])) as settings:
        found = states(sender(settings).confirm(many, Context()), many)
    assert found == ["present"] * 110 + ["absent"] * 10


def test_another_class_is_another_object(items: list[Outgoing]) -> None:
    other = [dataclasses.replace(items[0], sop_class_uid="1.2.840.10008.5.1.4.1.1.7"), *items[1:]]
    with scp(holding(other)) as settings:
        found = states(sender(settings).confirm(items, Context()), items)
    assert found == ["different"] + ["present"] * 6


def test_a_failure_says_nothing(items: list[Outgoing]) -> None:
    def fails(_asked: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xA700, None

    with scp(fails) as settings:
        answers = list(sender(settings).confirm(items, Context()))
    assert {answer.state for answer in answers} == {"unknown"}
    assert "A700" in answers[0].detail


def test_who_cannot_be_asked_says_nothing(items: list[Outgoing]) -> None:
    with Sink() as sink:
        answers = list(sender(sink.settings).confirm(items, Context()))
    assert {answer.state for answer in answers} == {"unknown"}
    assert "offers no C-FIND" in answers[0].detail
    with RawSink(lambda connection: None) as gone:
        pass
    assert set(states(sender(gone.settings).confirm(items, Context()), items)) == {"unknown"}


def test_a_stop_leaves_the_rest_unknown(items: list[Outgoing]) -> None:
    with scp(holding(items)) as settings:
        found = states(sender(settings).confirm(items, Context(stop=lambda: True)), items)
    assert set(found) == {"unknown"}


def test_orthanc_says_what_it_has(items: list[Outgoing], tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc", router_port=free_port(), DicomAlwaysAllowFind=True) as peer:
        there = sender({"host": "127.0.0.1", "port": peer.port, "ae_title": "ORTHANC"})
        sent = list(there.send(items[:4], Context()))
        assert {result.outcome for result in sent} == {Outcome.DELIVERED}
        found = states(there.confirm(items, Context()), items)
    assert found == ["present"] * 4 + ["absent"] * 3


QRSCP = """NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 8
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QR {folder} RW (200, 1024mb) ANY
AETable END
"""


def test_dcmqrscp_says_what_it_has(items: list[Outgoing], tmp_path: Path) -> None:
    (folder := tmp_path / "qr").mkdir()
    port = free_port()
    config = tmp_path / "qr.cfg"
    config.write_text(QRSCP.format(port=port, folder=folder))
    command = ["/usr/bin/dcmqrscp", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        there = sender({"host": "127.0.0.1", "port": port, "ae_title": "QR"})
        wait_until(lambda: there.verify().ok, seconds=20, what="dcmqrscp")
        sent = list(there.send(items[:4], Context()))
        found = states(there.confirm(items, Context()), items)
        process.terminate()
    assert {result.outcome for result in sent} == {Outcome.DELIVERED}
    assert found == ["present"] * 4 + ["absent"] * 3
