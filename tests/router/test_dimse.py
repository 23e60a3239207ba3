"""Our association as requestor, against pynetdicom and against peers that misbehave."""

import hashlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import dimse
from router.dimse import acse, commands
from router.dimse.wire import Pdu
from tests.sinks import (
    RawSink,
    Script,
    Sink,
    accept_association,
    receive_message,
    receive_pdu,
    store_response,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.70"
RLE, VIDEO = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.102"
PROPOSALS = [dimse.Proposal(1, CT, (EXPLICIT,)), dimse.Proposal(3, dimse.VERIFICATION, (IMPLICIT,))]


def peer(sink: Sink | RawSink, **options: float | int) -> dimse.Peer:
    settings = {"response_timeout": 5.0} | options
    ae_title = sink.settings["ae_title"]
    return dimse.Peer(
        sink.host,
        sink.port,
        ae_title,
        "ROUTER",
        ("1.2.3", "TEST"),
        **settings,  # type: ignore[arg-type]
    )


def parcel(data: bytes, *, intact: Callable[[str], bool] = bool) -> dimse.Parcel:
    return dimse.Parcel(CT, "1.2.3.4", 1, len(data), io.BytesIO(data), intact)


def store(
    sink: Sink | RawSink, data: bytes, pace: dimse.Pace | None = None, *, patience: float = 10.0
) -> dimse.Sent:
    with dimse.associate(
        peer(sink, response_timeout=patience), PROPOSALS, pace=pace or dimse.Pace()
    ) as association:
        return association.store(parcel(data))


def _say_nothing(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


class TestPlan:
    def test_offers_the_stored_syntax_alone_and_the_others_beside_it(self) -> None:
        [only] = dimse.plan([(CT, EXPLICIT), (CT, JPEG), (CT, EXPLICIT)])
        offers = [proposal.transfer_syntaxes for proposal in only.proposals]
        assert offers == [(EXPLICIT,), (JPEG,), (IMPLICIT,)]
        assert [proposal.context_id for proposal in only.proposals] == [1, 3, 5]

    def test_offers_big_endian_only_where_it_is_stored(self) -> None:
        [only] = dimse.plan([(CT, BIG)])
        assert [p.transfer_syntaxes for p in only.proposals] == [(BIG,), (EXPLICIT, IMPLICIT)]

    def test_offers_nothing_else_for_what_is_compressed(self) -> None:
        [only] = dimse.plan([(CT, JPEG)])
        assert [p.transfer_syntaxes for p in only.proposals] == [(JPEG,)]

    def test_offers_what_is_wanted_each_in_a_context_of_its_own(self) -> None:
        wanted = dimse.Preference((RLE, EXPLICIT, IMPLICIT))
        [only] = dimse.plan([(CT, JPEG), (CT, BIG), (CT, RLE)], wanted)
        offers = [proposal.transfer_syntaxes for proposal in only.proposals]
        assert offers == [(RLE,), (EXPLICIT,), (IMPLICIT,)]
        assert only.keys == {(CT, JPEG), (CT, BIG), (CT, RLE)}

    def test_leaves_out_what_cannot_be_turned(self) -> None:
        assert dimse.plan([(CT, VIDEO)], dimse.Preference((EXPLICIT,))) == []

    @pytest.mark.parametrize(
        ("wanted", "stored", "ways"),
        [
            ((), JPEG, (JPEG,)),
            ((), IMPLICIT, (IMPLICIT, EXPLICIT)),
            ((EXPLICIT, IMPLICIT), JPEG, (EXPLICIT, IMPLICIT)),
            ((EXPLICIT, IMPLICIT), IMPLICIT, (IMPLICIT, EXPLICIT)),
            ((RLE, EXPLICIT), EXPLICIT, (EXPLICIT, RLE)),
            ((JPEG, EXPLICIT), BIG, (EXPLICIT,)),
            ((JPEG, EXPLICIT), JPEG, (JPEG, EXPLICIT)),
            ((VIDEO, EXPLICIT), VIDEO, (VIDEO,)),
            ((EXPLICIT,), VIDEO, ()),
        ],
    )
    def test_ways(self, wanted: tuple[str, ...], stored: str, ways: tuple[str, ...]) -> None:
        assert dimse.Preference(wanted).ways(stored) == ways

    @given(
        st.lists(
            st.tuples(
                st.integers(1, 150).map(lambda n: f"1.2.{n}"),
                st.sampled_from([EXPLICIT, IMPLICIT, BIG, JPEG]),
            ),
            max_size=300,
        )
    )
    def test_every_key_has_its_context_in_exactly_one_plan(
        self, keys: list[tuple[str, str]]
    ) -> None:
        plans = dimse.plan(keys)
        for key in set(keys):
            [found] = [plan for plan in plans if key in plan.keys]
            assert any(
                (p.abstract_syntax, p.transfer_syntaxes) == (key[0], (key[1],))
                for p in found.proposals
            )
        for one in plans:
            assert 1 <= len(one.proposals) <= 128
            assert [p.context_id for p in one.proposals] == [*range(1, 2 * len(one.proposals), 2)]


class TestChoose:
    PLAN = (
        dimse.Proposal(1, CT, (EXPLICIT,)),
        dimse.Proposal(3, CT, (IMPLICIT,)),
        dimse.Proposal(5, CT, (JPEG,)),
    )

    @pytest.mark.parametrize(
        ("stored", "accepted", "expected"),
        [
            (EXPLICIT, {1: EXPLICIT, 3: IMPLICIT}, (1, EXPLICIT)),
            (IMPLICIT, {1: EXPLICIT, 3: IMPLICIT}, (3, IMPLICIT)),
            (EXPLICIT, {3: IMPLICIT}, (3, IMPLICIT)),
            (BIG, {1: EXPLICIT, 3: IMPLICIT}, (1, EXPLICIT)),
            (JPEG, {1: EXPLICIT, 5: JPEG}, (5, JPEG)),
            (JPEG, {1: EXPLICIT, 3: IMPLICIT}, None),
            (EXPLICIT, {5: JPEG}, None),
            (EXPLICIT, {}, None),
        ],
    )
    def test_table(
        self, stored: str, accepted: dict[int, str], expected: tuple[int, str] | None
    ) -> None:
        ways = dimse.Preference().ways(stored)
        assert dimse.choose(CT, ways, proposals=self.PLAN, accepted=accepted) == expected

    def test_never_takes_another_sop_class(self) -> None:
        accepted = {1: EXPLICIT}
        assert dimse.choose("1.2", (EXPLICIT,), proposals=self.PLAN, accepted=accepted) is None


class TestAssociate:
    def test_says_that_nothing_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            nobody = dimse.Peer("127.0.0.1", taken.getsockname()[1], "X", "Y", ("1.2", "V"))
            with pytest.raises(dimse.Unreachable, match="refused"):
                dimse.associate(nobody, PROPOSALS, pace=dimse.Pace())

    def test_says_that_a_name_is_unknown(self) -> None:
        nobody = dimse.Peer("no-such-host.invalid", 104, "X", "Y", ("1.2", "V"))
        with pytest.raises(dimse.Unreachable, match="not known"):
            dimse.associate(nobody, PROPOSALS, pace=dimse.Pace())

    @pytest.mark.parametrize("numbers", [(1, 1, 3), (1, 1, 7), (2, 3, 2), (1, 2, 1)])
    def test_carries_the_numbers_of_a_rejection(self, numbers: tuple[int, int, int]) -> None:
        with Sink(Script(reject=numbers)) as sink, pytest.raises(dimse.Rejected) as caught:
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace())
        assert (caught.value.result, caught.value.source, caught.value.reason) == numbers

    def test_knows_the_peers_limit_and_syntaxes(self) -> None:
        with (
            Sink(Script(most_pdu=4096)) as sink,
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace()) as association,
        ):
            assert association.most_pdu == 4096
            assert association.contexts == {1: EXPLICIT, 3: IMPLICIT}

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x02\x00\xff\xff\xff\xff",
            b"\x02\x00\x00\x00\x00\x04\x00\x01\x00\x00",
            b"\x04\x00\x00\x00\x00\x00",
            b"\x03\x00\x00\x00\x00\x01\x00",
        ],
    )
    def test_refuses_an_answer_that_is_no_dicom(self, answer: bytes) -> None:
        def speak(connection: socket.socket) -> None:
            receive_pdu(connection)
            connection.sendall(answer)

        with RawSink(speak) as sink, pytest.raises(dimse.Malformed):
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace())

    def test_does_not_wait_for_ever_for_an_answer(self) -> None:
        with RawSink(_say_nothing) as sink, pytest.raises(dimse.Stalled):
            dimse.associate(peer(sink, response_timeout=0.3), PROPOSALS, pace=dimse.Pace())

    def test_stops_when_asked(self) -> None:
        with RawSink(_say_nothing) as sink, pytest.raises(dimse.Stopped):
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace(stop=lambda: True))

    @given(st.binary(max_size=300), st.integers(0, 8))
    def test_any_answer_is_read_or_refused_by_name(self, body: bytes, kind: int) -> None:
        try:
            accepted = acse.answer(Pdu(kind, body), PROPOSALS)
        except dimse.DimseError:
            return
        assert set(accepted.contexts) <= {1, 3}

    @given(st.data())
    def test_a_damaged_acceptance_is_read_or_refused_by_name(self, data: st.DataObject) -> None:
        sound = bytearray(_accepting())
        for _ in range(data.draw(st.integers(1, 6))):
            sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
        cut = sound[: data.draw(st.integers(0, len(sound)))]
        try:
            accepted = acse.answer(Pdu(2, bytes(cut)), PROPOSALS)
        except dimse.DimseError:
            return
        assert set(accepted.contexts) <= {1, 3}


def _accepting() -> bytes:
    """Return the body of an A-ASSOCIATE-AC, made by the helper that answers our own request."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=accept_association, args=(theirs,))
        thread.start()
        ours.sendall(
            acse.request(
                calling_ae="A",
                called_ae="B",
                most_pdu=16384,
                implementation=("1.2.3", "TEST"),
                proposals=PROPOSALS,
            )
        )
        thread.join()
        return receive_pdu(ours)[1]


class TestEcho:
    def test_is_answered(self) -> None:
        with (
            Sink() as sink,
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace()) as association,
        ):
            assert association.echo(3).status == 0
            assert association.echo(3).status == 0
        assert sink.echoes == 2


class TestStore:
    @pytest.mark.parametrize("most_pdu", [128, 4096, 16382, 0])
    @pytest.mark.parametrize("size", [2, 122, 124, 16376, 16378, 3_000_002])
    def test_delivers_every_byte_in_fragments_that_fit(self, size: int, most_pdu: int) -> None:
        if most_pdu == 128 and size > 20_000:
            size = 20_000
        data = bytes(range(256)) * (size // 256 + 1)
        got: list[bytes] = []

        def speak(connection: socket.socket) -> None:
            accept_association(connection, most_pdu=most_pdu)
            context_id, received, _ = receive_message(connection)
            got.append(received)
            connection.sendall(store_response(context_id, 0))
            receive_pdu(connection)

        with RawSink(speak) as sink:
            sent = store(sink, data[:size])
        assert got == [data[:size]]
        assert sent.response == dimse.Response(0)
        assert (sent.complete, sent.bytes_sent) == (True, size)
        assert sent.egress_sha256 == hashlib.sha256(data[:size]).hexdigest()

    def test_sends_many_over_one_association(self) -> None:
        with (
            Sink() as sink,
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace()) as association,
        ):
            for number in range(20):
                sent = association.store(parcel(b"%08d" % number))
                assert sent.response == dimse.Response(0)
        assert [stored.data for stored in sink.objects] == [b"%08d" % n for n in range(20)]
        assert sink.associations == 1

    @pytest.mark.parametrize("size", [100, 1 << 20, 3_000_002])
    def test_reads_the_next_while_an_answer_is_awaited(self, size: int) -> None:
        """What was begun is stored from its beginning, and another parcel is not mixed with it."""
        contents = [bytes([number]) * size for number in range(4)]
        parcels = [parcel(data) for data in contents]
        with (
            Sink() as sink,
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace()) as association,
        ):
            for number, one in enumerate(parcels):
                following = parcels[(number + 1) % 4]
                ahead = partial(association.begin, following) if number != 1 else None
                sent = association.store(one, meanwhile=ahead)
                assert sent.egress_sha256 == hashlib.sha256(contents[number]).hexdigest()
            assert [stored.data for stored in sink.objects] == contents

    def test_the_time_of_reading_ahead_is_not_the_peers(self) -> None:
        pace = dimse.Pace(deadline=lambda _size: 0.4)
        with (
            Sink() as sink,
            dimse.associate(peer(sink), PROPOSALS, pace=pace) as association,
        ):
            sent = association.store(parcel(bytes(100)), meanwhile=lambda: time.sleep(0.6))
        assert sent.response == dimse.Response(0)

    def test_tells_of_bytes_as_they_move(self) -> None:
        moved: list[int] = []
        with Sink() as sink:
            store(sink, bytes(500_000), dimse.Pace(progress=moved.append))
        assert sum(moved) > 500_000

    def test_lets_what_progress_raises_through_and_aborts(self) -> None:
        class LeaseLost(Exception):
            pass

        def lost(moved: int) -> None:
            if moved > 1000:
                raise LeaseLost

        with Sink() as sink:
            with pytest.raises(LeaseLost):
                store(sink, bytes(500_000), dimse.Pace(progress=lost))
            assert sink.objects == []

    @pytest.mark.parametrize("size", [1000, 5_000_000])
    def test_never_lets_the_last_byte_of_a_damaged_object_leave(self, size: int) -> None:
        with Sink() as sink:
            with (
                pytest.raises(dimse.Damaged),
                dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace()) as association,
            ):
                association.store(parcel(bytes(size), intact=lambda digest: False))
            assert sink.objects == []
        assert not association.is_open

    def test_keeps_the_association_when_nothing_of_the_damaged_object_had_left(self) -> None:
        with (
            Sink() as sink,
            dimse.associate(peer(sink), PROPOSALS, pace=dimse.Pace()) as association,
        ):
            with pytest.raises(dimse.Damaged):
                association.store(parcel(b"12", intact=lambda digest: False))
            assert association.store(parcel(b"34")).response == dimse.Response(0)
        assert [stored.data for stored in sink.objects] == [b"34"]


ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x05"
RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


class TestMisbehaviour:
    """Every case after the last byte has left, so that each is complete and without an answer."""

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (ABORT, dimse.Aborted),
            (RELEASE, dimse.Released),
            (b"", dimse.Lost),
            (b"GET / HTTP/1.1\r\n\r\n", dimse.Malformed),
            (b"\x04\x00\xff\xff\xff\xff", dimse.Malformed),
            (b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x09\x01\x03", dimse.Malformed),
            (store_response(1, 0, message_id=2), dimse.Malformed),
            (store_response(7, 0), dimse.Malformed),
            (store_response(1, 0)[:-2] + b"\x00", dimse.Lost),
            (b"\x04\x00\x00\x00\x00\x08\x00\x00\x00\x04\x01\x02ab", dimse.Malformed),
        ],
    )
    def test_an_answer_that_is_none(self, answer: bytes, expected: type[dimse.DimseError]) -> None:
        def speak(connection: socket.socket) -> None:
            accept_association(connection)
            receive_message(connection)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)

        with RawSink(speak) as sink:
            sent = store(sink, bytes(100))
        assert isinstance(sent.failure, expected)
        assert (sent.response, sent.complete) == (None, True)

    def test_no_answer_at_all(self) -> None:
        def speak(connection: socket.socket) -> None:
            accept_association(connection)
            receive_message(connection)
            receive_pdu(connection)

        with RawSink(speak) as sink:
            sent = store(sink, bytes(100), patience=0.6)
        assert isinstance(sent.failure, dimse.Stalled)
        assert str(sent.failure) == "no answer came within 0.6 seconds"

    def test_an_endless_answer(self) -> None:
        def speak(connection: socket.socket) -> None:
            accept_association(connection)
            receive_message(connection)
            fragment = struct.pack(">BxIIBB", 4, 4102, 4098, 1, 1) + bytes(4096)
            while True:
                connection.sendall(fragment)

        with RawSink(speak) as sink:
            sent = store(sink, bytes(100))
        assert isinstance(sent.failure, dimse.Malformed)

    def test_a_peer_that_never_reads(self) -> None:
        release = threading.Event()

        def speak(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            accept_association(connection)
            release.wait(20)

        with RawSink(speak) as sink:
            sent = store(sink, bytes(32 << 20), dimse.Pace(stall=0.5))
            release.set()
        assert isinstance(sent.failure, dimse.Stalled)
        assert not sent.complete
        assert sent.egress_sha256 is None

    @pytest.mark.parametrize(
        ("last_words", "expected"), [(ABORT, dimse.Aborted), (b"", dimse.Lost)]
    )
    def test_a_peer_that_goes_in_the_middle(
        self, last_words: bytes, expected: type[dimse.DimseError]
    ) -> None:
        def speak(connection: socket.socket) -> None:
            accept_association(connection)
            receive_pdu(connection)
            connection.sendall(last_words)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

        with RawSink(speak) as sink:
            sent = store(sink, bytes(64 << 20))
        assert isinstance(sent.failure, expected | dimse.Lost)
        assert not sent.complete

    def test_a_stop_in_the_middle(self) -> None:
        moved: list[int] = []
        with Sink() as sink:
            pace = dimse.Pace(progress=moved.append, stop=lambda: sum(moved) > 2_000_000)
            sent = store(sink, bytes(32 << 20), pace)
            assert isinstance(sent.failure, dimse.Stopped)
            assert not sent.complete
            assert sink.objects == []

    def test_a_deadline_for_the_whole_object(self) -> None:
        def speak(connection: socket.socket) -> None:
            accept_association(connection)
            while connection.recv(64):
                threading.Event().wait(0.01)

        with RawSink(speak) as sink:
            sent = store(sink, bytes(64 << 20), dimse.Pace(deadline=lambda size: 0.5))
        assert isinstance(sent.failure, dimse.Stalled)
        assert "deadline" in str(sent.failure)


class TestCommands:
    @given(st.binary(max_size=200))
    def test_any_answer_is_read_or_refused_by_name(self, command: bytes) -> None:
        try:
            heard = commands.Message(commands.parse(command), None)
            commands.has_data(heard.command)
            commands.response(heard, field=commands.C_STORE_RSP, message_id=1)
        except dimse.Malformed:
            return

    def test_names_the_offending_elements(self) -> None:
        elements = [(0x0100, b"\x01\x80"), (0x0120, b"\x01\x00"), (0x0800, b"\x01\x01")]
        elements += [(0x0900, b"\x00\xa9"), (0x0901, b"\x10\x00\x20\x00")]
        command = b"".join(struct.pack("<HHI", 0, el, len(v)) + v for el, v in elements)
        heard = commands.Message(commands.parse(command), None)
        answer = commands.response(heard, field=commands.C_STORE_RSP, message_id=1)
        assert answer == dimse.Response(0xA900, ("(0010,0020)",))
