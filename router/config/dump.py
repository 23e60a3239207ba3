"""A configuration as plain data and as YAML: canonical, only what is not a default, no secrets.

Secrets are never part of a configuration; it names the variable that holds one.
"""

import hashlib
import json

import yaml

from router.config import settings
from router.config.conditions import in_order
from router.config.document import (
    DEFAULT_BALANCE,
    Defaults,
    Destination,
    Document,
    Group,
    Role,
    Rule,
    Source,
)
from router.config.tree import Data
from router.destinations.fields import duration_text

_WIDTH = 100


def to_data(document: Document) -> dict[str, Data]:
    """Return the form of the file as plain data."""
    data: dict[str, Data] = {"version": 1}
    lists: dict[str, list[Data]] = {
        "sources": [entry(one) for one in document.sources],
        "destinations": [entry(one) for one in document.destinations],
        "groups": [entry(one) for one in document.groups],
        "rules": [entry(one) for one in document.rules],
        "roles": [entry(one) for one in document.roles],
    }
    if defaults := _defaults(document.defaults):
        data["defaults"] = defaults
    return data | {key: entries for key, entries in lists.items() if entries}


def to_yaml(document: Document) -> str:
    """Return the file."""
    sections = ({key: value} for key, value in to_data(document).items())
    return "\n".join(_block(section) for section in sections)


def entry(one: Source | Destination | Group | Rule | Role) -> dict[str, Data]:
    """Return one object as its list in the file holds it."""
    if isinstance(one, Source):
        return _source(one)
    if isinstance(one, Destination):
        return _destination(one)
    if isinstance(one, Group):
        return _group(one)
    return _rule(one) if isinstance(one, Rule) else _role(one)


def digest(data: Data) -> str:
    """Return the SHA-256 of plain data as canonical JSON, in hexadecimal."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _block(section: dict[str, Data]) -> str:
    """Return one key of the file; what holds only scalars stands on one line, the key aside."""
    (value,) = section.values()
    text: str = yaml.safe_dump(
        section,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None if isinstance(value, dict | list) else False,
        width=_WIDTH,
    )
    return text


def _defaults(one: Defaults) -> dict[str, Data]:
    usual = Defaults()
    return _without(
        {
            "unmatched": (one.unmatched, usual.unmatched),
            "quiet": (duration_text(one.quiet), duration_text(usual.quiet)),
            "quiet_cap": (duration_text(one.quiet_cap), duration_text(usual.quiet_cap)),
        }
    )


def _source(one: Source) -> dict[str, Data]:
    usual = Source(one.name, one.ae_title)
    return {"name": one.name} | _without(
        {
            "enabled": (one.enabled, True),
            "ae_title": (one.ae_title, None),
            "hosts": (list(one.hosts), list(usual.hosts)),
            "services": (list(one.services), list(usual.services)),
            "duplicates": (one.duplicates, usual.duplicates),
        }
    )


def _destination(one: Destination) -> dict[str, Data]:
    own = {"name": one.name, "kind": one.kind} | _without({"enabled": (one.enabled, True)})
    return own | settings.shortest(one.kind, one.settings)  # type: ignore[return-value]  # JSON


def _group(one: Group) -> dict[str, Data]:
    usual = Group(one.name, one.kind, (), by="" if one.kind == "failover" else DEFAULT_BALANCE)
    own: dict[str, Data] = {"name": one.name, "kind": one.kind}
    return own | _without(
        {
            "enabled": (one.enabled, True),
            "members": (list(one.members), None),
            "by": (one.by, usual.by),
            "return": (one.returns, usual.returns),
            "patience": (duration_text(one.patience), duration_text(usual.patience)),
        }
    )


def _rule(one: Rule) -> dict[str, Data]:
    usual = Rule(one.name, ())
    quiet = None if one.quiet is None else duration_text(one.quiet)
    return {"name": one.name} | _without(
        {
            "enabled": (one.enabled, True),
            "priority": (one.priority, usual.priority),
            "state": (one.state, None),
            "when": (in_order(one.when), None),
            "on": (one.on, usual.on),
            "quiet": (quiet, None),
            "send": (list(one.send), None),
            "transform": (one.transform, ""),
            "urgency": (one.urgency, ""),
            "stop": (one.stop, False),
        }
    )


def _role(one: Role) -> dict[str, Data]:
    limit: dict[str, Data] = {key: list(values) for key, values in one.limit.items()}
    return {"name": one.name} | _without(
        {
            "enabled": (one.enabled, True),
            "permissions": (list(one.permissions), None),
            "limit": (limit, {}),
        }
    )


def _without(pairs: dict[str, tuple[Data, Data]]) -> dict[str, Data]:
    """Return the values that differ from their defaults."""
    return {key: value for key, (value, usual) in pairs.items() if value != usual}
