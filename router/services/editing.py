"""Change one entry of the configuration: what would change, what that holds, and doing it.

A change is the whole configuration with one entry put in or taken out, read by the same schema as
the file, so nothing is taken here that the file would be refused for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from router.config import dump, plan, schema
from router.config import settings as kinds
from router.config.document import Document
from router.config.plan import Change
from router.config.tree import Data
from router.models import ConfigRevision, Destination, ItemState, JobItem
from router.services import config
from router.services.actors import Actor, ActorKind

UNSENT = (ItemState.PENDING, ItemState.WAITING)
_NOBODY = Actor("plan", ActorKind.SYSTEM)


@dataclass(frozen=True)
class Plan:
    """What applying a document would do; `held` objects would wait for a person to release them."""

    document: Document
    changes: tuple[Change, ...]
    held: int
    base: int

    @property
    def text(self) -> str:
        """The changes for people, a line a field."""
        return plan.text(self.changes)


def newest() -> int:
    """Return the number of the newest revision, 0 on a fresh system."""
    return ConfigRevision.objects.values_list("number", flat=True).first() or 0


def planned(
    name: str, entry: Mapping[str, object] | None, *, section: str = "destinations"
) -> Plan:
    """Return what putting `entry` under `name`, or with None removing it, would do.

    Args:
        name: of a destination, or of what else `section` of the file holds.
        entry: what the file would say of it, without the name.
        section: a list of the file.

    Raises:
        ConfigError: the configuration would be refused; nothing was changed.
    """
    base = newest()
    data = dump.to_data(config.current())
    there = cast("list[dict[str, Data]]", data.get(section, []))
    wanted: list[Data] = [one for one in there if one["name"] != name]
    if entry is not None:
        wanted.append({"name": name, **cast("Mapping[str, Data]", entry)})
    document = schema.from_json(data | {section: wanted})
    changes = config.apply(document, actor=_NOBODY, dry_run=True).changes
    held = _held(name, document) if section == "destinations" else 0
    return Plan(document, changes, held, base)


def apply(change: Plan, *, actor: Actor, reason: str) -> ConfigRevision | None:
    """Apply a plan; None where it changes nothing.

    Raises:
        ConfigError, ConfigBusyError, PublishError: as `config.apply`.
    """
    return config.apply(change.document, actor=actor, reason=reason).revision


def _held(name: str, document: Document) -> int:
    """Count the waiting objects that a change of address, or a removal, would hold (R21)."""
    row = Destination.objects.present().select_related("version").filter(name=name).first()
    if row is None:
        return 0
    wanted = next((one for one in document.destinations if one.name == name), None)
    before = kinds.canonical(row.kind, row.version.settings if row.version else {})
    stays = wanted is not None and (
        kinds.address(wanted.kind, wanted.settings) == kinds.address(row.kind, before)
    )
    return 0 if stays else JobItem.objects.filter(destination=row, state__in=UNSENT).count()
