"""The outcome table: what an answer of a destination means for the item that was sent.

The one place where a DIMSE status, an association rejection or a broken connection becomes a
state of ours (architecture.md, outcome table). It judges and words; it sends nothing and stores
nothing.
"""

from collections.abc import Mapping
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one item, and so what delivery does next with it."""

    DELIVERED = "delivered"
    WARNING = "warning"  # delivered, with something a person should see
    RETRY = "retry"  # transient: again, with growing pauses
    FEW_TRIES = "few_tries"  # three tries, then parked
    DATA_ERROR = "data_error"  # the object is at fault: parked
    CONFIGURATION = "configuration"  # the agreement with the peer is at fault: parked, lane stopped
    UNKNOWN = "unknown"  # cut after the last byte left and before the answer came
    NOT_SENT = "not_sent"  # never begun; costs no attempt


STATUS_OUTCOMES = frozenset(
    {
        Outcome.DELIVERED,
        Outcome.WARNING,
        Outcome.RETRY,
        Outcome.FEW_TRIES,
        Outcome.DATA_ERROR,
        Outcome.CONFIGURATION,
    }
)
"""What a status may be overridden to; unknown and not_sent are facts of the wire, not
judgements."""

TABLE: Mapping[str, Outcome] = {
    "0000": Outcome.DELIVERED,
    "0110": Outcome.RETRY,
    "0122": Outcome.CONFIGURATION,
    "0124": Outcome.CONFIGURATION,
    "0001": Outcome.WARNING,
    "0107": Outcome.WARNING,
    "0116": Outcome.WARNING,
    "A7xx": Outcome.RETRY,
    "A9xx": Outcome.DATA_ERROR,
    "Bxxx": Outcome.WARNING,
    "Cxxx": Outcome.FEW_TRIES,
}
"""PS3.4 Table B.2-1 and PS3.7 Annex C, exact codes before classes; `x` stands for any digit."""
