"""Quarantine: objects kept apart until a person releases or discards them."""

from django.db import IntegrityError, transaction

from router import doorbell, storage
from router.models import AuditOutcome, Instance, InstanceState, Receipt, RoutingMark
from router.services import audit, clock, hierarchy
from router.services.actors import SYSTEM, Actor

# How the reason of an object begins that was acknowledged whole and is not whole any more.
DAMAGED = "Damaged in the inbox"


class NotQuarantined(Exception):
    """The object is not in quarantine (any more)."""


def release(instance: Instance, *, actor: Actor) -> InstanceState:
    """Accept a quarantined object: it is kept and routed under the rules of today.

    It stands beside the object that came first, as a version; where no current object stands under
    its UID it becomes the current one. Nothing is ever overwritten.

    Returns:
        The new state.

    Raises:
        NotQuarantined: somebody was quicker.
    """
    try:
        return _release(instance, actor)
    except IntegrityError:  # another object of this UID became the current one just now
        return _release(instance, actor)


@transaction.atomic
def _release(instance: Instance, actor: Actor) -> InstanceState:
    taken = Instance.objects.current().filter(sop_instance_uid=instance.sop_instance_uid).exists()
    state = InstanceState.VERSION if taken else InstanceState.CURRENT
    _leave(instance, state, f"Released from quarantine by {actor.name}.")
    _count(instance, is_current=state == InstanceState.CURRENT)
    receipt = Receipt.objects.select_related("association").get(uid=instance.file_id)
    RoutingMark.objects.create(
        instance=instance, association=receipt.association, created_at=clock.now()
    )
    doorbell.ring("route")
    _record("quarantine.released", instance, actor)
    return state


@transaction.atomic
def discard(instance: Instance, *, actor: Actor) -> None:
    """Drop a quarantined object's bytes; its receipt and row stay.

    Raises:
        NotQuarantined: somebody was quicker.
    """
    _leave(instance, InstanceState.PURGED, f"Discarded by {actor.name}.")
    _count(instance, is_current=False)
    _record("quarantine.discarded", instance, actor)
    location = instance.location
    transaction.on_commit(lambda: storage.objects().delete(location))


def report_damage(receipt_id: str, association_id: str, *, reason: str) -> None:
    """Raise the alarm for an object that comes into quarantine damaged; with its rows, once."""
    audit.record(
        "object.damaged",
        actor=SYSTEM,
        code="security",
        outcome=AuditOutcome.SERIOUS_FAILURE,
        target=f"receipt {receipt_id}",
        details={"reason": reason, "association": association_id},
    )


def _leave(instance: Instance, state: InstanceState, reason: str) -> None:
    quarantined = Instance.objects.quarantined().filter(pk=instance.pk)
    if not quarantined.update(state=state, reason=reason[:200]):
        raise NotQuarantined(instance.sop_instance_uid)


def _count(instance: Instance, *, is_current: bool) -> None:
    growth = hierarchy.Growth(quarantined=-1)
    if is_current:
        growth.current, growth.bytes = 1, instance.size
    hierarchy.grow({instance.study_id: growth}, {instance.series_id: int(is_current)})


def _record(event: str, instance: Instance, actor: Actor) -> None:
    audit.record(
        event,
        actor=actor,
        code="instances.accessed",
        study_instance_uid=instance.study.study_instance_uid,
        target=f"instance {instance.sop_instance_uid}",
    )
