"""What must change from one configuration to another, as values and as text. Nothing is applied."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from router.config import settings
from router.config.document import Destination, Document, Role, Rule, Source
from router.config.tree import Data
from router.destinations.fields import duration_text

Action = Literal["+", "~", "-"]
NO_CHANGE = "no change"


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
    for kind, before, after in (
        ("source", _named(current.sources), _named(wanted.sources)),
        ("destination", _named(current.destinations), _named(wanted.destinations)),
        ("rule", _named(current.rules), _named(wanted.rules)),
        ("role", _named(current.roles), _named(wanted.roles)),
    ):
        changes.extend(_changes(kind, before, after))
    return tuple(changes)


def text(changes: Iterable[Change]) -> str:
    """Return the plan for people, a line an object and a line a field; `no change` for none."""
    lines = [line for change in changes for line in _lines(change)]
    return "\n".join(lines) or NO_CHANGE


Fields = Mapping[str, Data]


def _changes(kind: str, before: Mapping[str, Fields], after: Mapping[str, Fields]) -> list[Change]:
    found: list[Change] = []
    for name in [*after, *(name for name in before if name not in after)]:
        old, new = before.get(name), after.get(name)
        if old is None:
            found.append(Change("+", kind, name, _fields({}, new or {})))
        elif new is None:
            found.append(Change("-", kind, name))
        elif fields := _fields(old, new):
            found.append(Change("~", kind, name, fields))
    return found


def _fields(old: Fields, new: Fields) -> tuple[FieldChange, ...]:
    return tuple(
        FieldChange(name, old.get(name), new.get(name))
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name) != new.get(name) or type(old.get(name)) is not type(new.get(name))
    )


def _named(objects: Iterable[Source | Destination | Rule | Role]) -> dict[str, Fields]:
    return {one.name: _shown(one) for one in objects}


def _shown(one: Source | Destination | Rule | Role) -> Fields:
    """Return the fields of an object as a reader of the file knows them."""
    if isinstance(one, Source):
        return _source(one)
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
            if field.new not in (None, "", [], {}):
                yield f"    {field.name}: {_spelled(field.new)}"
        else:
            yield f"    {field.name}: {_spelled(field.old)} → {_spelled(field.new)}"


def _spelled(value: Data) -> str:
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)
