"""What the far end of a destination holds of stored objects: asks it, and sends and writes nothing.

An object is asked for as it lies here: under its own hash and transfer syntax.
"""

from collections.abc import Callable, Sequence

from router import stopping
from router.destinations import KINDS
from router.destinations.base import Confirmation, Confirming, Context
from router.models import Destination, Instance
from router.services import outgoing


def can_be_asked(kind: str) -> bool:
    """Tell whether destinations of this kind can say what they hold."""
    sender = KINDS[kind].sender if kind in KINDS else None
    return isinstance(sender, type) and issubclass(sender, Confirming)


def ask(
    destination: Destination,
    instances: Sequence[int],
    *,
    stop: Callable[[], bool] = stopping.requested,
) -> dict[int, Confirmation]:
    """Ask whether the far end has `instances` (row ids); one answer for each, by row id."""
    if not instances:
        return {}
    kind = KINDS.get(destination.kind)
    if kind is None or destination.version is None or not can_be_asked(destination.kind):
        reason = f"A destination of the kind {destination.kind} cannot be asked what it has."
        return {pk: Confirmation(pk, "unknown", reason) for pk in instances}
    sender = kind.sender(destination.version.settings)
    assert isinstance(sender, Confirming)  # noqa: S101 - can_be_asked() has looked
    rows = Instance.objects.filter(pk__in=instances).select_related("series", "study")
    context = Context(stop=stop, abort=stopping.overdue)
    answers = sender.confirm([outgoing.of_instance(row) for row in rows.order_by("pk")], context)
    return {answer.item_id: answer for answer in answers}
