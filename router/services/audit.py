"""Write the audit log. One function; the caller's transaction carries the row.

Refuses to hold patient names, ids or dates of birth: studies are named by their UID.
"""

from typing import Any

from router.models import AuditEvent, AuditOutcome
from router.services import clock
from router.services.actors import Actor

# Event identifiers of PS3.15 A.5 (DCM codes).
CODES = {
    "start": "110100",
    "stop": "110100",
    "audit.used": "110101",
    "transfer.begin": "110102",
    "instances.accessed": "110103",
    "instances.transferred": "110104",
    "study.deleted": "110105",
    "export": "110106",
    "import": "110107",
    "network.entry": "110108",
    "query": "110112",
    "security": "110113",
    "authentication": "110114",
}


def record(
    event: str,
    *,
    actor: Actor,
    code: str,
    outcome: AuditOutcome = AuditOutcome.SUCCESS,
    study_instance_uid: str = "",
    target: str = "",
    details: dict[str, Any] | None = None,  # Any: JSON values, differ by event
) -> AuditEvent:
    """Append one event.

    Args:
        event: dotted name, such as ``association.rejected``.
        actor: who, and from where.
        code: a key of ``CODES``.
        outcome: EventOutcomeIndicator (PS3.15 A.5.1).
        study_instance_uid: the study it is about, if one.
        target: what it was done to, such as ``destination pacs``.
        details: JSON-safe fields without patient data.

    Returns:
        The row, already inserted.
    """
    return AuditEvent.objects.create(
        at=clock.now(),
        event=event,
        code=CODES[code],
        outcome=outcome,
        actor=actor.name[:150],
        actor_kind=actor.kind.value,
        remote_address=actor.address[:64],
        study_instance_uid=study_instance_uid,
        target=target[:200],
        details=details or {},
    )
