"""Receivers under test: an intake that keeps what it is told, and small objects to send."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.spool import AssociationFacts, Counts, Spool, Spooled
from tests.halves import halves
from tests.senders import RawObject

if TYPE_CHECKING:  # children of tests make objects without Django
    from ingest import scp
    from ingest.negotiation import Context


@dataclass
class Recording:
    """An intake that keeps everything."""

    opened: list[tuple[AssociationFacts, tuple["Context", ...]]] = field(default_factory=list)
    closed: list[tuple[AssociationFacts, str, Counts]] = field(default_factory=list)
    objects: list[Spooled] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    disk_states: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def association_opened(self, facts: AssociationFacts, contexts: tuple["Context", ...]) -> None:
        self._note(self.opened, (facts, contexts))

    def association_closed(self, facts: AssociationFacts, reason: str, counts: Counts) -> None:
        self._note(self.closed, (facts, reason, counts))

    def stored(self, spooled: Spooled) -> None:
        self._note(self.objects, spooled)

    def refused(self, facts: AssociationFacts, **details: Any) -> None:
        self._note(self.refusals, details)

    def disk_state(self, state: str, free: int) -> None:
        self._note(self.disk_states, state)

    def wait_closed(self, count: int = 1, *, seconds: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.closed) >= count, timeout=seconds)

    def _note(self, where: list[Any], what: Any) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()


@dataclass
class Running:
    """A receiver under test."""

    listening: "scp.Listening"
    receiver: "scp.Receiver"
    intake: Recording
    spool: Spool

    @property
    def port(self) -> int:
        return self.listening.address[1]

    def files(self, pattern: str = "*/*.dcm") -> list[Path]:
        return sorted((self.spool.root / "inbox").glob(pattern))

    def halves(self) -> list[Path]:
        """Objects that are not whole."""
        return halves(self.spool.root / "inbox")

    def data(self, spooled: Spooled) -> bytes:
        return spooled.path.read_bytes()[spooled.offset :]

    def stop(self, *, grace: float = 0.0) -> bool:
        return self.listening.stop(grace=grace)


CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def make_object(
    number: int = 1,
    *,
    pixels: int = 2048,
    sop_class: str = CT,
    uid: str | None = None,
    with_study: bool = True,
) -> RawObject:
    """A small well-formed CT object in Explicit VR Little Endian."""
    uid = uid or f"1.2.826.0.1.3680043.10.1.{number}"
    rows = 32 if pixels < 1 << 20 else 1024
    elements = [
        _element("0008 0016", b"UI", sop_class.encode()),
        _element("0008 0018", b"UI", uid.encode()),
        _element("0008 0060", b"CS", b"CT"),
    ]
    if with_study:
        elements += [
            _element("0020 000D", b"UI", b"1.2.826.0.1.3680043.10.2"),
            _element("0020 000E", b"UI", b"1.2.826.0.1.3680043.10.3"),
        ]
    elements += [
        _element("0028 0010", b"US", rows.to_bytes(2, "little")),
        _element("0028 0011", b"US", (pixels // 2 // rows).to_bytes(2, "little")),
        _element("0028 0100", b"US", (16).to_bytes(2, "little")),
        _element("7FE0 0010", b"OW", bytes(i & 0xFF for i in range(256)) * (pixels // 256)),
    ]
    return RawObject(b"".join(elements), sop_class, uid, EXPLICIT_LITTLE)


def _element(tag: str, vr: bytes, value: bytes) -> bytes:
    group, element = (int(part, 16).to_bytes(2, "little") for part in tag.split())
    pad = b"\0" if vr in {b"UI", b"OW"} else b" "
    value += pad * (len(value) % 2)
    if vr == b"OW":
        return group + element + vr + b"\0\0" + len(value).to_bytes(4, "little") + value
    return group + element + vr + len(value).to_bytes(2, "little") + value
