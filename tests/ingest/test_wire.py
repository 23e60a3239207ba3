"""Bytes of the network: bounded reading, command sets in and out."""

import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.status import Status
from ingest.wire import (
    MOST_ASSOCIATE,
    Command,
    DeadlinePassed,
    PeerGone,
    ProtocolError,
    Reader,
    StopRequested,
    decode_command,
    encode_response,
)

ECHO = (
    struct.pack("<HHIH", 0, 0x0100, 2, 0x0030)
    + struct.pack("<HHIH", 0, 0x0110, 2, 7)
    + struct.pack("<HHIH", 0, 0x0800, 2, 0x0101)
    + struct.pack("<HHI", 0, 0x0002, 18)
    + b"1.2.840.10008.1.1\0"
)


def reader_of(
    data: bytes, *, close: bool = True, **options: object
) -> tuple[Reader, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    near.settimeout(0.05)
    far.sendall(data)
    if close:
        far.shutdown(socket.SHUT_WR)
    return Reader(near, **{"idle_seconds": 5.0, **options}), far  # type: ignore[arg-type]


def finish(reader: Reader, far: socket.socket) -> None:
    reader._socket.close()
    far.close()


def test_reads_pdus_one_after_the_other() -> None:
    release = bytes.fromhex("0500 00000004 00000000")
    data = b"\x04\x00\x00\x00\x00\x10" + struct.pack(">IBB", 12, 1, 2) + b"0123456789"
    reader, far = reader_of(data * 3 + release, buffer=64)
    for _ in range(3):
        kind, length = reader.pdu_header()
        assert kind == 4
        for fragment in reader.fragments(length):
            assert (fragment.length, fragment.context_id) == (10, 1)
            assert (fragment.is_command, fragment.is_last) == (False, True)
            assert bytes(reader.take(fragment.length)) == b"0123456789"
    kind, length = reader.pdu_header()
    assert reader.pdu_body(kind, length) == release
    with pytest.raises(PeerGone):
        reader.pdu_header()
    finish(reader, far)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">BxI", 1, MOST_ASSOCIATE + 1),
        struct.pack(">BxI", 4, 131072 + 65),
        struct.pack(">BxI", 5, 65),
        struct.pack(">BxI", 0, 4),
        struct.pack(">BxI", 8, 4),
        b"GET / ",
    ],
)
def test_lengths_are_judged_before_anything_is_read(header: bytes) -> None:
    reader, far = reader_of(header, close=False)
    with pytest.raises(ProtocolError):
        reader.pdu_header()
    finish(reader, far)


def test_fragments_are_held_as_one_run_until_the_buffer_is_needed() -> None:
    parts = [bytes([65 + n]) * 20 for n in range(9)]
    items = [struct.pack(">IBB", 22, 1, 0) + part for part in parts]
    pdus = b"".join(struct.pack(">BxI", 4, len(item)) + item for item in items)
    reader, far = reader_of(pdus, buffer=128)
    taken: list[bytes] = []

    def take() -> None:
        taken.append(bytes(reader.held()))

    reader.before_reading = take
    for _ in parts:
        _, length = reader.pdu_header()
        for fragment in reader.fragments(length):
            left = fragment.length
            while left:
                left -= reader.hold(left)
    take()
    assert b"".join(taken) == b"".join(parts)
    assert max(map(len, taken)) > 20
    assert not reader.held()
    finish(reader, far)


def test_nothing_arriving_is_noticed() -> None:
    reader, far = reader_of(b"", close=False, idle_seconds=0.1)
    with pytest.raises(DeadlinePassed):
        reader.pdu_header()
    finish(reader, far)


def test_a_dripping_pdu_runs_into_its_deadline() -> None:
    reader, far = reader_of(b"\x05\x00\x00\x00\x00\x04\x00", close=False, pdu_seconds=0.2)
    kind, length = reader.pdu_header()
    with pytest.raises(DeadlinePassed):
        reader.pdu_body(kind, length)
    finish(reader, far)


def test_stopping_is_noticed() -> None:
    reader, far = reader_of(b"", close=False, is_stopping=lambda: True)
    with pytest.raises(StopRequested):
        reader.pdu_header()
    finish(reader, far)


def test_without_reading_ahead_the_rest_stays_in_the_socket() -> None:
    reader, far = reader_of(bytes.fromhex("0500 00000004 00000000") + b"rest", reads_ahead=False)
    kind, length = reader.pdu_header()
    reader.pdu_body(kind, length)
    assert reader._socket.recv(100) == b"rest"
    finish(reader, far)


def test_decodes_a_command() -> None:
    command = decode_command(ECHO)
    assert (command.field, command.message_id, command.has_data_set) == (0x0030, 7, False)
    assert command.sop_class_uid == "1.2.840.10008.1.1"
    assert command.sop_instance_uid == ""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes) -> None:
    with suppress(ProtocolError):
        assert isinstance(decode_command(data), Command)


@given(st.integers(0, len(ECHO)), st.integers(0, 255))
def test_a_changed_byte_never_surprises(at: int, value: int) -> None:
    data = bytearray(ECHO + b"\0")
    data[at] = value
    with suppress(ProtocolError):
        decode_command(bytes(data[:-1]))


def test_a_response_can_be_read_by_pynetdicom() -> None:
    from io import BytesIO

    from pynetdicom.dsutils import decode
    from pynetdicom.pdu import P_DATA_TF

    pdu = P_DATA_TF()
    pdu.decode(encode_response(decode_command(ECHO), 5, status=Status.DUPLICATE, comment="x" * 70))
    (item,) = pdu.presentation_data_value_items
    assert item.context_id == 5
    ds = decode(BytesIO(item.presentation_data_value[1:]), True, True)
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.Status) == (0x8030, 7, 0xC001)
    assert ds.ErrorComment == "x" * 64
    assert ds.AffectedSOPClassUID == "1.2.840.10008.1.1"
    assert ds.CommandGroupLength == len(item.presentation_data_value) - 1 - 12
