"""Quarantine: released or discarded once, counted, and never over what stands."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import IntegrityError, connection

from router.models import AuditEvent, Decision, Instance, InstanceState, JobItem, RoutingMark, Study
from router.services import indexing, quarantine, reckoning, routing
from router.services.actors import Actor, ActorKind
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)
ANN = Actor("ann", ActorKind.USER, "10.0.0.1")


def _apart(site: Site, *, first: bool = True) -> Instance:
    """Return a quarantined object: other bytes, or (``first=False``) the only ones of its UID."""
    if first:
        indexing.index(site.take(image(1)))
        indexing.index(site.take(image(1, salt=1)))
    else:
        indexing.index(site.take(image(1)), apart="Kept apart.")
    return Instance.objects.quarantined().get()


def _no_gaps() -> None:
    assert reckoning.reckon(deep=True).gaps == []


def test_a_released_object_stands_beside_the_first(site: Site) -> None:
    apart = _apart(site)
    assert quarantine.release(apart, actor=ANN) == InstanceState.VERSION
    apart.refresh_from_db()
    assert (apart.state, apart.reason) == ("version", "Released from quarantine by ann.")
    assert Instance.objects.current().count() == 1
    study = Study.objects.get()
    assert (study.instances_count, study.quarantined_count) == (1, 0)
    _no_gaps()


def test_a_released_object_becomes_current_where_none_stands(site: Site) -> None:
    apart = _apart(site, first=False)
    assert quarantine.release(apart, actor=ANN) == InstanceState.CURRENT
    study = Study.objects.get()
    assert (study.instances_count, study.quarantined_count) == (1, 0)
    assert (study.series_count, study.bytes) == (1, apart.size)
    _no_gaps()


def test_a_released_object_is_routed(site: Site) -> None:
    factories.destination("pacs")
    factories.rule("all", send=["pacs"])
    apart = _apart(site)
    quarantine.release(apart, actor=ANN)
    assert routing.route_batch() == 2
    assert set(JobItem.objects.values_list("instance", flat=True)) >= {apart.pk}
    _no_gaps()


def test_an_unreadable_object_may_be_released_and_is_held(site: Site) -> None:
    factories.destination("pacs")
    factories.rule("all", send=["pacs"])
    inbox = site.inbox()
    (spooled,) = site.take(image(1), inbox=inbox)
    spooled.path.write_bytes(spooled.path.read_bytes()[:-60])
    indexing.index(list(inbox.leftovers()))
    quarantine.release(Instance.objects.get(), actor=ANN)
    routing.route_batch()
    decision = Decision.objects.get()
    assert (decision.outcome, decision.chosen_count) == ("held", 0)
    assert "could not be read" in decision.problem
    assert not RoutingMark.objects.undecided().exists()


@committing
def test_a_discarded_object_loses_its_bytes_and_keeps_its_row(site: Site) -> None:
    apart = _apart(site)
    assert len(site.stored()) == 2
    quarantine.discard(apart, actor=ANN)
    apart.refresh_from_db()
    assert (apart.state, apart.reason) == ("purged", "Discarded by ann.")
    assert len(site.stored()) == 1
    assert Study.objects.get().quarantined_count == 0
    _no_gaps()


@committing
def test_discarded_before_its_file_had_moved(site: Site) -> None:
    """Rows are written, then a person is quicker than the mover."""
    spooled = site.take(image(1))
    target = site.objects
    target.mkdir(exist_ok=True)
    target.rmdir()
    target.touch()
    with pytest.raises(OSError, match="objects"):
        indexing.index(spooled, apart="Kept apart.")
    target.unlink()
    quarantine.discard(Instance.objects.get(), actor=ANN)
    assert indexing.index(spooled) == 0
    assert site.stored() == site.waiting() == []
    _no_gaps()


@committing
def test_discarded_bytes_may_come_again(site: Site) -> None:
    quarantine.discard(_apart(site), actor=ANN)
    indexing.index(site.take(image(1, salt=1)))
    assert Instance.objects.quarantined().count() == 1
    _no_gaps()


@pytest.mark.parametrize("verb", [quarantine.release, quarantine.discard])
def test_only_the_first_person_decides(site: Site, verb: object) -> None:
    apart = _apart(site)
    quarantine.release(apart, actor=ANN)
    assert callable(verb)
    with pytest.raises(quarantine.NotQuarantined):
        verb(apart, actor=ANN)
    assert Study.objects.get().quarantined_count == 0


def test_what_stands_is_not_in_quarantine(site: Site) -> None:
    indexing.index(site.take(image(1)))
    with pytest.raises(quarantine.NotQuarantined):
        quarantine.discard(Instance.objects.get(), actor=ANN)
    assert len(site.stored()) == 1


def test_both_decisions_are_audited(site: Site) -> None:
    quarantine.release(_apart(site), actor=ANN)
    indexing.index(site.take(image(1, salt=2)))
    quarantine.discard(Instance.objects.quarantined().get(), actor=ANN)
    events = AuditEvent.objects.filter(actor="ann").order_by("pk")
    assert [event.event for event in events] == ["quarantine.released", "quarantine.discarded"]
    assert {event.study_instance_uid for event in events} == {
        Study.objects.get().study_instance_uid
    }


def test_who_is_overtaken_by_another_release_keeps_a_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another object of the UID becomes the current one after we looked, before we wrote."""
    late = _apart(site, first=False)
    leave = quarantine._leave

    def collide(instance: Instance, state: InstanceState, reason: str) -> None:
        monkeypatch.setattr(quarantine, "_leave", leave)
        raise IntegrityError

    monkeypatch.setattr(quarantine, "_leave", collide)
    factories.instance(sop_instance_uid=late.sop_instance_uid)
    assert quarantine.release(late, actor=ANN) == InstanceState.VERSION


@committing
def test_two_people_release_two_objects_of_one_uid_at_once(site: Site) -> None:
    """One becomes the current object and the other a version of it, whoever is slower."""
    for number in range(5):
        for salt in (0, 1):
            taken = site.take(image(number, salt=salt))
            indexing.index(taken, apart="Kept apart.")
    together = Barrier(2)

    def release(pk: int) -> InstanceState:
        try:
            instance = Instance.objects.select_related("study").get(pk=pk)
            together.wait(30)
            return quarantine.release(instance, actor=ANN)
        finally:
            connection.close()

    for number in range(5):
        two = Instance.objects.filter(sop_instance_uid=image(number).sop_instance_uid)
        with ThreadPoolExecutor(2) as pool:
            states = list(pool.map(release, two.values_list("pk", flat=True)))
        assert sorted(states) == [InstanceState.CURRENT, InstanceState.VERSION]
    assert RoutingMark.objects.count() == 10
    assert Instance.objects.current().count() == 5
    _no_gaps()
