"""Which presentation contexts to propose for what is to be sent, and which accepted one to use.

Pure: no sockets. A context is proposed with the stored transfer syntax alone, so that a peer that
can take an object untouched cannot choose otherwise; uncompressed objects get a second context
with the uncompressed syntaxes that we can re-encode to (PS3.8 7.1.1.13, PS3.5 10.1).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

MOST_CONTEXTS = 128
"""Context ids are odd and one byte (PS3.8 9.3.2.2)."""

TARGETS = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
REENCODABLE = frozenset({*TARGETS, str(ExplicitVRBigEndian), str(DeflatedExplicitVRLittleEndian)})

Key = tuple[str, str]
"""SOP class UID and stored transfer syntax UID of an object."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One presentation context of an A-ASSOCIATE-RQ."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The contexts of one association, and the keys of the objects that go over it."""

    proposals: tuple[Proposal, ...]
    keys: frozenset[Key]


def plan(keys: Iterable[Key]) -> list[Plan]:
    """Return the associations needed for objects of these keys, at most 128 contexts each."""
    stored: dict[str, dict[str, None]] = {}
    for sop_class_uid, transfer_syntax in keys:
        stored.setdefault(sop_class_uid, {})[transfer_syntax] = None
    plans: list[Plan] = []
    proposals: list[Proposal] = []
    taken: set[Key] = set()
    for sop_class_uid, syntaxes in stored.items():
        for wanted in _parts(list(syntaxes)):
            if len(proposals) + len(wanted) > MOST_CONTEXTS:
                plans.append(Plan(tuple(proposals), frozenset(taken)))
                proposals, taken = [], set()
            for offer in wanted:
                proposals.append(Proposal(2 * len(proposals) + 1, sop_class_uid, offer))
            taken |= {(sop_class_uid, ts) for ts in syntaxes if (ts,) in wanted}
    if proposals:
        plans.append(Plan(tuple(proposals), frozenset(taken)))
    return plans


def _parts(syntaxes: list[str]) -> list[list[tuple[str, ...]]]:
    """Return the offers of one SOP class in lists that must stay in one association."""
    exact: list[tuple[str, ...]] = [(ts,) for ts in syntaxes]
    others = tuple(ts for ts in TARGETS if ts not in syntaxes)
    if others and REENCODABLE & set(syntaxes):
        exact.append(others)
    if len(exact) <= MOST_CONTEXTS:
        return [exact]
    return [exact[i : i + MOST_CONTEXTS] for i in range(0, len(exact), MOST_CONTEXTS)]


def choose(
    sop_class_uid: str, stored: str, *, proposals: Iterable[Proposal], accepted: Mapping[int, str]
) -> tuple[int, str] | None:
    """Return context id and transfer syntax to send an object with, or None when there is none.

    The stored syntax before another; explicit little endian before implicit.
    """
    agreed = {
        accepted[proposal.context_id]: proposal.context_id
        for proposal in reversed(list(proposals))
        if proposal.abstract_syntax == sop_class_uid and proposal.context_id in accepted
    }
    wanted = (stored, *TARGETS) if stored in REENCODABLE else (stored,)
    return next(((agreed[ts], ts) for ts in wanted if ts in agreed), None)
