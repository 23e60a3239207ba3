"""Acknowledged objects whose files are not whole any more: kept apart, told, never in the way."""

from pathlib import Path

import pytest
from django.db import DatabaseError

from router.models import (
    AuditEvent,
    AuditOutcome,
    Decision,
    Instance,
    InstanceState,
    Receipt,
    RoutingMark,
)
from router.services import indexing, overview, quarantine, reckoning, routing
from router.services.actors import Actor, ActorKind
from router.services.indexer import Indexer
from router.spool import Inbox, Spooled
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db
ANN = Actor("ann", ActorKind.USER, "10.0.0.1")


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x80
    path.write_bytes(content)


def _damaged(site: Site, offset: int) -> tuple[Inbox, Spooled]:
    """Acknowledge two objects and damage the file of the first."""
    inbox = site.inbox()
    first, _second = site.take(image(1), image(2), inbox=inbox)
    _flip(first.path, offset)
    Indexer(site.spool)._take_in(Inbox.read(inbox.folder))
    return inbox, first


@pytest.mark.parametrize("offset", [129, 170, -3], ids=["no DICM", "a UID", "data"])
def test_a_damaged_object_leaves_the_inbox_for_quarantine(site: Site, offset: int) -> None:
    inbox, first = _damaged(site, offset)
    assert not inbox.folder.exists()
    assert "objects in the inbox" not in reckoning.unfinished()
    row = Instance.objects.quarantined().get()
    assert row.file_id == first.receipt_id
    assert row.reason.startswith("Damaged in the inbox: ")
    assert Instance.objects.current().count() == 1
    assert len(site.stored()) == 2
    assert reckoning.reckon(deep=True).gaps == []


def test_the_alarm_is_raised_once(site: Site) -> None:
    _inbox, first = _damaged(site, -3)
    event = AuditEvent.objects.get(event="object.damaged")
    assert (event.outcome, event.target) == (
        AuditOutcome.SERIOUS_FAILURE,
        f"receipt {first.receipt_id}",
    )
    kinds = {one.kind: one.count for one in overview.attention(factories.user())}
    assert kinds == {"damaged": 1, "undecided": 1} or kinds == {"damaged": 1}


def test_no_alarm_without_its_rows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = site.inbox()
    (spooled,) = site.take(image(1), inbox=inbox)
    _flip(spooled.path, 129)
    (found,) = inbox.leftovers()

    def fail(*_: object) -> None:
        raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_count", fail)
        with pytest.raises(DatabaseError):
            indexing.index([found])
    assert not AuditEvent.objects.exists()
    assert indexing.index([found]) == 1
    assert indexing.index([found]) == 0
    assert AuditEvent.objects.filter(event="object.damaged").count() == 1


def test_the_same_object_sent_again_is_taken(site: Site) -> None:
    """What is damaged must not make the whole object an identical duplicate."""
    _damaged(site, -3)
    indexing.index(site.take(image(1)))
    assert Receipt.objects.filter(outcome="duplicate").count() == 0
    assert Instance.objects.current().count() == 2
    assert reckoning.reckon(deep=True).gaps == []


@pytest.mark.parametrize("offset", [129, -3], ids=["file meta", "data"])
def test_a_person_may_release_it_or_discard_it(site: Site, offset: int) -> None:
    factories.destination("pacs")
    factories.rule("all", send=["pacs"])
    _damaged(site, offset)
    quarantine.release(Instance.objects.quarantined().get(), actor=ANN)
    while routing.route_batch():
        pass
    assert not RoutingMark.objects.undecided().exists()
    outcomes = set(Decision.objects.values_list("outcome", flat=True))
    assert outcomes == ({"routed", "held"} if offset > 0 else {"routed"})
    assert not Instance.objects.filter(state=InstanceState.QUARANTINED).exists()
    assert reckoning.reckon(deep=True).gaps == []


def test_an_association_whose_facts_are_lost_is_taken_in(site: Site) -> None:
    inbox = site.inbox()
    site.take(image(1), inbox=inbox)
    (inbox.folder / "association.json").write_text("{")
    Indexer(site.spool)._adopt()
    assert not inbox.folder.exists()
    row = Instance.objects.current().get()
    association = Receipt.objects.get(uid=row.file_id).association
    assert (association.uid, association.calling_ae, association.source) == (inbox.facts.id, "", "")
    assert reckoning.reckon(deep=True).gaps == []
