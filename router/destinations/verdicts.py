"""What an HTTP answer or a broken connection means for what was sent (outcome table, HTTP part).

It judges and words. What a server says in its own words is not repeated: it may name the patient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from router.destinations.base import Lane, Outgoing, Result
from router.destinations.outcomes import Outcome, Overrides, http_status, overridden

LONGEST_PAUSE = 3600.0

AWAY = frozenset({408, 425, 429, 502, 503, 504})
"""The service as a whole cannot take anything now."""

CREDENTIALS: Mapping[int, str] = {
    401: "it does not accept our credentials",
    403: "it does not allow us this",
    407: "a proxy in between wants credentials",
}
WRONG_PLACE: Mapping[int, str] = {
    404: "there is no such service at this address",
    405: "what is at this address takes no POST",
    406: "it cannot answer in a form that we read",
    410: "the service has gone from this address",
}
AT_FAULT: Mapping[int, str] = {
    400: "it cannot read what was sent",
    409: "it took nothing and does not say why",
    413: "what was sent is too large for it",
    415: "it does not take what was sent",
    422: "it cannot use what was sent",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What every item of a request gets. With `splits` one of them may have spoilt it for the
    others; `pause` is how many seconds the far end asks to be left alone; `status` is an HTTP
    status as the ledger writes it."""

    outcome: Outcome
    detail: str
    lane: Lane | None = None
    splits: bool = False
    pause: float = 0.0
    status: int | None = None

    def result(self, item: Outgoing, *, bytes_sent: int = 0) -> Result:
        """Return it as the result of `item`."""
        return Result(
            item.item_id,
            self.outcome,
            self.detail,
            status=self.status,
            bytes_sent=bytes_sent,
            lane=self.lane,
            pause=self.pause,
        )

    def for_those_after(self) -> "Verdict":
        """Return what those get that were not begun because of it: it costs them no attempt."""
        outcome = self.outcome if self.lane == "configuration" else Outcome.NOT_SENT
        return replace(self, outcome=outcome, splits=False, status=None)


STOPPED = Verdict(Outcome.NOT_SENT, "The sending was stopped on our side before this object.")


def judge(
    status: int, *, peer: str, retry_after: str = "", overrides: Overrides | None = None
) -> Verdict:
    """Return what an HTTP `status` that says nothing of single items means (RFC 9110 15); a
    destination's `overrides` go before the usual."""
    usual = replace(_usual(status, peer, retry_after), status=http_status(status))
    outcome = overridden(http_status(status), overrides or {})
    if outcome is None or outcome == usual.outcome:
        return usual
    return replace(usual, outcome=outcome, lane=None, pause=0.0)


def _usual(status: int, peer: str, retry_after: str) -> Verdict:
    said = f"{peer} answered HTTP {status}"
    if status in AWAY:
        pause = seconds_of(retry_after, now=datetime.now(UTC))
        asked = f" and asks to be left alone for {pause:.0f} s" if pause else ""
        detail = f"{said}: {phrase(status)}{asked}."
        return Verdict(Outcome.RETRY, detail, "transport", pause=pause)
    if status in CREDENTIALS or status in WRONG_PLACE:
        why = CREDENTIALS.get(status) or WRONG_PLACE[status]
        return Verdict(Outcome.CONFIGURATION, f"{said}: {why}.", "configuration")
    if 300 <= status < 400:
        why = "it sends us to another address, which is not followed; correct the url"
        return Verdict(Outcome.CONFIGURATION, f"{said}: {why}.", "configuration")
    if 400 <= status < 500:
        why = AT_FAULT.get(status) or phrase(status)
        return Verdict(Outcome.DATA_ERROR, f"{said}: {why}.", splits=True)
    return Verdict(Outcome.RETRY, f"{said}: {phrase(status)}.", splits=True)


def phrase(status: int) -> str:
    """Return the words of a status (RFC 9110 15), without a full stop."""
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return "a status that is not defined"


def seconds_of(retry_after: str, *, now: datetime) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110 10.2.3), at most an hour."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_PAUSE)
