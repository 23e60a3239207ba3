"""The audit log: who, what, from where; cut to its columns, gone with the caller's transaction."""

import pytest
from django.db import transaction

from router.models import AuditEvent, AuditOutcome
from router.services import audit, clock
from router.services.actors import SYSTEM, Actor, ActorKind

pytestmark = pytest.mark.django_db
ANN = Actor("ann", ActorKind.TOKEN, "10.0.0.1")


def test_an_event_says_who_did_what_from_where() -> None:
    before = clock.now()
    audit.record(
        "config.applied",
        actor=ANN,
        code="security",
        study_instance_uid="1.2.3",
        target="revision 4",
        details={"changes": 2},
    )
    row = AuditEvent.objects.get()
    assert (row.event, row.code, row.outcome) == ("config.applied", "110113", "0")
    assert (row.actor, row.actor_kind, row.remote_address) == ("ann", "token", "10.0.0.1")
    assert (row.study_instance_uid, row.target) == ("1.2.3", "revision 4")
    assert row.details == {"changes": 2}
    assert before <= row.at <= clock.now()


def test_what_is_not_said_is_empty() -> None:
    row = audit.record("start", actor=SYSTEM, code="start")
    row.refresh_from_db()
    assert (row.actor, row.actor_kind, row.remote_address) == ("system", "system", "")
    assert (row.study_instance_uid, row.target, row.details) == ("", "", {})
    assert row.outcome == AuditOutcome.SUCCESS


def test_a_long_name_is_cut_and_still_written() -> None:
    actor = Actor("n" * 500, ActorKind.PEER, "a" * 500)
    audit.record("association.rejected", actor=actor, code="security", target="t" * 500)
    row = AuditEvent.objects.get()
    assert [len(text) for text in (row.actor, row.remote_address, row.target)] == [150, 64, 200]


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(KeyError, match="made up"):
        audit.record("x", actor=SYSTEM, code="made up")
    assert not AuditEvent.objects.exists()


def test_every_code_is_of_the_dicom_controlled_terminology() -> None:
    """PS3.16 CID 400 Audit Event ID: 110100 to 110114."""
    assert {int(code) for code in audit.CODES.values()} <= set(range(110100, 110115))


def test_an_event_goes_with_the_change_that_is_undone() -> None:
    with transaction.atomic():
        audit.record("start", actor=SYSTEM, code="start")
        transaction.set_rollback(True)
    assert not AuditEvent.objects.exists()
