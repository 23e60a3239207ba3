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
    EXCLUDED = "excluded"  # must not leave by the destination's settings: cancelled, for good


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

Overrides = Mapping[str, str]
"""Status pattern to outcome name, as a destination's settings hold them."""

TABLE: Overrides = {
    "0000": Outcome.DELIVERED,
    "0001": Outcome.WARNING,
    "0107": Outcome.WARNING,
    "0110": Outcome.RETRY,
    "0116": Outcome.WARNING,
    "0117": Outcome.DATA_ERROR,
    "0118": Outcome.CONFIGURATION,
    "0119": Outcome.DATA_ERROR,
    "0120": Outcome.DATA_ERROR,
    "0121": Outcome.DATA_ERROR,
    "0122": Outcome.CONFIGURATION,
    "0124": Outcome.CONFIGURATION,
    "0210": Outcome.RETRY,
    "0211": Outcome.CONFIGURATION,
    "0212": Outcome.DATA_ERROR,
    "0213": Outcome.RETRY,
    "03xx": Outcome.CONFIGURATION,
    "04xx": Outcome.DATA_ERROR,
    "0401": Outcome.CONFIGURATION,
    "0403": Outcome.CONFIGURATION,
    "0407": Outcome.CONFIGURATION,
    "0408": Outcome.RETRY,
    "0425": Outcome.RETRY,
    "0429": Outcome.RETRY,
    "05xx": Outcome.RETRY,
    "A7xx": Outcome.RETRY,
    "A9xx": Outcome.DATA_ERROR,
    "Bxxx": Outcome.WARNING,
    "Cxxx": Outcome.FEW_TRIES,
}
"""PS3.4 Table B.2-1 and PS3.7 Annex C; `x` stands for any digit. What is not here: few tries.

03xx to 05xx are HTTP statuses as `http_status` writes them (DIMSE has none there)."""

MEANINGS: Mapping[str, str] = {
    "0000": "success",
    "0105": "no such attribute",
    "0106": "invalid attribute value",
    "0107": "attribute list error",
    "0110": "processing failure",
    "0111": "duplicate SOP instance",
    "0112": "no such object instance",
    "0116": "attribute value out of range",
    "0117": "invalid object instance",
    "0118": "no such SOP class",
    "0119": "class and instance conflict",
    "0120": "missing attribute",
    "0121": "missing attribute value",
    "0122": "SOP class not supported",
    "0124": "not authorised",
    "0210": "duplicate invocation",
    "0211": "unrecognised operation",
    "0212": "mistyped argument",
    "0213": "resource limitation",
    "A7xx": "out of resources",
    "A9xx": "the data set does not match the SOP class",
    "B000": "coercion of data elements",
    "B006": "elements discarded",
    "B007": "the data set does not match the SOP class",
    "Bxxx": "a warning",
    "Cxxx": "cannot understand the object",
}

REJECT_REASONS: Mapping[tuple[int, int], str] = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not support the application context",
    (1, 3): "it does not know our AE title {calling}",
    (1, 7): "it does not answer to the AE title {called}",
    (2, 1): "it gives no reason",
    (2, 2): "it does not support the protocol version",
    (3, 1): "it is congested for the moment",
    (3, 2): "it has as many associations as it allows",
}
"""PS3.8 Table 9-21, by source and reason."""

REJECT_REMEDIES: Mapping[tuple[int, int], str] = {
    (1, 3): "Add {calling} with our address there, or correct calling_ae here.",
    (1, 7): "Correct ae_title here.",
}

TRANSIENT_RESULT, PRESENTATION_SOURCE = 2, 3


def classify(status: int, overrides: Overrides | None = None) -> Outcome:
    """Return what a DIMSE `status` means; a destination's `overrides` go before the table.

    In each, the pattern with fewer `x` wins.
    """
    found = overridden(status, overrides or {}) or overridden(status, TABLE)
    return found or Outcome.FEW_TRIES


def overridden(status: int, table: Overrides) -> Outcome | None:
    """Return what `table` says of a status, None if it says nothing."""
    found = _look_up(table, status)
    return None if found is None else Outcome(found)


def http_status(status: int) -> int:
    """Return an HTTP `status` as tables, ledger and screen write it: 503 is 0503."""
    return int(f"{status:d}", 16)


def status_sentence(status: int, *, peer: str, offending: tuple[str, ...] = ()) -> str:
    """Return a sentence saying what `peer` answered. The peer's own comment is not repeated: it may
    name the patient."""
    meaning = _look_up(MEANINGS, status) or "a status that the Standard does not define"
    named = f" It names {', '.join(offending)}." if offending else ""
    return f"{peer} answered {status:04X}: {meaning}.{named}"


def is_lasting(result: int, source: int, reason: int) -> bool:
    """Whether an A-ASSOCIATE-RJ (PS3.8 9.3.4) says that trying again is of no use.

    An unknown AE title is lasting whatever the peer calls it; a full peer never is.
    """
    if (source, reason) in REJECT_REMEDIES:
        return True
    return result != TRANSIENT_RESULT and source != PRESENTATION_SOURCE


def rejection_sentence(
    result: int, source: int, reason: int, *, peer: str, calling: str, called: str
) -> str:
    """Return a sentence saying why `peer` rejected the association and what helps."""
    unknown = "it gives a reason that the Standard does not know"
    cause = REJECT_REASONS.get((source, reason), unknown).format(calling=calling, called=called)
    remedy = REJECT_REMEDIES.get((source, reason), "").format(calling=calling, called=called)
    code = f"A-ASSOCIATE-RJ {result}/{source}/{reason}"
    return f"{peer} rejects the association ({code}): {cause}. {remedy}".strip()


def _look_up(table: Mapping[str, str], status: int) -> str | None:
    code = f"{status:04X}"
    patterns = (code[: 4 - unknown] + "x" * unknown for unknown in range(4))
    return next((table[pattern] for pattern in patterns if pattern in table), None)
