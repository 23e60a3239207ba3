"""Data sets made at random by Hypothesis: VR by length by nesting by character set, lawful and not.

As a program: `python -m tests.faults.hostile.files` with HOSTILE_FILES (default 10000) and
HOSTILE_SEED in the environment: each is sent by C-STORE to a receiver, and its header is read as
rules read it. Prints one JSON line and exits with 1 when the receiver died, hung, logged an error,
wrote where it should not or stored other bytes than it got.
"""

import json
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from router.dicom.errors import DicomError
from router.dicom.header import Header, examine, read_header
from router.dicom.limits import Limits
from tests.faults.hostile.attack import GROWTH, SETTLE_SECONDS, Findings, back_to, left_behind
from tests.faults.hostile.target import Target, attacked
from tests.receivers import CT
from tests.senders import ConnectionEnded, RawAssociation, RawObject

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG)
INSTANCE = "1.2.826.0.1.3680043.10.7.1"
UNDEFINED = 0xFFFFFFFF
# Making a data set may take a while on a busy machine; that is not what is tried here.
WARM_UP = 300
PATIENCE = {"idle_seconds": 120.0}
SMALL = Limits(depth=8, elements=500, inflated_bytes=1 << 16, header_bytes=1 << 18)

_SHORT = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH",
          "SL", "SS", "ST", "TM", "UI", "UL", "US")  # fmt: skip
_LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_ODD = ("ZZ", "  ", "\0\0", "sq", "Q1", "\xff\xff")
_CHARACTER_SETS = (
    b"",
    b"ISO_IR 100",
    b"ISO_IR 192",
    b"GB18030",
    b"\\ISO 2022 IR 87",
    b"nonsense",
    b"ISO 2022 IR 13\\ISO 2022 IR 87",
    b"ISO_IR 192\\ISO 2022 IR 149",
    b"\xff\xfe",
)
_TEXTS = (
    b"Doe^John", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:", b"=1+1", b"<img onerror>", b"../../x", b"\\\\\\",
    b"\xe2\x80\xae", b"\x1b$", b"\xff\xfe\xfd", b"20261131", b"1e400", b"-", b"\x1b[2J",
    b"9" * 70,
)  # fmt: skip
_TAGS = (0x00080005, 0x00080016, 0x00080018, 0x00080020, 0x00080060, 0x00081115, 0x00100010,
         0x00100020, 0x0020000D, 0x0020000E, 0x00200013, 0x00280002, 0x00280010, 0x00280011,
         0x00280100, 0x00280103, 0x00280106, 0x00090010, 0x00091001, 0x00400275, 0x7FE00008,
         0x7FE00010, 0x7FE00001,
         0xFFFCFFFC)  # fmt: skip
_DELIMITERS = (0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x00000000)

values = st.one_of(st.sampled_from(_TEXTS), st.binary(max_size=40), st.integers(0, 3000).map(bytes))


@dataclass(frozen=True)
class Made:
    """A data set as bytes in its transfer syntax."""

    data: bytes
    syntax: str


def _head(tag: int, vr: str, length: int, syntax: str) -> bytes:
    order = ">" if syntax == BIG else "<"
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT or tag >> 16 == 0xFFFE:
        return head + struct.pack(f"{order}I", length)
    code = vr.encode("latin-1")
    if vr in _SHORT:
        return head + code + struct.pack(f"{order}H", min(length, 0xFFFF))
    return head + code + b"\0\0" + struct.pack(f"{order}I", length)


def _tag(chance: Random) -> int:
    kind = chance.choices((_TAGS, None, _DELIMITERS), (80, 19, 1))[0]
    return chance.choice(kind) if kind else chance.randrange(1 << 32)


def _vr(chance: Random) -> str:
    return chance.choice(_ODD if chance.random() < 0.02 else _SHORT + _LONG)


def _lie(chance: Random) -> int | None:
    return chance.choice((0, 1, 7, 0xFFFF, 1 << 31, UNDEFINED)) if chance.random() < 0.04 else None


@st.composite
def elements(draw: st.DrawFn, syntax: str, depth: int) -> bytes:
    """One element, often of a sequence while `depth` allows, now and then with a lie."""
    chance = draw(st.randoms(use_true_random=True))  # still of Hypothesis' seed
    tag, vr, lie = _tag(chance), _vr(chance), _lie(chance)
    if depth and chance.random() < 0.3:
        return _sequence(draw, tag, syntax, depth=depth, lie=lie)
    while vr == "SQ":
        vr = _vr(chance)
    value = draw(values)
    value += b" " * (len(value) % 2 and draw(st.booleans()))
    return _head(tag, vr, len(value) if lie is None else lie, syntax) + value


def _sequence(draw: st.DrawFn, tag: int, syntax: str, *, depth: int, lie: int | None) -> bytes:
    chance = draw(st.randoms(use_true_random=True))
    inner = b""
    for _ in range(draw(st.integers(0, 3))):
        body = b"".join(draw(st.lists(elements(syntax, depth - 1), max_size=3)))
        if draw(st.booleans()):
            inner += _head(0xFFFEE000, "", len(body), syntax) + body
        else:
            inner += _head(0xFFFEE000, "", UNDEFINED, syntax) + body
            inner += _head(0xFFFEE00D, "", 0, syntax) * chance.choice((1,) * 38 + (0, 2))
    vr = chance.choice(("SQ",) * 18 + ("UN", "OB"))
    if draw(st.booleans()):
        return _head(tag, vr, len(inner) if lie is None else lie, syntax) + inner
    end = _head(0xFFFEE0DD, "", 0, syntax) * chance.choice((1,) * 39 + (0,))
    return _head(tag, vr, UNDEFINED, syntax) + inner + end


@st.composite
def data_sets(draw: st.DrawFn) -> Made:
    """A data set that names itself rightly, then anything; in any of four syntaxes."""
    syntax = draw(st.sampled_from(SYNTAXES))
    inner = EXPLICIT if syntax == DEFLATED else syntax
    parts = [
        _text(0x00080005, "CS", draw(st.sampled_from(_CHARACTER_SETS)), inner),
        _text(0x00080016, "UI", CT.encode(), inner),
        _text(0x00080018, "UI", INSTANCE.encode(), inner),
    ]
    parts += draw(st.lists(elements(inner, draw(st.sampled_from((0, 1, 3, 12)))), max_size=8))
    data = b"".join(parts)
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = squeeze.compress(data) + squeeze.flush()
    return Made(_broken(draw, data), syntax)


def _text(tag: int, vr: str, value: bytes, syntax: str) -> bytes:
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return _head(tag, vr, len(value), syntax) + value


def _broken(draw: st.DrawFn, data: bytes) -> bytes:
    what = draw(st.randoms(use_true_random=True)).randrange(12)
    if what == 0:
        return data[: draw(st.integers(1, len(data)))]
    if what == 1:
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes((draw(st.integers(0, 255)),)) + data[at + 1 :]
    if what == 2:
        return data + draw(st.binary(min_size=1, max_size=20))
    return data


def read_as_rules_do(made: Made, limits: Limits = SMALL) -> None:
    """Examine, and decode every value at every level. Only errors of ours may come of it."""
    for read in (examine, read_header):
        try:
            found = read(
                BytesIO(made.data),
                offset=0,
                size=len(made.data),
                transfer_syntax=made.syntax,
                limits=limits,
            )
        except DicomError:
            continue
        _decode(found if isinstance(found, Header) else found.header, depth=0)


def _decode(header: Header, depth: int) -> None:
    for tag in header.tags():
        header.values(tag)
        header.text(tag)
        header.integer(tag)
        for item in header.sequence(tag) if depth < 40 else ():
            _decode(item, depth + 1)


class Sender:
    """Stores data sets on one association after the other."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._assoc: RawAssociation | None = None

    def store(self, made: Made) -> str:
        """The status as four digits."""
        item = RawObject(made.data, CT, INSTANCE, made.syntax)
        if self._assoc is None:
            contexts = [(CT, [syntax]) for syntax in SYNTAXES]
            self._assoc = RawAssociation("127.0.0.1", self._target.port, contexts=contexts)
        try:
            return f"{self._assoc.store(item)[0]:04X}"
        except (ConnectionEnded, OSError) as error:
            self.close()
            return f"lost: {type(error).__name__}"

    def close(self) -> None:
        if self._assoc is not None:
            self._assoc.socket.close()
            self._assoc = None


def fuzz(target: Target, *, count: int, number: int, weighs: bool = False) -> Findings:
    """Send `count` data sets made from the seed `number`; with `weighs` judge what is left of it.

    Memory, threads and descriptors are compared with those after a warm-up of other data sets.
    """
    findings = Findings()
    if weighs:
        _send_all(target, Findings(), count=WARM_UP, number=number + 1)
        time.sleep(SETTLE_SECONDS)
    threads, descriptors, base = target.threads(), target.descriptors(), target.resident()
    began = time.monotonic()
    _send_all(target, findings, count=count, number=number)
    findings.seconds = round(time.monotonic() - began, 1)
    findings.per_second = round(findings.sequences / findings.seconds, 1)
    findings.problems += [target.errors()] if target.errors() else []
    findings.problems += target.strangers()
    if not target.is_healthy():
        findings.problems.append("an honest peer was not served")
    if weighs:
        findings.problems += left_behind(target, threads=threads, descriptors=descriptors)
        findings.note_memory(base, back_to(target, base))
        findings.problems += ["memory was kept"] * (findings.growth > GROWTH - 1)
    return findings


def _send_all(target: Target, findings: Findings, *, count: int, number: int) -> None:
    sender = Sender(target)

    def one(made: Made) -> None:
        findings.sequences += 1
        read_as_rules_do(made)
        answer = sender.store(made)
        findings.answers[answer] += 1
        assert answer in {"0000", "C000", "A900"}, answer
        assert target.is_alive()

    run: Callable[[], None] = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(seed(number)(given(data_sets())(one)))
    run()
    sender.close()


def main() -> int:
    """The full form."""
    count = int(os.environ.get("HOSTILE_FILES", "10000"))
    number = int(os.environ.get("HOSTILE_SEED", "1"))
    with tempfile.TemporaryDirectory() as folder, attacked(Path(folder), **PATIENCE) as target:
        findings = fuzz(target, count=count, number=number, weighs=True)
    print(json.dumps({"proof": "hostile-files", "seed": number, **vars(findings)}))  # noqa: T201
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
