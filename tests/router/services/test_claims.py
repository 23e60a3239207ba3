"""Leases: who renews them, when they are not sure any more, and who must end then."""

import time
from datetime import timedelta

import pytest

from router.models import Destination, ItemState, JobItem, LaneSlot
from router.services import claims, clock
from router.services.claims import Claim
from tests import factories

OWNER = "mine"
SOON = timedelta(seconds=20)

pytestmark = pytest.mark.django_db


@pytest.fixture
def claim() -> Claim:
    """Return a claim of two items, as a drain holds it while it sends."""
    until = clock.now() + claims.LEASE
    job = factories.job()
    for _ in range(2):
        factories.item(job, state=ItemState.LEASED, owner=OWNER, lease_until=until)
    slot = LaneSlot.objects.create(destination=job.destination, number=0, owner="slot")
    return Claim(OWNER, slot, job.destination, claims.held(JobItem.objects.all()))


def test_reads_items_with_all_of_their_objects(claim: Claim) -> None:
    for item in JobItem.objects.all():
        held = claim.items[item.pk]
        assert held.instance == item.instance
        assert vars(held.instance).keys() >= {"sha256", "offset", "file_id", "study_id"}
        assert (held.modality, held.source) == (item.instance.series.modality, "ct-1")


def test_renewing_moves_the_lease_of_items_and_slot(claim: Claim) -> None:
    with clock.shifted(SOON):
        claims.renew([claim], claim.slot)
    until = clock.now() + timedelta(seconds=45)
    assert JobItem.objects.filter(lease_until__gt=until).count() == 2
    assert LaneSlot.objects.filter(lease_until__gt=until).exists()
    assert not claim.must_end()


@pytest.mark.parametrize(
    "change", [{"endpoint": 2}, {"enabled": False}, {"removed": True}, {"name": "another"}]
)
def test_a_destination_that_is_another_now_outdates_what_is_under_way(
    claim: Claim, change: dict[str, object]
) -> None:
    Destination.objects.filter(pk=claim.destination.pk).update(**change)
    claims.renew([claim], claim.slot)
    assert claim.is_outdated is (change != {"name": "another"})
    assert not claim.must_end()  # what is in flight ends as it would; the lease is ours


def test_what_was_answered_has_no_lease_to_renew(claim: Claim) -> None:
    first = min(claim.items)
    JobItem.objects.filter(pk=first).update(state=ItemState.DELIVERED, owner="", lease_until=None)
    claim.answered.add(first)
    claims.renew([claim], claim.slot)
    assert not claim.must_end()
    assert JobItem.objects.get(pk=first).lease_until is None


def test_an_item_that_is_anothers_ends_the_sending(claim: Claim) -> None:
    """What another worker holds now must not leave from here too."""
    JobItem.objects.filter(pk=min(claim.items)).update(owner="another")
    assert not claim.must_end()  # renewed just now: not looked at again yet
    claims.renew([claim], claim.slot)
    assert claim.must_end()


def test_a_slot_that_is_anothers_ends_the_sending(claim: Claim) -> None:
    LaneSlot.objects.update(owner="another")
    claims.renew([claim], claim.slot)
    assert claim.must_end()


def test_a_lease_that_could_not_be_renewed_ends_the_sending_before_it_is_over(
    claim: Claim,
) -> None:
    claim.renewed -= claims.SURE_SECONDS + 1
    assert claims.LEASE.total_seconds() > claims.SURE_SECONDS
    assert claim.must_end()


def test_a_sending_that_hangs_in_the_system_for_minutes_keeps_its_lease(claim: Claim) -> None:
    claim.heard = time.monotonic() - claims.SILENCE_SECONDS + 60
    with clock.shifted(SOON):
        claims.renew([claim], claim.slot)
    assert JobItem.objects.filter(lease_until__gt=clock.now() + claims.LEASE).count() == 2


def test_a_sending_that_hangs_for_ever_is_given_up(claim: Claim) -> None:
    claim.heard = time.monotonic() - claims.SILENCE_SECONDS - 1
    with clock.shifted(SOON):
        claims.renew([claim], claim.slot)
    assert not JobItem.objects.filter(lease_until__gt=clock.now() + claims.LEASE).exists()
