"""A whole configuration as values: what one revision says, with every default filled in.

Objects are in one canonical order, so equal configurations are equal values. Reading YAML is
`router.config.schema`'s job, writing it `router.config.dump`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.config.tree import Data

SERVICES = ("echo", "store", "find", "move", "get", "commit")
DEFAULT_SERVICES = ("echo", "store")
DEFAULT_PRIORITY = 100
DEFAULT_PATIENCE = 300
DEFAULT_BALANCE = "round_robin"
LIMIT_KEYS = ("sources", "modalities", "institutions")
BUILT_IN_ROLES = ("administrator", "operator", "radiologist", "auditor", "service")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a rule says nothing else; times in seconds."""

    unmatched: str = "hold"
    quiet: int = 60
    quiet_cap: int = 1800


@dataclass(frozen=True, slots=True)
class Source:
    """A caller: AE title (exact, or with `*` and `?`) and hosts; no hosts means any."""

    name: str
    ae_title: str
    enabled: bool = True
    hosts: tuple[str, ...] = ()
    services: tuple[str, ...] = DEFAULT_SERVICES
    duplicates: str = "quarantine"


@dataclass(frozen=True, slots=True)
class Destination:
    """A place to deliver to; `settings` are the canonical ones of its kind's form."""

    name: str
    kind: str
    enabled: bool = True
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """Destinations under one name; `by` is '' for fail-over, `patience` in seconds.

    `returns` is the key `return` of the file.
    """

    name: str
    kind: str
    members: tuple[str, ...]
    enabled: bool = True
    by: str = ""
    returns: bool = True
    patience: int = DEFAULT_PATIENCE


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule; `quiet` in seconds, None for that of the defaults; no `transform` is ''.

    `priority` is its place among the rules. Without `urgency` its jobs have the destination's.
    """

    name: str
    send: tuple[str, ...]
    enabled: bool = True
    priority: int = DEFAULT_PRIORITY
    state: str = "live"
    when: Data = None
    on: str = "instance"
    quiet: int | None = None
    transform: str = ""
    urgency: str = ""
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the customer's own; a key missing in `limit` does not limit."""

    name: str
    permissions: tuple[str, ...]
    enabled: bool = True
    limit: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """A whole configuration."""

    defaults: Defaults = Defaults()
    sources: tuple[Source, ...] = ()
    destinations: tuple[Destination, ...] = ()
    groups: tuple[Group, ...] = ()
    rules: tuple[Rule, ...] = ()
    roles: tuple[Role, ...] = ()

    def ordered(self) -> "Document":
        """Return the same configuration in canonical order: by name, rules as they are tried."""
        return Document(
            self.defaults,
            tuple(sorted(self.sources, key=lambda one: one.name)),
            tuple(sorted(self.destinations, key=lambda one: one.name)),
            tuple(sorted(self.groups, key=lambda one: one.name)),
            tuple(sorted(self.rules, key=lambda one: (one.priority, one.name))),
            tuple(sorted(self.roles, key=lambda one: one.name)),
        )
