"""Recorded sessions: what a lawful sender writes, PDU by PDU, as bytes built here.

The corpus of hostile sequences breaks one thing in one of them; the fuzzer breaks any.
"""

import struct

from tests.receivers import CT, EXPLICIT_LITTLE, make_object
from tests.senders import ABORT, IMPLICIT_LITTLE, RELEASE_RQ, VERIFICATION

Session = tuple[bytes, ...]

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
MR = "1.2.840.10008.5.1.4.1.1.4"


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """A PDU (PS3.8 9.3.1); `length` is what it claims when that is a lie."""
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


def pdv(context: int, control: int, data: bytes, *, length: int | None = None) -> bytes:
    """A presentation data value item (PS3.8 9.3.5.1); control bit 0 command, bit 1 last."""
    size = len(data) + 2 if length is None else length
    return struct.pack(">IBB", size, context, control) + data


def pdata(*items: bytes) -> bytes:
    """A P-DATA-TF PDU."""
    return pdu(4, b"".join(items))


def item(kind: int, value: bytes) -> bytes:
    """An item or sub-item of an association request (PS3.8 9.3.2)."""
    return struct.pack(">BxH", kind, len(value)) + value


def associate(
    *,
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = (
        (VERIFICATION, (IMPLICIT_LITTLE,)),
        (CT, (EXPLICIT_LITTLE, IMPLICIT_LITTLE)),
    ),
    called: bytes = b"DICOMROUTER",
    calling: bytes = b"HOSTILE",
    user: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ; contexts are numbered 1, 3, 5, …"""
    parts = [item(0x10, APPLICATION_CONTEXT)]
    for number, (abstract, syntaxes) in enumerate(contexts):
        items = item(0x30, abstract.encode("ascii"))
        items += b"".join(item(0x40, syntax.encode("ascii")) for syntax in syntaxes)
        parts.append(item(0x20, bytes((2 * number + 1 & 0xFF, 0, 0, 0)) + items))
    common = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4.5") + user
    parts.append(item(0x50, common))
    head = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16), calling.ljust(16))
    return pdu(1, head + b"".join(parts))


def element(number: int, value: bytes, *, group: int = 0, length: int | None = None) -> bytes:
    """A command element, Implicit VR Little Endian (PS3.7 6.3.1)."""
    return struct.pack("<HHI", group, number, len(value) if length is None else length) + value


def command(*elements: bytes) -> bytes:
    """A command set with its group length."""
    body = b"".join(elements)
    return element(0, struct.pack("<I", len(body))) + body


def us(value: int) -> bytes:
    return value.to_bytes(2, "little")


def uid(text: str) -> bytes:
    raw = text.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def echo_rq(number: int = 1) -> bytes:
    return command(
        element(0x0002, uid(VERIFICATION)),
        element(0x0100, us(0x0030)),
        element(0x0110, us(number)),
        element(0x0800, us(0x0101)),
    )


def store_rq(number: int = 1, *, instance: str, sop_class: str = CT) -> bytes:
    return command(
        element(0x0002, uid(sop_class)),
        element(0x0100, us(0x0001)),
        element(0x0110, us(number)),
        element(0x0700, us(0)),
        element(0x0800, us(0)),
        element(0x1000, uid(instance)),
    )


def store(number: int, *, fragment: int = 1 << 14, together: bool = False) -> Session:
    """One C-STORE on context 3."""
    thing = make_object(number)
    data = thing.data
    request = pdv(3, 3, store_rq(number, instance=thing.sop_instance_uid))
    starts = range(0, len(data), fragment)
    pieces = [
        pdv(3, 2 if start + fragment >= len(data) else 0, data[start : start + fragment])
        for start in starts
    ]
    if together:
        return (pdata(request, *pieces),)
    return (pdata(request), *map(pdata, pieces))


def echo(number: int = 1) -> Session:
    """One C-ECHO on context 1."""
    return (pdata(pdv(1, 3, echo_rq(number))),)


def foreign() -> Session:
    """A C-FIND with its identifier on the storage context, which is not offered there."""
    find = command(
        element(0x0002, uid("1.2.840.10008.5.1.4.1.2.2.1")),
        element(0x0100, us(0x0020)),
        element(0x0110, us(7)),
        element(0x0800, us(0)),
    )
    return (pdata(pdv(3, 3, find)), pdata(pdv(3, 2, b"identifier")))


def report() -> Session:
    """A report on a commitment, on context 5."""
    event = command(
        element(0x0002, uid(COMMITMENT)),
        element(0x0100, us(0x0100)),
        element(0x0110, us(9)),
        element(0x0800, us(0)),
        element(0x1000, uid(f"{COMMITMENT}.1")),
        element(0x1002, us(2)),
    )
    information = element(0x1195, uid("2.25.7"), group=8)
    for tag, reason in ((0x1198, element(0x1197, us(0x0112), group=8)), (0x1199, b"")):
        one = element(0x1150, uid(CT), group=8) + element(0x1155, uid("1.2.3.4"), group=8)
        wrapped = element(0xE000, one + reason, group=0xFFFE)
        information += element(tag, wrapped, group=8)
    return (pdata(pdv(5, 3, event)), pdata(pdv(5, 2, information)))


_REPORTER = item(0x54, struct.pack(">H", len(COMMITMENT)) + COMMITMENT.encode() + b"\0\1")
_ROLE = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1")
_IDENTITY = item(0x58, b"\2\1\0\4user\0\6secret")
_EXTENDED = item(0x56, struct.pack(">H", len(CT)) + CT.encode() + b"\2\0\0\0\1\0")
_ASYNC = item(0x53, b"\0\5\0\5")

RECORDED: dict[str, Session] = {
    "echo": (associate(), *echo(), RELEASE_RQ),
    "store": (associate(), *store(1), RELEASE_RQ),
    "fragments": (associate(), *store(2, fragment=700), RELEASE_RQ),
    "one_pdu": (associate(), *store(3, together=True), RELEASE_RQ),
    "several": (associate(), *store(4), *echo(5), *store(6, fragment=512), *echo(7), RELEASE_RQ),
    "foreign": (associate(), *foreign(), *store(8), RELEASE_RQ),
    "abort": (associate(), *store(9), ABORT),
    "negotiation": (
        associate(user=_ROLE + _IDENTITY + _EXTENDED + _ASYNC),
        *store(10),
        RELEASE_RQ,
    ),
    "many_contexts": (
        associate(contexts=((VERIFICATION, (IMPLICIT_LITTLE,)), (CT, (EXPLICIT_LITTLE,)))
                  + ((MR, (IMPLICIT_LITTLE, EXPLICIT_LITTLE)),) * 126),
        *store(11),
        RELEASE_RQ,
    ),
    "report": (
        associate(
            contexts=((VERIFICATION, (IMPLICIT_LITTLE,)), (CT, (EXPLICIT_LITTLE,)),
                      (COMMITMENT, (IMPLICIT_LITTLE,))),
            user=_REPORTER,
        ),
        *report(),
        RELEASE_RQ,
    ),
    "unknown_called": (associate(called=b"OTHER"),),
}  # fmt: skip
