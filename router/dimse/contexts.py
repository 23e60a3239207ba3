"""Which presentation contexts to propose for what is to be sent, and which accepted one to use.

Pure: no sockets. Left alone, an object is proposed in its stored transfer syntax by itself, so
that a peer that can take it untouched cannot choose otherwise, and uncompressed ones get a second
context with the uncompressed syntaxes that we can re-encode to (PS3.8 7.1.1.13, PS3.5 10.1). A
destination that wants other syntaxes gets each in a context of its own, so that the choice is ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from router.dicom.syntaxes import DECODABLE, ENCODABLE, REENCODABLE, TARGETS

MOST_CONTEXTS = 128
"""Context ids are odd and one byte (PS3.8 9.3.2.2)."""

Key = tuple[str, str]
"""SOP class UID and stored transfer syntax UID of an object."""

Offer = tuple[str, ...]
"""The transfer syntaxes of one context."""


@dataclass(frozen=True, slots=True)
class Preference:
    """What a destination wants to be sent: nothing (as stored), or these syntaxes, best first.

    What is stored in one of them leaves as it is.
    """

    syntaxes: tuple[str, ...] = ()

    def ways(self, stored: str) -> tuple[str, ...]:
        """Return the syntaxes an object stored in `stored` may leave in, best first; none when it
        cannot be turned into what is wanted."""
        if not self.syntaxes:
            return (stored, *(ts for ts in TARGETS if stored in REENCODABLE and ts != stored))
        others = tuple(ts for ts in self.syntaxes if ts != stored and _can_turn(stored, ts))
        return (stored, *others) if stored in self.syntaxes else others


AS_STORED = Preference()


def _can_turn(stored: str, wanted: str) -> bool:
    is_within_reach = wanted in TARGETS or wanted in ENCODABLE
    return is_within_reach and (stored in REENCODABLE or stored in DECODABLE)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One presentation context of an A-ASSOCIATE-RQ. `role` says whether we are SCU and SCP of it,
    where that is to be negotiated (PS3.7 D.3.3.4)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    role: tuple[bool, bool] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The contexts of one association, and the keys of the objects that go over it."""

    proposals: tuple[Proposal, ...]
    keys: frozenset[Key]


def plan(keys: Iterable[Key], preference: Preference = AS_STORED) -> list[Plan]:
    """Return the associations needed for objects of these keys, at most 128 contexts each.

    A key that has no way is in none of them.
    """
    stored: dict[str, dict[str, None]] = {}
    for sop_class_uid, transfer_syntax in keys:
        if preference.ways(transfer_syntax):
            stored.setdefault(sop_class_uid, {})[transfer_syntax] = None
    plans: list[Plan] = []
    proposals: list[Proposal] = []
    taken: set[Key] = set()
    for sop_class_uid, syntaxes in stored.items():
        for part, offers in _parts(list(syntaxes), preference):
            if len(proposals) + len(offers) > MOST_CONTEXTS:
                plans.append(Plan(tuple(proposals), frozenset(taken)))
                proposals, taken = [], set()
            for offer in offers:
                proposals.append(Proposal(2 * len(proposals) + 1, sop_class_uid, offer))
            taken |= {(sop_class_uid, ts) for ts in part}
    if proposals:
        plans.append(Plan(tuple(proposals), frozenset(taken)))
    return plans


def _parts(stored: Sequence[str], preference: Preference) -> list[tuple[list[str], list[Offer]]]:
    """Return the stored syntaxes of one SOP class in parts that fit into one association, with
    the offers of each."""
    parts: list[tuple[list[str], list[Offer]]] = []
    for ts in stored:
        grown = _offers([*parts[-1][0], ts], preference) if parts else []
        if parts and len(grown) <= MOST_CONTEXTS:
            parts[-1] = ([*parts[-1][0], ts], grown)
        else:
            parts.append(([ts], _offers([ts], preference)))
    return parts


def _offers(stored: Sequence[str], preference: Preference) -> list[Offer]:
    ways = dict.fromkeys(way for ts in stored for way in preference.ways(ts))
    if preference.syntaxes:
        return [(way,) for way in ways]
    others = tuple(ts for ts in TARGETS if ts in ways and ts not in stored)
    return [*((ts,) for ts in stored), *([others] if others else [])]


def choose(
    sop_class_uid: str,
    ways: Iterable[str],
    *,
    proposals: Iterable[Proposal],
    accepted: Mapping[int, str],
) -> tuple[int, str] | None:
    """Return context id and transfer syntax to send an object with, or None when there is none:
    the first of its `ways` that was accepted."""
    agreed = {
        accepted[proposal.context_id]: proposal.context_id
        for proposal in reversed(list(proposals))
        if proposal.abstract_syntax == sop_class_uid and proposal.context_id in accepted
    }
    return next(((agreed[ts], ts) for ts in ways if ts in agreed), None)
