"""Slots: how many may work for one destination at a time; each is leased by a drain.

Numbers from 0 are of deliveries, as many as the destination allows; one more (`PROOF_SLOT`) is of
the questions for proof, so that those never take an association from a delivery.
"""

from django.db.models import Q

from router.models import Destination, LaneSlot
from router.services import clock, liveness
from router.services.claims import LEASE


def take(destination: Destination, number: int) -> LaneSlot | None:
    """Take a slot; None when another has it."""
    slot, _is_new = LaneSlot.objects.get_or_create(destination=destination, number=number)
    now = clock.now()
    owner = liveness.new_name()
    free = LaneSlot.objects.filter(Q(owner="") | Q(lease_until__lt=now), pk=slot.pk)
    if not free.update(owner=owner, lease_until=now + LEASE, taken_at=now):
        return None
    slot.owner = owner
    return slot


def leave(slot: LaneSlot) -> None:
    """Give a slot back, if it is still ours."""
    LaneSlot.objects.filter(pk=slot.pk, owner=slot.owner).update(owner="", lease_until=None)
