"""Storage commitment asked for: reports before and after the answer, elsewhere, never, or wrong."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.destinations import KINDS
from router.destinations.base import Asked, CommitRequest, Committing, Context, Outgoing
from router.destinations.dicom import DicomSender
from router.dicom.commitment import Report
from tests.commitments import Committer, Manner
from tests.router.destinations.objects import CT, made
from tests.sinks import RawSink, Script, Sink, accept_association, receive_message


def sender(settings: dict[str, Any], **more: object) -> DicomSender:
    usual = {"response_timeout": "3s", "commit_wait": "5s", "proof": "committed"}
    form = KINDS["dicom"].form(settings | usual | more)
    assert form.is_valid(), form.errors
    return DicomSender(form.cleaned_data)


class Taken:
    """Keeps what is reported, and answers it."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.reports: list[Report] = []

    def __call__(self, report: Report) -> int:
        self.reports.append(report)
        return self.status


@pytest.fixture
def items(tmp_path: Path) -> list[Outgoing]:
    return [made(tmp_path, item_id=n) for n in range(1, 6)]


@pytest.fixture
def archive(items: list[Outgoing]) -> Iterator[Committer]:
    """An archive that keeps all objects but the third."""
    with Committer() as running:
        for one in items:
            if one.item_id != 3:
                running.take(one.sop_instance_uid, CT)
        yield running


def request(items: list[Outgoing], number: int = 1) -> CommitRequest:
    return CommitRequest(f"2.25.{number}", items)


def ask(
    archive: Committer, requests: list[CommitRequest], taken: Taken, **more: object
) -> list[Asked]:
    there = sender(archive.settings, **more)
    return list(there.commit(requests, Context(), take=taken))


def test_the_sender_can_be_asked() -> None:
    assert isinstance(sender({"host": "h", "port": 1, "ae_title": "A"}), Committing)


@pytest.mark.parametrize("way", ["same", "early"])
def test_a_report_on_the_same_association_is_taken_and_answered(
    archive: Committer, items: list[Outgoing], way: Any
) -> None:
    archive.manner.way = way
    taken, began = Taken(), time.monotonic()
    (answer,) = ask(archive, [request(items)], taken)
    assert answer.is_accepted
    assert time.monotonic() - began < 3, "it waited although all was reported"
    (report,) = taken.reports
    assert report.transaction_uid == "2.25.1"
    assert {uid for _class, uid in report.committed} == set(archive.hashes())
    assert report.failed == {(CT, items[2].sop_instance_uid): 0x0112}
    assert archive.answers == [0]
    assert archive.requests[0].references == tuple((CT, one.sop_instance_uid) for one in items)


@pytest.mark.parametrize("way", ["same", "early"])
def test_several_requests_go_over_one_association(
    archive: Committer, items: list[Outgoing], way: Any
) -> None:
    archive.manner.way = way
    taken = Taken()
    answers = ask(archive, [request([one], one.item_id) for one in items], taken)
    assert [answer.is_accepted for answer in answers] == [True] * 5
    assert [answer.transaction_uid for answer in answers] == [f"2.25.{n}" for n in range(1, 6)]
    assert sorted(one.transaction_uid for one in taken.reports) == [
        f"2.25.{n}" for n in range(1, 6)
    ]
    assert archive.associations == 1


def test_a_report_that_does_not_come_is_awaited_a_while(
    archive: Committer, items: list[Outgoing]
) -> None:
    archive.manner.way = "never"
    taken, began = Taken(), time.monotonic()
    (answer,) = ask(archive, [request(items)], taken, commit_wait="1s")
    assert answer.is_accepted
    assert 1 <= time.monotonic() - began < 3
    assert taken.reports == []


def test_nothing_is_awaited_where_that_is_not_wanted(
    archive: Committer, items: list[Outgoing]
) -> None:
    archive.manner.way = "never"
    began = time.monotonic()
    ask(archive, [request(items)], Taken(), commit_wait="0s")
    assert time.monotonic() - began < 1


def test_what_is_not_stored_is_not_answered_with_success(
    archive: Committer, items: list[Outgoing]
) -> None:
    ask(archive, [request(items)], Taken(0x0110))
    assert archive.answers == [0x0110]


def test_a_refusal_has_its_status(archive: Committer, items: list[Outgoing]) -> None:
    archive.manner.action_status = 0x0213
    (answer,) = ask(archive, [request(items)], Taken())
    assert not answer.is_accepted
    assert answer.status == 0x0213
    assert "resource limitation" in answer.detail


def test_who_offers_none_says_so(items: list[Outgoing]) -> None:
    with Sink() as sink:
        answers = list(sender(sink.settings).commit([request(items)], Context(), take=Taken()))
    (answer,) = answers
    assert (answer.is_accepted, answer.status) == (False, None)
    assert "offers no storage commitment" in answer.detail


def test_who_cannot_be_reached_says_nothing(items: list[Outgoing]) -> None:
    with RawSink(lambda _connection: None) as gone:
        pass
    answers = list(
        sender(gone.settings).commit([request(items, n) for n in (1, 2)], Context(), take=Taken())
    )
    assert [(one.is_accepted, one.status) for one in answers] == [(False, None)] * 2


def test_a_peer_that_dies_before_its_answer_took_nothing(items: list[Outgoing]) -> None:
    def die(connection: socket.socket) -> None:
        accept_association(connection)
        receive_message(connection)

    with RawSink(die) as sink:
        (answer,) = sender(sink.settings).commit([request(items)], Context(), take=Taken())
    assert (answer.is_accepted, answer.status) == (False, None)


def test_a_peer_that_dies_after_its_answer_has_taken_it(
    archive: Committer, items: list[Outgoing]
) -> None:
    archive.manner.way = "dies"
    taken = Taken()
    (answer,) = ask(archive, [request(items)], taken)
    assert answer.is_accepted
    assert taken.reports == []


def test_a_peer_that_ends_each_association_is_asked_over_several(items: list[Outgoing]) -> None:
    def answer_and_go(connection: socket.socket) -> None:
        accept_association(connection)
        context_id, _data, _pdus = receive_message(connection)
        connection.sendall(_action_response(context_id))

    requests = [request([one], one.item_id) for one in items[:3]]
    with RawSink(answer_and_go) as sink:
        answers = list(sender(sink.settings).commit(requests, Context(), take=Taken()))
    assert [one.is_accepted for one in answers] == [True] * 3
    assert sink.connections == 3


def test_noise_instead_of_a_report_ends_the_association(items: list[Outgoing]) -> None:
    def answer_twice(connection: socket.socket) -> None:
        accept_association(connection)
        context_id, _data, _pdus = receive_message(connection)
        connection.sendall(_action_response(context_id) * 2)
        connection.recv(1 << 16)

    taken = Taken()
    with RawSink(answer_twice) as sink:
        (answer,) = sender(sink.settings).commit([request(items)], Context(), take=taken)
    assert answer.is_accepted
    assert taken.reports == []


def _action_response(context_id: int) -> bytes:
    elements = ((0x0100, 0x8130), (0x0120, 1), (0x0800, 0x0101), (0x0900, 0))
    body = b"".join(
        b"\0\0" + element.to_bytes(2, "little") + b"\2\0\0\0" + value.to_bytes(2, "little")
        for element, value in elements
    )
    command = b"\0\0\0\0\4\0\0\0" + len(body).to_bytes(4, "little") + body
    pdv = (len(command) + 2).to_bytes(4, "big") + bytes([context_id, 3]) + command
    return b"\4\0" + len(pdv).to_bytes(4, "big") + pdv


def test_a_stop_leaves_the_rest_unasked(archive: Committer, items: list[Outgoing]) -> None:
    answers = list(
        sender(archive.settings).commit([request(items)], Context(stop=lambda: True), take=Taken())
    )
    assert [(one.is_accepted, one.status) for one in answers] == [(False, None)]
    assert archive.requests == []


@pytest.mark.parametrize(
    ("grade", "ok"), [("accepted", True), ("verified", True), ("committed", False)]
)
def test_verifying_says_whether_the_proof_is_offered(grade: str, *, ok: bool) -> None:
    with Committer(Manner(commits=False)) as without:
        verification = sender(without.settings, proof=grade).verify()
    assert verification.ok == ok
    assert (verification.steps[-1].name == "proof") == (grade != "accepted")
    with Sink(Script()) as sink:
        assert not sender(sink.settings, proof="verified").verify().ok
