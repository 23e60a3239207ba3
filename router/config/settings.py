"""The settings of a destination: its kind's form, asked from the file and from stored rows."""

from collections.abc import Mapping

from router.config.entry import Entry
from router.config.tree import Node
from router.destinations import KINDS

OWN_KEYS = ("name", "kind", "enabled")


def read(entry: Entry, kind: str) -> dict[str, object]:
    """Return the canonical settings of a destination of a known kind; {} after a finding."""
    form_class = KINDS[kind].form
    entry.refuse_others((*OWN_KEYS, *form_class.base_fields))
    given = {key: node for key, node in entry.keys.items() if key in form_class.base_fields}
    form = form_class({key: node.data() for key, node in given.items()})
    for field, messages in form.errors.items():
        node = given.get(field) or Node(None, entry.node.line, f"{entry.node.path}.{field}")
        for message in messages:
            entry.problems.add(node, str(message))
    return dict(form.cleaned_data) if form.is_valid() else {}


def canonical(kind: str, stored: Mapping[str, object]) -> dict[str, object]:
    """Return stored settings as the kind's form says them today; as they are where it cannot."""
    form = KINDS[kind].form(stored) if kind in KINDS else None
    return dict(form.cleaned_data) if form is not None and form.is_valid() else dict(stored)


def shortest(kind: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Return only the settings that are not the kind's defaults."""
    form = KINDS[kind].form(settings) if kind in KINDS else None
    return form.export() if form is not None and form.is_valid() else dict(settings)


def address(kind: str, settings: Mapping[str, object]) -> tuple[object, ...]:
    """Return what says where and who the far end is: the kind and its endpoint fields (R21)."""
    fields = KINDS[kind].endpoint_fields if kind in KINDS else tuple(sorted(settings))
    return (kind, *(settings.get(field) for field in fields))
