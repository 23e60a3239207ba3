"""Groups of destinations in the file: each key, and what the members must be.

Whether a group is of use is looked at as a whole: it must have a member that takes work.
"""

from router.config.document import DEFAULT_BALANCE, DEFAULT_PATIENCE, Document, Group
from router.config.entry import Entry, name, refuse_unknown
from router.config.findings import one_of
from router.config.tree import Node
from router.models import Balance, GroupKind

_KEYS = ("name", "enabled", "kind", "members", "by", "return", "patience")


def read(entry: Entry) -> Group:
    """Return a group; what is wrong is noted."""
    entry.refuse_others(_KEYS)
    kind = entry.text("kind", check=_kind)
    if not entry.has("members") and isinstance(entry.node.value, dict):
        entry.problems.add(entry.node, "the key 'members' is missing")
    _refuse_foreign(entry, kind)
    usual = DEFAULT_BALANCE if kind == GroupKind.BALANCE else ""
    patience = entry.duration("patience")
    return Group(
        name=entry.text("name", check=name),
        kind=kind,
        members=entry.texts("members", check=name) or (),
        enabled=entry.flag("enabled", default=True),
        by=entry.choice("by", Balance.values, default=usual),
        returns=entry.flag("return", default=True),
        patience=DEFAULT_PATIENCE if patience is None else patience,
    )


def _kind(text: str) -> str:
    if text not in GroupKind.values:
        raise ValueError(one_of(text, GroupKind.values))
    return text


def _refuse_foreign(entry: Entry, kind: str) -> None:
    """Note a key that means nothing for the kind."""
    for key, of in (("by", GroupKind.BALANCE), ("return", GroupKind.FAILOVER)):
        if kind and kind != of and entry.has(key):
            entry.problems.add(entry.keys[key], f"'{key}' is used with kind: {of.value} only")


def check(top: Entry, document: Document) -> None:
    """Note names that two have, and groups whose members are none, nested, unknown or off."""
    nodes = top.nodes("groups", may_be_empty=True)
    for node, one in zip(nodes, document.groups, strict=True):
        if isinstance(node.value, dict):
            _check_one(top, document, node, one)


def _check_one(top: Entry, document: Document, node: Node, one: Group) -> None:
    enabled = {place.name: place.enabled for place in document.destinations}
    if one.name in enabled:
        top.problems.add(node, f"the name '{one.name}' is that of a destination already")
    members = node.value.get("members") if isinstance(node.value, dict) else None
    if members is None or not isinstance(members.value, tuple):
        return
    if not members.value:
        top.problems.add(members, "the list is empty; at least one destination is expected")
        return
    _check_members(top, document, members)
    found = [enabled[name] for name in one.members if name in enabled]
    if one.enabled and found and not any(found):
        message = "all its members are disabled; enable one, or disable the group"
        top.problems.add(members, message)


def _check_members(top: Entry, document: Document, members: Node) -> None:
    groups = {group.name for group in document.groups}
    others: list[Node] = []
    for member in members.value if isinstance(members.value, tuple) else ():
        if member.text in groups:
            message = f"'{member.text}' is a group; the members of a group are destinations"
            top.problems.add(member, message)
        else:
            others.append(member)
    known = {place.name for place in document.destinations}
    listed = Node(tuple(others), members.line, members.path)
    refuse_unknown(listed, known, what="destination", problems=top.problems)
