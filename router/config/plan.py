"""What must change from one configuration to another, as values and as text. Nothing is applied."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from router.config import dump, settings
from router.config.document import Destination, Document, Group, Role, Rule, Source
from router.config.tree import Data
from router.destinations.fields import duration_text

Action = Literal["+", "~", "-"]
NO_CHANGE = "no change"
# What could move a terminal's cursor or turn its text around.
_INVISIBLE = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field, from and to; None where there was or will be nothing."""

    name: str
    old: Data
    new: Data


@dataclass(frozen=True, slots=True)
class Change:
    """One object that comes (`+`), goes (`-`) or changes (`~`)."""

    action: Action
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the change in JSON's types."""
        fields = {field.name: [field.old, field.new] for field in self.fields}
        return {"action": self.action, "kind": self.kind, "name": self.name, "fields": fields}


def compare(current: Document, wanted: Document) -> tuple[Change, ...]:
    """Return what turns `current` into `wanted`; empty when they are the same."""
    changes: list[Change] = []
    defaults = _fields(_defaults(current), _defaults(wanted))
    if defaults:
        changes.append(Change("~", "defaults", "", defaults))
    objects: tuple[tuple[str, Sequence[Named], Sequence[Named]], ...] = (
        ("source", current.sources, wanted.sources),
        ("destination", current.destinations, wanted.destinations),
        ("group", current.groups, wanted.groups),
        ("rule", current.rules, wanted.rules),
        ("role", current.roles, wanted.roles),
    )
    for kind, before, after in objects:
        changes.extend(_changes(kind, before, after))
    return tuple(changes)


def text(changes: Iterable[Change]) -> str:
    """Return the plan for people, a line an object and a line a field; `no change` for none."""
    lines = [line for change in changes for line in _lines(change)]
    return "\n".join(lines) or NO_CHANGE


Fields = Mapping[str, Data]
Named = Source | Destination | Group | Rule | Role


def _changes(kind: str, before: Sequence[Named], after: Sequence[Named]) -> list[Change]:
    old, new = {one.name: one for one in before}, {one.name: one for one in after}
    found: list[Change] = []
    for name, one in new.items():
        if name not in old:
            found.append(Change("+", kind, name, _fields({}, dump.entry(one))))
        elif fields := _fields(_shown(old[name]), _shown(one)):
            found.append(Change("~", kind, name, fields))
    return [*found, *(Change("-", kind, name) for name in old if name not in new)]


def _fields(old: Fields, new: Fields) -> tuple[FieldChange, ...]:
    return tuple(
        FieldChange(name, old.get(name), new.get(name))
        for name in [*new, *(name for name in old if name not in new)]
        if name != "name" and not _is_same(old.get(name), new.get(name))
    )


def _is_same(old: Data, new: Data) -> bool:
    """Tell whether two values are written the same (1 and 1.0 and true are not)."""
    return _spelled(old) == _spelled(new)


def _shown(one: Named) -> Fields:
    """Return the fields of an object as a reader of the file knows them."""
    if isinstance(one, Source):
        return _source(one)
    if isinstance(one, Group):
        return _group(one)
    if isinstance(one, Rule):
        return _rule(one)
    if isinstance(one, Role):
        limit: dict[str, Data] = {key: list(values) for key, values in one.limit.items()}
        return {"enabled": one.enabled, "permissions": list(one.permissions), "limit": limit}
    given = settings.canonical(one.kind, one.settings)
    return {"kind": one.kind, "enabled": one.enabled, **given}  # type: ignore[dict-item]  # JSON


def _source(one: Source) -> Fields:
    return {
        "enabled": one.enabled,
        "ae_title": one.ae_title,
        "hosts": list(one.hosts),
        "services": list(one.services),
        "duplicates": one.duplicates,
    }


def _group(one: Group) -> Fields:
    return {
        "kind": one.kind,
        "enabled": one.enabled,
        "members": list(one.members),
        "by": one.by or None,
        "return": one.returns,
        "patience": duration_text(one.patience),
    }


def _rule(one: Rule) -> Fields:
    return {
        "enabled": one.enabled,
        "priority": one.priority,
        "state": one.state,
        "when": one.when,
        "on": one.on,
        "quiet": None if one.quiet is None else duration_text(one.quiet),
        "send": list(one.send),
        "transform": one.transform or None,
        "urgency": one.urgency or None,
        "stop": one.stop,
    }


def _defaults(document: Document) -> Fields:
    return {
        "unmatched": document.defaults.unmatched,
        "quiet": duration_text(document.defaults.quiet),
        "quiet_cap": duration_text(document.defaults.quiet_cap),
    }


def _lines(change: Change) -> Iterable[str]:
    yield f"{change.action} {change.kind} {change.name}".rstrip()
    for field in change.fields:
        if change.action == "+":
            yield f"    {field.name}: {_spelled(field.new)}"
        else:
            yield f"    {field.name}: {_spelled(field.old)} → {_spelled(field.new)}"


def _spelled(value: Data) -> str:
    text = "(none)" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
