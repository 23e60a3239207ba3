"""What a kind may be able to do before it is trusted: send a test object, and rehearse.

Protocols and values only; which kind can do what is asked of its sender (`isinstance`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from router.destinations.base import Verification

Verdict = Literal["as_is", "turned", "refused", "excluded"]
"""Accepted as stored; accepted in another transfer syntax, which we would make; not at all; not
sent there by the destination's own settings."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Objects of one SOP class in one stored transfer syntax, and in how many studies they came."""

    sop_class_uid: str
    transfer_syntax: str
    studies: int
    objects: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of the objects of one offer. `sends_as` is the transfer syntax they would
    leave in, empty when they would not; `detail` is a sentence for the screen."""

    offer: Offer
    verdict: Verdict
    sends_as: str
    detail: str


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A rehearsal: a trial for each offer, or why there could be none (`problem`)."""

    trials: tuple[Trial, ...]
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing would be refused."""
        return not self.problem and all(trial.verdict != "refused" for trial in self.trials)


@runtime_checkable
class SendingTests(Protocol):
    """A sender that can store a synthetic object at the far end."""

    def send_test(self) -> Verification:
        """Verify, and store a synthetic object, marked as a test for everybody who sees it."""
        ...


@runtime_checkable
class Rehearsing(Protocol):
    """A sender that can ask the far end what it would take, without sending an object (D11)."""

    def rehearse(self, offers: Sequence[Offer]) -> Rehearsed:
        """Say what would become of objects like these; never raises for the network."""
        ...
