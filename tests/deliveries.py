"""Objects that lie on storage and wait for a destination, with a ledger that balances.

For tests of delivery and of the reckoning: each object has its file, receipt, mark, decision, job
and item. `fresh_storage` gives a test a storage and a spool of its own.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_django import Settings

from router import storage
from router.destinations import KINDS
from router.dicom import part10
from router.models import (
    Attempt,
    CounterKind,
    Destination,
    Instance,
    JobItem,
    Receipt,
    ReceiptOutcome,
    Series,
)
from router.services import recount
from router.services.counters import Tally
from tests import factories
from tests.receivers import make_object

# Any in this module: field values of a model, whose types the model itself checks.


def fresh_storage(settings: Settings, folder: Path) -> storage.FileStorage:
    """Have storage and spool lie below `folder` for one test."""
    settings.STORAGE_URL = f"file://{folder / 'objects'}"
    settings.SPOOL_DIR = folder / "spool"
    settings.SPOOL_DIR.mkdir()
    storage.objects.cache_clear()
    found = storage.objects()
    assert isinstance(found, storage.FileStorage)
    return found


def node(peer: Mapping[str, object], **changes: object) -> Destination:
    """Make a `dicom` destination with the settings of a peer, as its form would leave them."""
    return factories.destination(settings=cleaned({**peer, **changes}))


def cleaned(peer: Mapping[str, object]) -> dict[str, Any]:
    """Return the whole settings of a `dicom` destination."""
    form = KINDS["dicom"].form(peer)
    assert form.is_valid(), form.errors
    return form.cleaned_data


def stored(series: Series, folder: Path, **fields: Any) -> Instance:
    """Store one object, with its receipt, and count it in its study."""
    uid = factories.uid()
    made = make_object(uid=uid)
    meta = part10.file_meta(
        sop_class_uid=made.sop_class_uid, sop_instance_uid=uid, transfer_syntax=made.transfer_syntax
    )
    usual = {
        "sop_instance_uid": uid,
        "sop_class_uid": made.sop_class_uid,
        "transfer_syntax_uid": made.transfer_syntax,
        "sha256": hashlib.sha256(made.data).hexdigest(),
        "size": len(made.data),
        "offset": len(meta),
    }
    row = factories.instance(series, **usual | fields)
    part = folder / f"{row.file_id}.part"
    part.write_bytes(meta + made.data)
    storage.objects().place([(part, row.location)])
    receipt = factories.receipt(row)
    _count(series)
    tally(receipt, modality=series.modality)
    return row


def _count(series: Series) -> None:
    """Have the study and the series say what they hold."""
    current = Instance.objects.current().filter(study=series.study)
    sizes = list(current.values_list("size", flat=True))
    series.study.instances_count, series.study.bytes = len(sizes), sum(sizes)
    series.study.save(update_fields=["instances_count", "bytes"])
    series.instances_count = current.filter(series=series).count()
    series.save(update_fields=["instances_count"])


def tally(receipt: Receipt, *, modality: str = "CT") -> None:
    """Count a receipt in its hour, as indexing does."""
    counts = Tally()
    kind = recount.COUNTED[ReceiptOutcome(receipt.outcome)]
    source = receipt.association.source
    counts.add(receipt.received_at, kind, size=receipt.size, modality=modality, source=source)
    counts.write()


def arrived(item: JobItem, **fields: Any) -> Attempt:
    """Make the attempt that delivered an item, and count it in its hour."""
    attempt = factories.attempt(item, **fields)
    assert attempt.ended_at is not None
    counts = Tally()
    kind, to = CounterKind.DELIVERED, item.destination.name
    counts.add(attempt.ended_at, kind, size=item.size, modality="CT", source="ct-1", destination=to)
    counts.write()
    return attempt


def chosen(
    destination: Destination,
    folder: Path,
    count: int = 1,
    *,
    modality: str = "CT",
    source: str = "ct-1",
    **fields: Any,
) -> list[JobItem]:
    """Store `count` objects of one study and choose `destination` for each; `fields` of items."""
    series = factories.series(factories.study(source=source), modality=modality)
    decision = factories.decision(series.study, instances_count=count, chosen_count=count)
    job = factories.job(series.study, destination=destination)
    items = []
    for _ in range(count):
        instance = stored(series, folder)
        factories.mark(instance, decision=decision)
        items.append(factories.item(job, instance=instance, decision=decision, **fields))
    return items
