"""Hostile sequences with what must come of them: every row of the probes, and each crash found.

`ends` names the last PDU type the peer may read (7 A-ABORT, 4 an answer, 3 a rejection, 2 an
acceptance, 0 nothing but the end). When a fuzzer finds a crash, its sequence becomes a probe here.
"""

from dataclasses import dataclass

from tests.faults.hostile.sessions import (
    Session,
    associate,
    command,
    echo,
    echo_rq,
    element,
    item,
    pdata,
    pdu,
    pdv,
    store,
    store_rq,
    us,
)
from tests.senders import RELEASE_RQ

RQ = associate()
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)


@dataclass(frozen=True)
class Probe:
    """One hostile sequence."""

    name: str
    pdus: Session
    ends: frozenset[int]
    holds_open: bool = False  # the peer goes on listening: the deadline has to cut it


def _probe(name: str, *pdus: bytes, ends: tuple[int, ...] = (7, 0), holds: bool = False) -> Probe:
    return Probe(name, pdus, frozenset(ends), holds)


def _sub_item_of_a_wrong_kind() -> bytes:
    """An application context inside the user information killed the upper layer's thread."""
    return associate(user=item(0x10, b"1.2.3"))


def _echo_with_data() -> bytes:
    return echo_rq().replace(element(0x0800, us(0x0101)), element(0x0800, us(0)))


def _stored_as(text: str) -> Session:
    """An object whose command names it by `text`."""
    request = pdv(3, 3, store_rq(instance=text))
    return (pdata(request), *store(1)[1:])


UIDS = (
    "", "../../../../tmp/x", "/etc/passwd", "1.2\0.3", "<script>", "1..2", "1" * 65, "1.2 .3",
    ".", "=1+1", "${jndi:ldap://x}", "%0d%0a", "\x1b[2J", "1.2.\n3", "1" * 60000,
)  # fmt: skip


PROBES: tuple[Probe, ...] = (
    # before an association
    _probe("pdu_of_4_gib", b"\x01\x00\xff\xff\xff\xff" + bytes(100)),
    _probe("request_over_the_cap", b"\x01\x00\x00\x01\x00\x01" + bytes(100)),
    _probe("data_before_a_request", b"\x04\x00\x00\x00\x00\x10" + bytes(16)),
    _probe("release_before_a_request", RELEASE_RQ),
    _probe("request_too_short", pdu(1, bytes(10))),
    _probe("http", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ends=(0,)),
    _probe("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ends=(0,)),
    _probe("tls_hello", TLS_HELLO, ends=(0,)),
    _probe("ssh", b"SSH-2.0-OpenSSH_9.2\r\n", ends=(0,)),
    _probe("zeros", bytes(4096), ends=(0,)),
    _probe("silence", ends=(0,), holds=True),
    _probe("three_bytes", b"\x01\x00\x00", ends=(0,), holds=True),
    _probe("half_a_request", RQ[:100], ends=(0,), holds=True),
    _probe("half_a_request_and_gone", RQ[:100], ends=(0,)),
    # in the request
    _probe("request_of_zeros", pdu(1, bytes(200))),
    _probe("request_without_items", pdu(1, RQ[6:74])),
    _probe("item_longer_than_its_request", RQ[:-40] + b"\x50\x00\xff\xff" + RQ[-36:]),
    _probe("sub_item_of_a_wrong_kind", _sub_item_of_a_wrong_kind(), ends=(7, 0, 3, 2)),
    _probe("called_ae_with_control", associate(called=b"DICOM\x1b[2J"), ends=(3, 7, 0)),
    _probe("calling_ae_not_ascii", associate(calling=b"\x89\xff\xfe"), ends=(2, 3, 7, 0)),
    _probe("request_twice", RQ, RQ),
    _probe("echo_ahead_of_our_answer", RQ + echo()[0], ends=(4,)),
    # in the dialogue
    _probe("data_pdu_of_4_gib", RQ, b"\x04\x00\xff\xff\xff\xff" + bytes(100)),
    _probe("release_over_the_cap", RQ, b"\x05\x00\x00\x01\x00\x00" + bytes(100)),
    _probe("unknown_pdu", RQ, b"\x09\x00\x00\x00\x00\x04" + bytes(4)),
    _probe("data_pdu_without_items", RQ, pdu(4, b"")),
    _probe("item_cut_short", RQ, pdu(4, b"abc")),
    _probe("empty_item", RQ, pdata(pdv(1, 3, b"", length=1))),
    _probe("item_longer_than_its_pdu", RQ, pdata(pdv(1, 3, b"abcdefgh", length=5000))),
    _probe("wrong_context", RQ, pdata(pdv(99, 3, echo_rq()))),
    _probe("refused_context", RQ, pdata(pdv(5, 3, echo_rq()))),
    _probe("data_before_command", RQ, pdata(pdv(3, 2, b"data"))),
    _probe("garbage_command", RQ, pdata(pdv(1, 3, b"garbage command"))),
    _probe("empty_command", RQ, pdata(pdv(1, 3, b""))),
    _probe("command_without_field", RQ, pdata(pdv(1, 3, command(element(0x0110, us(1)))))),
    _probe(
        "unknown_field",
        RQ,
        pdata(pdv(1, 3, command(element(0x0100, us(0x7777)), element(0x0110, us(1))))),
    ),
    _probe(
        "command_of_another_group",
        RQ,
        pdata(pdv(1, 3, element(0x0010, b"x" * 8, group=0x0008))),
    ),
    _probe(
        "command_element_beyond",
        RQ,
        pdata(pdv(1, 3, element(0x0002, b"1.2", length=1 << 31))),
    ),
    _probe("response_as_request", RQ, pdata(pdv(1, 3, echo_rq().replace(us(0x30), us(0x8030))))),
    _probe("endless_command", RQ, *[pdata(pdv(1, 1, bytes(60000)))] * 3),
    _probe("endless_empty_fragments", RQ, *[pdata(*[pdv(1, 1, b"")] * 2000)] * 5),
    _probe("command_amid_data", RQ, *store(1, fragment=700)[:2], *echo()),
    _probe("context_changes_amid_data", RQ, store(1)[0], pdata(pdv(1, 2, b"data"))),
    _probe("drip_in_the_data", RQ, *store(1, fragment=700)[:3], ends=(7, 0), holds=True),
    _probe("half_a_data_pdu", RQ, store(1)[0], store(1)[1][:500], ends=(7, 0), holds=True),
    _probe("silence_after_accept", RQ, ends=(7, 0), holds=True),
    _probe("gone_amid_data", RQ, *store(1, fragment=700)[:3], ends=(2, 7, 0)),
    # lawful after all: answered, and the association lives
    _probe(
        "cancel_of_nothing",
        RQ,
        pdata(pdv(1, 3, command(element(0x0100, us(0x0FFF)), element(0x0120, us(1))))),
        *echo(),
        ends=(4,),
    ),
    _probe(
        "echo_with_a_data_set", RQ, pdata(pdv(1, 3, _echo_with_data()), pdv(1, 2, b"x")), ends=(4,)
    ),
    *(
        _probe(f"uid_{number}", RQ, *_stored_as(text), ends=(4,))
        for number, text in enumerate(UIDS)
    ),
)
