"""Associations as rows and audit events: opened, refused objects, ended, rejected, disk full.

What the receiver tells the indexer about a peer becomes rows here, each once however often a batch
is done again.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.db.models import F

from router.models import (
    Association,
    AuditEvent,
    AuditOutcome,
    CounterKind,
    Receipt,
    ReceiptOutcome,
)
from router.rejections import Rejected
from router.services import audit
from router.services.actors import Actor, ActorKind
from router.services.counters import Tally
from router.spool import AssociationFacts


@dataclass(frozen=True)
class Refusal:
    """A store that was answered with a failure; its bytes are gone."""

    association: AssociationFacts
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    status: int
    reason: str
    size: int
    at: datetime
    receipt_id: str = field(default_factory=lambda: os.urandom(16).hex())


@dataclass(frozen=True)
class Opened:
    """An association was accepted."""

    association: AssociationFacts


@dataclass(frozen=True)
class Closed:
    """An association ended."""

    association: AssociationFacts
    reason: str
    at: datetime
    refused: int


@dataclass(frozen=True)
class DiskChanged:
    """Intake became ``open``, ``slow`` or ``refusing`` as the spool's volume filled or emptied."""

    state: str
    free: int


def ensure_associations(facts: Iterable[AssociationFacts]) -> dict[str, Association]:
    """Return the rows of associations by our id, made where they are missing."""
    wanted = {item.id: item for item in facts}
    found = {row.uid: row for row in Association.objects.filter(uid__in=wanted)}
    missing = [item for uid, item in wanted.items() if uid not in found]
    if missing:
        rows = [_association(item) for item in missing]
        Association.objects.bulk_create(rows, ignore_conflicts=True)
        uids = [item.id for item in missing]
        found |= {row.uid: row for row in Association.objects.filter(uid__in=uids)}
    return found


def _association(facts: AssociationFacts) -> Association:
    return Association(
        uid=facts.id,
        origin=facts.origin,
        calling_ae=facts.calling_ae.replace("\x00", "")[:16],
        called_ae=facts.called_ae.replace("\x00", "")[:16],
        remote_host=facts.remote_host[:64],
        remote_port=facts.remote_port or None,
        source=(facts.source or "")[:64],
        secure=facts.secure,
        user=(facts.user or "")[:150],
        started_at=facts.started_at,
        seen_at=facts.started_at,
        end_reason="",
    )


@transaction.atomic
def record_refusals(refusals: Sequence[Refusal]) -> None:
    """Write a receipt for each refused store, outside the balance; once, if called again."""
    ids = [event.receipt_id for event in refusals]
    done = set(Receipt.objects.filter(uid__in=ids).values_list("uid", flat=True)) if ids else set()
    refusals = [event for event in refusals if event.receipt_id not in done]
    if not refusals:
        return
    rows = ensure_associations(event.association for event in refusals)
    tally = Tally()
    for event in refusals:
        tally.add(
            event.at,
            CounterKind.REFUSED,
            size=event.size,
            source=event.association.source or "",
        )
        Association.objects.filter(pk=rows[event.association.id].pk).update(
            refused_count=F("refused_count") + 1
        )
    Receipt.objects.bulk_create(_refused_receipt(event, rows) for event in refusals)
    tally.write()


def _refused_receipt(event: Refusal, rows: dict[str, Association]) -> Receipt:
    return Receipt(
        uid=event.receipt_id,
        association=rows[event.association.id],
        outcome=ReceiptOutcome.REFUSED,
        reason=_clean(event.reason, 200),
        status=event.status,
        sop_class_uid=_clean(event.sop_class_uid, 64),
        sop_instance_uid=_clean(event.sop_instance_uid, 64),
        study_instance_uid="",
        series_instance_uid="",
        transfer_syntax_uid=_clean(event.transfer_syntax, 64),
        sha256="",
        size=event.size,
        received_at=event.at,
    )


def _clean(text: str, limit: int) -> str:
    return text.replace("\x00", "")[:limit]


@transaction.atomic
def end_association(event: Closed) -> None:
    """Write how an association ended, once, with its audit event."""
    facts = event.association
    row = ensure_associations([facts])[facts.id]
    ended = Association.objects.filter(pk=row.pk, ended_at=None).update(
        ended_at=event.at, end_reason=_clean(event.reason, 200)
    )
    row.refresh_from_db()
    if not ended or not (row.objects_count or row.refused_count):
        return
    audit.record(
        "instances.received",
        actor=Actor(_clean(facts.calling_ae, 16), ActorKind.PEER, facts.remote_host),
        code="instances.transferred",
        outcome=AuditOutcome.MINOR_FAILURE if row.refused_count else AuditOutcome.SUCCESS,
        target=f"association {facts.id}",
        details={
            "objects": row.objects_count,
            "refused": row.refused_count,
            "bytes": row.bytes,
            "end": _clean(event.reason, 200),
            "source": facts.source or "",
        },
    )


@transaction.atomic
def record_disk_state(event: DiskChanged) -> None:
    """Audit a change of intake, once however many processes saw it."""
    last = AuditEvent.objects.filter(event="intake.disk").order_by("-pk").first()
    if (last.target if last else "intake open") == f"intake {event.state}":
        return
    audit.record(
        "intake.disk",
        actor=Actor("receiver", ActorKind.SYSTEM),
        code="security",
        outcome=AuditOutcome.SUCCESS if event.state == "open" else AuditOutcome.SERIOUS_FAILURE,
        target=f"intake {event.state}",
        details={"free": event.free},
    )


def record_rejection(item: Rejected) -> None:
    """Audit rejected associations (PS3.15 A.5: node authentication failure)."""
    audit.record(
        "association.rejected",
        actor=Actor(_clean(item.calling_ae, 16), ActorKind.PEER, item.address),
        code="security",
        outcome=AuditOutcome.MINOR_FAILURE,
        target=f"called AE {_clean(item.called_ae, 16)}",
        details={"reason": item.reason, "count": item.count},
    )
