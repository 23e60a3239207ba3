"""Breaks recorded sessions, with knowledge of PDUs, items and command sets.

A sequence is known by its seed alone: `sequence(seed)` gives the same bytes for ever.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.faults.hostile.sessions import RECORDED, Session, pdata, pdu, pdv

MOST_BYTES = 1 << 20
_LENGTHS = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    63,
    64,
    65,
    68,
    0xFFFF,
    0x10000,
    131072,
    131137,
    1 << 31,
    0xFFFFFFFF,
)
_TEXTS = (
    b"../../../../tmp/x", b"/etc/passwd", b"1.2\0.3", b"1..2", b"<script>", b"=1+1", b"%0d%0a",
    b"${jndi:ldap://x}", b"\x1b[2J", b"\xe2\x80\xae", b"1." * 40, b"", b"\xff" * 64, b"1.2.3",
)  # fmt: skip
_FIELDS = (0, 1, 0x20, 0x30, 0x110, 0x7777, 0x8001, 0x8030, 0x0FFF, 0xFFFF)

Mutation = Callable[[random.Random, list[bytes]], None]


@dataclass(frozen=True)
class Sequence:
    """What a peer sends: its PDUs, how they are cut into writes, and how it ends."""

    seed: str
    pdus: Session
    write_size: int = 0
    ending: str = "half_close"  # half_close | listen | reset | close


def sequence(seed: str) -> Sequence:
    """The sequence of a seed."""
    chance = random.Random(seed)
    pdus = list(RECORDED[chance.choice(sorted(RECORDED))])
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        chance.choice(MUTATIONS)(chance, pdus)
        if not pdus:
            break
    kept: list[bytes] = []
    room = MOST_BYTES
    for one in pdus:
        kept.append(one[:room])
        room -= len(kept[-1])
    ending = chance.choices(("half_close", "reset", "close"), (8, 1, 1))[0]
    write_size = chance.choices((0, 1 << 10, 7), (12, 2, 1))[0]
    made = Sequence(seed, tuple(kept), write_size, ending)
    return made if write_size != 7 else replace(made, pdus=_short(made.pdus))


def _short(pdus: Session) -> Session:
    """Few bytes at a time only where few bytes are to be sent."""
    return pdus if sum(map(len, pdus)) < 1 << 13 else pdus[:1]


def _pick(chance: random.Random, pdus: list[bytes]) -> int:
    """A PDU, rarely the first, since a broken request shows nothing of what follows."""
    if len(pdus) == 1 or chance.random() < 0.25:
        return 0
    return chance.randrange(1, len(pdus))


def drop(chance: random.Random, pdus: list[bytes]) -> None:
    del pdus[_pick(chance, pdus)]


def double(chance: random.Random, pdus: list[bytes]) -> None:
    at = _pick(chance, pdus)
    pdus[at:at] = [pdus[at]] * chance.choice((1, 1, 2, 50))


def swap(chance: random.Random, pdus: list[bytes]) -> None:
    one, other = _pick(chance, pdus), _pick(chance, pdus)
    pdus[one], pdus[other] = pdus[other], pdus[one]


def cut(chance: random.Random, pdus: list[bytes]) -> None:
    at = _pick(chance, pdus)
    pdus[at] = pdus[at][: chance.randrange(len(pdus[at]) + 1)]


def retype(chance: random.Random, pdus: list[bytes]) -> None:
    at = _pick(chance, pdus)
    pdus[at] = bytes((chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x16, 0x47, 255)),)) + pdus[at][1:]


def lie_about_pdu(chance: random.Random, pdus: list[bytes]) -> None:
    at = _pick(chance, pdus)
    body = pdus[at][6:]
    near = max(0, len(body) + chance.choice((-2, -1, 1, 2)))
    length = chance.choice((near, chance.choice(_LENGTHS)))
    pdus[at] = pdu(pdus[at][0] if pdus[at] else 4, body, length=length & 0xFFFFFFFF)


def lie_about_item(chance: random.Random, pdus: list[bytes]) -> None:
    """Another length, context or control header of the first item of a P-DATA PDU."""
    at = _pick(chance, pdus)
    if len(pdus[at]) < 12:
        return
    length, context, control = struct.unpack_from(">IBB", pdus[at], 6)
    what = chance.randrange(3)
    if what == 0:
        length = chance.choice((length - 1, length + 1, *_LENGTHS)) & 0xFFFFFFFF
    elif what == 1:
        context = chance.choice((0, 1, 2, 3, 5, 99, 255))
    else:
        control = chance.choice((0, 1, 2, 3, 4, 7, 255))
    head = struct.pack(">IBB", length, context, control)
    pdus[at] = pdus[at][:6] + head + pdus[at][12:]


def flip(chance: random.Random, pdus: list[bytes]) -> None:
    at = _pick(chance, pdus)
    data = bytearray(pdus[at])
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    pdus[at] = bytes(data)


def insert_noise(chance: random.Random, pdus: list[bytes]) -> None:
    noise = chance.randbytes(chance.choice((1, 6, 10, 100, 5000)))
    kind = chance.choice((0, 1, 4, 5, 7, 200))
    made = chance.choice((noise, pdu(kind, noise), pdata(pdv(3, chance.randrange(4), noise))))
    pdus.insert(chance.randrange(len(pdus) + 1), made)


def empty_items(chance: random.Random, pdus: list[bytes]) -> None:
    control = chance.randrange(4)
    made = pdata(*[pdv(chance.choice((1, 3)), control, b"")] * chance.choice((1, 3, 500)))
    pdus.insert(chance.randrange(1, len(pdus) + 1), made)


def endless_fragments(chance: random.Random, pdus: list[bytes]) -> None:
    made = pdata(pdv(3, chance.randrange(2), bytes(chance.choice((100, 16000)))))
    at = chance.randrange(1, len(pdus) + 1)
    pdus[at:at] = [made] * chance.choice((2, 20, 60))


def edit_command(chance: random.Random, pdus: list[bytes]) -> None:
    """Other values, lengths, tags or order in a command set."""
    found = [n for n, one in enumerate(pdus) if one[:1] == b"\4" and one[11:12] == b"\3"]
    if not found:
        return
    at = chance.choice(found)
    length, context = struct.unpack_from(">IB", pdus[at], 6)
    elements = _elements(pdus[at][12 : 10 + length])
    rest = pdus[at][10 + length :]
    _edit(chance, elements)
    body = b"".join(struct.pack("<HHI", *head) + value for head, value in elements)
    pdus[at] = pdata(pdv(context, 3, body), rest)


def _edit(chance: random.Random, elements: list[tuple[tuple[int, int, int], bytes]]) -> None:
    if not elements:
        return
    at = chance.randrange(len(elements))
    (group, number, _), value = elements[at]
    what = chance.randrange(6)
    if what == 0:
        value = chance.choice(_FIELDS).to_bytes(2, "little")
    elif what == 1:
        value = chance.choice(_TEXTS)
    elif what == 2:
        elements[at] = (group, number, chance.choice(_LENGTHS)), value
        return
    elif what == 3:
        group, number = chance.choice(((0, 0x0800), (0, 0x0900), (2, 0x0010), (0xFFFE, 0xE000)))
    elif what == 4:
        del elements[at]
        return
    else:
        elements[at:at] = [elements[at]] * chance.choice((1, 3, 2000))
    elements[at] = (group, number, len(value)), value


def _elements(data: bytes) -> list[tuple[tuple[int, int, int], bytes]]:
    found, at = [], 0
    while at + 8 <= len(data):
        head = struct.unpack_from("<HHI", data, at)
        found.append((head, data[at + 8 : at + 8 + head[2]]))
        at += 8 + head[2]
    return found


def edit_request(chance: random.Random, pdus: list[bytes]) -> None:
    """Another type, length or content of an item or sub-item of the association request."""
    data = bytearray(pdus[0])
    starts = [
        at
        for at in range(74, len(data) - 4)
        if data[at] in {0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x52, 0x54, 0x58} and data[at + 1] == 0
    ]
    if not starts:
        return
    at = chance.choice(starts)
    what = chance.randrange(4)
    if what == 0:
        data[at] = chance.choice((0, 0x10, 0x20, 0x21, 0x40, 0x50, 0x51, 0x53, 0x56, 0x58, 0xFF))
    elif what == 1:
        data[at + 2 : at + 4] = (chance.choice(_LENGTHS) & 0xFFFF).to_bytes(2, "big")
    elif what == 2:
        text = chance.choice(_TEXTS)
        data[at + 4 : at + 4 + len(text)] = text
    else:
        data[at:at] = data[at : at + chance.randrange(4, 200)] * chance.choice((1, 5, 100))
    pdus[0] = pdu(1, bytes(data[6:]))


def rename_entities(chance: random.Random, pdus: list[bytes]) -> None:
    """Hostile text as called or calling AE title."""
    at = chance.choice((10, 26))
    text = chance.choice(_TEXTS)[:16].ljust(16)
    pdus[0] = pdus[0][:at] + text + pdus[0][at + 16 :]


MUTATIONS: tuple[Mutation, ...] = (
    drop, double, swap, cut, retype, lie_about_pdu, lie_about_item, lie_about_item, flip, flip,
    insert_noise, empty_items, endless_fragments, edit_command, edit_command, edit_command,
    edit_request, edit_request, rename_entities,
)  # fmt: skip
