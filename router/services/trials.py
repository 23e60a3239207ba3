"""Try a destination before it is trusted: verify it, send it a test object, rehearse what was seen.

Asks the far end and the ledger, records who tried what, and changes nothing.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, Q, QuerySet

from router.destinations import KINDS
from router.destinations.base import Sender, Verification
from router.destinations.trials import Offer, Rehearsed, Rehearsing, SendingTests
from router.models import AuditOutcome, Destination, Instance, JobItem
from router.services import audit, clock
from router.services.actors import Actor

DAYS = 30
MOST_OFFERS = 500


class CannotTry(Exception):
    """This destination cannot be tried like that; the text is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A rehearsal and what it was of, in words."""

    scope: str
    rehearsed: Rehearsed


def can_send_tests(kind: str) -> bool:
    """Tell whether a test object can be sent to destinations of this kind."""
    return _can(kind, SendingTests)


def can_rehearse(kind: str) -> bool:
    """Tell whether destinations of this kind can say what they would refuse."""
    return _can(kind, Rehearsing)


def _can(kind: str, protocol: type) -> bool:
    sender = KINDS[kind].sender if kind in KINDS else None
    return isinstance(sender, type) and issubclass(sender, protocol)


def verify(row: Destination, *, actor: Actor, with_object: bool = False) -> Verification:
    """Try `row` step by step; with `with_object` store a synthetic object there as well.

    Raises:
        CannotTry: its kind has no test object.
    """
    sender = _sender(row)
    if not with_object:
        verification = sender.verify()
    elif isinstance(sender, SendingTests):
        verification = sender.send_test()
    else:
        raise CannotTry(f"A destination of the kind {row.kind} gets no test object.")
    audit.record(
        "destination.verified",
        actor=actor,
        code="security",
        outcome=AuditOutcome.SUCCESS if verification.ok else AuditOutcome.MINOR_FAILURE,
        target=f"destination {row.name}",
        details={"test_object": with_object},
    )
    return verification


def rehearse(row: Destination, *, actor: Actor, rule: str = "", days: int = DAYS) -> Rehearsal:
    """Propose to `row` every SOP class and transfer syntax seen for it lately (D11).

    Args:
        row: the destination; it may be disabled.
        actor: who asks.
        rule: what this rule chose, wherever it was sent; otherwise what was sent to `row`.
        days: how far back to look. Where nothing was chosen, all that was received counts.

    Raises:
        CannotTry: its kind cannot be asked.
    """
    sender = _sender(row)
    if not isinstance(sender, Rehearsing):
        raise CannotTry(f"A destination of the kind {row.kind} cannot be rehearsed with.")
    scope, offers = seen(row, rule=rule, days=days)
    rehearsal = Rehearsal(scope, sender.rehearse(offers))
    audit.record(
        "destination.rehearsed",
        actor=actor,
        code="security",
        outcome=AuditOutcome.SUCCESS if rehearsal.rehearsed.ok else AuditOutcome.MINOR_FAILURE,
        target=f"destination {row.name}",
        details={"offers": len(offers), "days": days, "rule": rule},
    )
    return rehearsal


def seen(row: Destination, *, rule: str = "", days: int = DAYS) -> tuple[str, list[Offer]]:
    """Return what was seen in the last `days` for the rule, or for the destination, and in words
    what that is."""
    since = clock.now() - timedelta(days=days)
    period = f"in the last {days} days"
    chosen = Q(job__rule=rule) if rule else Q(destination=row)
    items = JobItem.objects.filter(chosen, created_at__gte=since)
    offers = _offers(Instance.objects.filter(pk__in=items.values("instance")))
    if offers:
        what = f"rule {rule} chose" if rule else f"was chosen for {row.name}"
        return f"What {what} {period}", offers
    received = Instance.objects.current().filter(received_at__gte=since)
    return f"Nothing was chosen yet, so all that was received {period}", _offers(received)


def _offers(instances: QuerySet[Instance]) -> list[Offer]:
    rows = (
        instances.order_by()
        .values_list("sop_class_uid", "transfer_syntax_uid")
        .annotate(among=Count("study", distinct=True), number=Count("pk"))
        .order_by("-number", "sop_class_uid", "transfer_syntax_uid")[:MOST_OFFERS]
    )
    return [Offer(*row) for row in rows]


def _sender(row: Destination) -> Sender:
    settings = row.version.settings if row.version else {}
    return KINDS[row.kind].sender(settings)
