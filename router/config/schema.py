"""What a configuration may hold: YAML text or a revision's data → a `Document`, or every finding.

Nothing here looks at the database: a document is right or wrong by itself.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from router.config import conditions, groups, settings
from router.config.document import (
    BUILT_IN_ROLES,
    DEFAULT_PRIORITY,
    DEFAULT_SERVICES,
    LIMIT_KEYS,
    SERVICES,
    Defaults,
    Destination,
    Document,
    Group,
    Role,
    Rule,
    Source,
)
from router.config.entry import Entry, Problems, name, refuse_unknown
from router.config.findings import ConfigError, one_of
from router.config.network import caller_title, host
from router.config.tree import Data, Node, from_data, parse
from router.destinations import KINDS
from router.destinations.fields import URGENCIES
from router.models import DuplicatePolicy, Permission, RuleState, Trigger, Unmatched

KEYS = (
    *("version", "defaults", "sources", "destinations", "groups", "rules", "profiles"),
    "roles",
)
VERSION = 1
NO_TRANSFORM = "none"
MOST_PRIORITY = 1_000_000

Named = TypeVar("Named", Source, Destination, Group, Rule, Role)


def load(text: str | bytes) -> Document:
    """Return the configuration that `text` describes.

    Raises:
        ConfigError: with every finding, each with its line.
    """
    return _read(parse(text))


def from_json(data: Data) -> Document:
    """Return the configuration of a revision's document.

    Raises:
        ConfigError: it is not right any more, such as a kind that is gone.
    """
    return _read(from_data(data))


def _read(root: Node) -> Document:
    problems = Problems()
    top = Entry(root, problems, keys=KEYS)
    _check_version(top)
    document = Document(
        _defaults(top),
        _each(top, "sources", _source),
        _each(top, "destinations", _destination),
        _each(top, "groups", groups.read),
        _each(top, "rules", _rule),
        _each(top, "roles", _role),
    )
    for node in top.nodes("profiles", may_be_empty=True):
        problems.add(node, "profiles are not known yet; the list must be empty")
    groups.check(top, document)
    _check_names(top, document)
    _check_titles(top, document)
    if problems.found:
        raise ConfigError(problems.found)
    return document.ordered()


def _check_version(top: Entry) -> None:
    node = top.keys.get("version")
    if node is None:
        top.problems.add(top.node, f"the key 'version' is missing; write version: {VERSION}")
    elif node.value is True or node.value != VERSION:
        top.problems.add(node, f"version {node.text or '(none)'} is unknown; expected {VERSION}")


def _each(top: Entry, key: str, read: Callable[[Entry], Named]) -> tuple[Named, ...]:
    """Read a list of named objects; a name may be given once."""
    found: list[Named] = []
    lines: dict[str, int] = {}
    for node in top.nodes(key, may_be_empty=True):
        one = read(Entry(node, top.problems, keys=None))
        found.append(one)
        if one.name and one.name in lines:
            where = f", first on line {lines[one.name]}" if node.line else ""
            top.problems.add(node, f"the name '{one.name}' is given twice{where}")
        lines.setdefault(one.name, node.line)
    return tuple(found)


def _defaults(top: Entry) -> Defaults:
    node = top.keys.get("defaults")
    if node is None or node.value is None:
        return Defaults()
    usual = Defaults()
    entry = Entry(node, top.problems, keys=("unmatched", "quiet", "quiet_cap"))
    quiet, cap = entry.duration("quiet"), entry.duration("quiet_cap")
    return Defaults(
        entry.choice("unmatched", Unmatched.values, default=usual.unmatched),
        usual.quiet if quiet is None else quiet,
        usual.quiet_cap if cap is None else cap,
    )


def _source(entry: Entry) -> Source:
    entry.refuse_others(("name", "enabled", "ae_title", "hosts", "services", "duplicates"))
    return Source(
        name=entry.text("name", check=name),
        ae_title=entry.text("ae_title", check=caller_title),
        enabled=entry.flag("enabled", default=True),
        hosts=_some(entry, "hosts", entry.texts("hosts", check=host)),
        services=_services(entry),
        duplicates=entry.choice(
            "duplicates", DuplicatePolicy.values, default=DuplicatePolicy.QUARANTINE.value
        ),
    )


def _some(entry: Entry, key: str, found: tuple[str, ...] | None) -> tuple[str, ...]:
    """Note an empty list, which could be read as "all" or as "none"."""
    node = entry.keys.get(key)
    if node is not None and node.value == ():
        entry.problems.add(node, "the list is empty; at least one is expected, or no such key")
    return found or ()


def _services(entry: Entry) -> tuple[str, ...]:
    found = _some(entry, "services", entry.texts("services", check=_one_of(SERVICES)))
    return tuple(service for service in SERVICES if service in found) or DEFAULT_SERVICES


def _destination(entry: Entry) -> Destination:
    kind = entry.text("kind", check=_one_of(KINDS))
    return Destination(
        name=entry.text("name", check=name),
        kind=kind,
        enabled=entry.flag("enabled", default=True),
        settings=settings.read(entry, kind) if kind else {},
    )


def _rule(entry: Entry) -> Rule:
    entry.refuse_others(
        (
            *("name", "enabled", "priority", "state", "when", "on", "quiet", "send", "transform"),
            *("urgency", "stop"),
        )
    )
    transform = entry.choice("transform", (NO_TRANSFORM,), default=NO_TRANSFORM)
    if not entry.has("send") and isinstance(entry.node.value, dict):
        entry.problems.add(entry.node, "the key 'send' is missing; [] sends nowhere")
    return Rule(
        name=entry.text("name", check=name),
        send=entry.texts("send", check=name) or (),
        enabled=entry.flag("enabled", default=True),
        priority=entry.whole(
            "priority", default=DEFAULT_PRIORITY, least=-MOST_PRIORITY, most=MOST_PRIORITY
        ),
        state=entry.choice("state", RuleState.values, default=RuleState.LIVE.value),
        when=conditions.read(entry.keys.get("when"), entry.problems),
        on=entry.choice("on", Trigger.values, default=Trigger.INSTANCE.value),
        quiet=entry.duration("quiet"),
        transform="" if transform == NO_TRANSFORM else transform,
        urgency=entry.choice("urgency", URGENCIES, default=""),
        stop=entry.flag("stop", default=False),
    )


def _role(entry: Entry) -> Role:
    entry.refuse_others(("name", "enabled", "permissions", "limit"))
    if not entry.has("permissions") and isinstance(entry.node.value, dict):
        entry.problems.add(entry.node, "the key 'permissions' is missing; [] allows nothing")
    permissions = entry.texts("permissions", check=_one_of(Permission.values)) or ()
    return Role(
        name=entry.text("name", check=_role_name),
        permissions=tuple(sorted(permissions)),
        enabled=entry.flag("enabled", default=True),
        limit=_limit(entry),
    )


def _role_name(text: str) -> str:
    if text in BUILT_IN_ROLES:
        raise ValueError(f"the built-in role '{text}' cannot be defined anew; choose another name")
    return name(text)


def _limit(entry: Entry) -> dict[str, tuple[str, ...]]:
    node = entry.keys.get("limit")
    if node is None:
        return {}
    limit = Entry(node, entry.problems, keys=LIMIT_KEYS)
    return {
        key: tuple(sorted(_some(limit, key, limit.texts(key))))
        for key in LIMIT_KEYS
        if limit.has(key)
    }


def _one_of(choices: Iterable[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(one_of(text, choices))
        return text

    return check


def _check_names(top: Entry, document: Document) -> None:
    """Note names that lead nowhere: places in rules, sources in the limits of roles."""
    places = {one.name for one in document.destinations} | {one.name for one in document.groups}
    for node in top.nodes("rules", may_be_empty=True):
        send = node.value.get("send") if isinstance(node.value, dict) else None
        refuse_unknown(send, places, what="destination", problems=top.problems)
    callers = {one.name for one in document.sources}
    for node in top.nodes("roles", may_be_empty=True):
        limit = node.value.get("limit") if isinstance(node.value, dict) else None
        if limit is not None and isinstance(limit.value, dict):
            sources = limit.value.get("sources")
            refuse_unknown(sources, callers, what="source", problems=top.problems)


def _check_titles(top: Entry, document: Document) -> None:
    """Note an AE title of two enabled `dicom` destinations: C-MOVE names them by it."""
    nodes = top.nodes("destinations", may_be_empty=True)
    owners: dict[object, str] = {}
    for node, one in zip(nodes, document.destinations, strict=True):
        title = one.settings.get("ae_title")
        if one.kind != "dicom" or not one.enabled or not title:
            continue
        if title in owners and isinstance(node.value, dict):
            message = f"the AE title '{title}' is already that of '{owners[title]}'"
            top.problems.add(node.value["ae_title"], message)
        owners.setdefault(title, one.name)
