"""Stored objects as a sender takes them, whether they are to leave or to be asked for."""

from router.destinations.base import Outgoing
from router.models import Instance
from router.services import archive
from router.services.claims import Held


def of_item(item: Held, unit: str = "") -> Outgoing:
    """Return an item of a claim; `unit` names what it leaves together with."""
    return _outgoing(
        item.instance,
        item_id=item.pk,
        source=item.source,
        study_instance_uid=item.study_instance_uid,
        series_instance_uid=item.series_instance_uid,
        modality=item.modality,
        group=unit,
    )


def of_instance(instance: Instance) -> Outgoing:
    """Return an object that no item is of, under its own row id; read with series and study."""
    return _outgoing(
        instance,
        item_id=instance.pk,
        source=instance.study.source,
        study_instance_uid=instance.study.study_instance_uid,
        series_instance_uid=instance.series.series_instance_uid,
        modality=instance.series.modality,
    )


def _outgoing(
    instance: Instance,
    *,
    item_id: int,
    source: str,
    study_instance_uid: str,
    series_instance_uid: str,
    modality: str,
    group: str = "",
) -> Outgoing:
    return Outgoing(
        item_id=item_id,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax=instance.transfer_syntax_uid,
        sha256=instance.sha256,
        size=instance.size,
        offset=instance.offset,
        open=lambda: archive.opened(instance),
        header=lambda: archive.header_of(instance),
        received_at=instance.received_at,
        source=source,
        study_id=instance.study_id,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        modality=modality,
        group=group,
    )
