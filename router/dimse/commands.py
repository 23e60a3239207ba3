"""DIMSE command sets as bytes (PS3.7 6.3.1 and 9.3): implicit VR little endian, group 0000 only."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from router.dimse.errors import Malformed

VERIFICATION = "1.2.840.10008.1.1"
C_STORE_RQ, C_STORE_RSP, C_ECHO_RQ, C_ECHO_RSP = 0x0001, 0x8001, 0x0030, 0x8030
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP = 0x0100, 0x8100
N_ACTION_RQ, N_ACTION_RSP = 0x0130, 0x8130
PENDING = frozenset({0xFF00, 0xFF01})
"""PS3.4 C.4.1.1.4: a match comes with this answer, and the final one does not."""
DATA_SET_PRESENT, NO_DATA_SET = 0x0001, 0x0101
MEDIUM = 0x0000
MOST_UID = 64

AFFECTED_SOP_CLASS, REQUESTED_SOP_CLASS = 0x0002, 0x0003
COMMAND_FIELD, MESSAGE_ID = 0x0100, 0x0110
RESPONDED_TO, PRIORITY, DATA_SET_TYPE, STATUS = 0x0120, 0x0700, 0x0800, 0x0900
OFFENDING_ELEMENT, AFFECTED_SOP_INSTANCE = 0x0901, 0x1000
REQUESTED_SOP_INSTANCE, EVENT_TYPE, ACTION_TYPE = 0x1001, 0x1002, 0x1008

_ELEMENT = struct.Struct("<HHI")


@dataclass(frozen=True, slots=True)
class Response:
    """The parts of a response that matter. `offending` names elements by tag."""

    status: int
    offending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the peer: the elements of its command set by number, and its data set."""

    command: Mapping[int, bytes]
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Event:
    """An N-EVENT-REPORT-RQ of the peer (PS3.7 10.3.1.1); `data` is its Event Information."""

    sop_class_uid: str
    sop_instance_uid: str
    type_id: int
    message_id: int
    data: bytes


def store_request(sop_class_uid: str, sop_instance_uid: str, *, message_id: int) -> bytes:
    """Return a C-STORE-RQ (PS3.7 9.3.1.1)."""
    return _command(
        (AFFECTED_SOP_CLASS, _uid(sop_class_uid)),
        (COMMAND_FIELD, _short(C_STORE_RQ)),
        (MESSAGE_ID, _short(message_id)),
        (PRIORITY, _short(MEDIUM)),
        (DATA_SET_TYPE, _short(DATA_SET_PRESENT)),
        (AFFECTED_SOP_INSTANCE, _uid(sop_instance_uid)),
    )


def find_request(sop_class_uid: str, *, message_id: int) -> bytes:
    """Return a C-FIND-RQ (PS3.7 9.3.2.1)."""
    return _command(
        (AFFECTED_SOP_CLASS, _uid(sop_class_uid)),
        (COMMAND_FIELD, _short(C_FIND_RQ)),
        (MESSAGE_ID, _short(message_id)),
        (PRIORITY, _short(MEDIUM)),
        (DATA_SET_TYPE, _short(DATA_SET_PRESENT)),
    )


def echo_request(*, message_id: int) -> bytes:
    """Return a C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return _command(
        (AFFECTED_SOP_CLASS, _uid(VERIFICATION)),
        (COMMAND_FIELD, _short(C_ECHO_RQ)),
        (MESSAGE_ID, _short(message_id)),
        (DATA_SET_TYPE, _short(NO_DATA_SET)),
    )


def action_request(
    sop_class_uid: str, sop_instance_uid: str, *, type_id: int, message_id: int
) -> bytes:
    """Return an N-ACTION-RQ with Action Information (PS3.7 10.3.4.1)."""
    return _command(
        (REQUESTED_SOP_CLASS, _uid(sop_class_uid)),
        (COMMAND_FIELD, _short(N_ACTION_RQ)),
        (MESSAGE_ID, _short(message_id)),
        (DATA_SET_TYPE, _short(DATA_SET_PRESENT)),
        (REQUESTED_SOP_INSTANCE, _uid(sop_instance_uid)),
        (ACTION_TYPE, _short(type_id)),
    )


def event_response(event: Event, *, status: int) -> bytes:
    """Return the N-EVENT-REPORT-RSP to `event`, without an Event Reply (PS3.7 10.3.1.2)."""
    return _command(
        (AFFECTED_SOP_CLASS, _uid(event.sop_class_uid)),
        (COMMAND_FIELD, _short(N_EVENT_REPORT_RSP)),
        (RESPONDED_TO, _short(event.message_id)),
        (DATA_SET_TYPE, _short(NO_DATA_SET)),
        (STATUS, _short(status)),
        (AFFECTED_SOP_INSTANCE, _uid(event.sop_instance_uid)),
        (EVENT_TYPE, _short(event.type_id)),
    )


def event_of(heard: Message) -> Event | None:
    """Return the N-EVENT-REPORT that a message of the peer is, None when it is another.

    Raises:
        Malformed: it lacks what belongs to one.
    """
    elements = heard.command
    if _number(elements, COMMAND_FIELD) != N_EVENT_REPORT_RQ:
        return None
    return Event(
        _text(elements, AFFECTED_SOP_CLASS),
        _text(elements, AFFECTED_SOP_INSTANCE),
        _number(elements, EVENT_TYPE),
        _number(elements, MESSAGE_ID),
        heard.data or b"",
    )


def response(heard: Message, *, field: int, message_id: int) -> Response:
    """Read the answer to message `message_id`, which must be of command field `field`. A match of
    a C-FIND carries a data set, and an N-ACTION's answer may (its Action Reply).

    Raises:
        Malformed: another command, another message's answer, or no status.
    """
    elements = heard.command
    found = _number(elements, COMMAND_FIELD)
    if found != field:
        raise Malformed(f"the peer sent the command {found:#06x} where {field:#06x} is due")
    if _number(elements, RESPONDED_TO) != message_id:
        raise Malformed("the peer answered a message that was not sent")
    status = _number(elements, STATUS)
    is_due = field == C_FIND_RSP and status in PENDING
    if field != N_ACTION_RSP and (heard.data is not None) != is_due:
        raise Malformed("the peer's answer announces a data set that is not due, or none")
    return Response(status, _tags(elements.get(OFFENDING_ELEMENT, b"")))


def has_data(command: Mapping[int, bytes]) -> bool:
    """Tell whether a data set follows this command set.

    Raises:
        Malformed: it does not say so.
    """
    return _number(command, DATA_SET_TYPE) != NO_DATA_SET


def _command(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in elements)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def _short(value: int) -> bytes:
    return struct.pack("<H", value)


def _uid(value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    return encoded + b"\0" * (len(encoded) % 2)


def parse(command: bytes) -> Mapping[int, bytes]:
    """Return the elements of a command set by element number.

    Raises:
        Malformed: it is none.
    """
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(command):
        if len(command) - at < _ELEMENT.size:
            raise Malformed("the peer's command ends within an element")
        group, element, length = _ELEMENT.unpack_from(command, at)
        at += _ELEMENT.size
        if group != 0 or length > len(command) - at:
            raise Malformed("the peer's command cannot be read")
        elements[element] = command[at : at + length]
        at += length
    return elements


def _number(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise Malformed(f"the peer's answer lacks (0000,{element:04X})")
    return int.from_bytes(value, "little")


def _text(elements: Mapping[int, bytes], element: int) -> str:
    value = elements.get(element, b"")[:MOST_UID]
    return value.decode("ascii", "replace").rstrip("\0 ")


def _tags(value: bytes) -> tuple[str, ...]:
    whole = value[: min(len(value), 64) // 4 * 4]
    return tuple(f"({group:04X},{el:04X})" for group, el in struct.iter_unpack("<HH", whole))
