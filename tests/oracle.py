"""What a configuration file must lead to: the (SOP Instance UID, destination) pairs of objects.

Written from docs/configuration.md with pydicom and the standard library, apart from the product's
own rules, so that the two can be held against each other. It reads the YAML form as plain data and
is slow on purpose: a list of rules, a list of objects, every pair asked by itself.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

Facts = Mapping[str, str]  # calling_ae, called_ae, source, remote_host, origin
Pair = tuple[str, str]
Tree = Mapping[str, Any]  # a piece of YAML

FACTS = ("calling_ae", "called_ae", "source", "remote_host", "origin")
NUMBERS = {"US", "SS", "UL", "SL", "FL", "FD", "DS", "IS", "UV", "SV"}
MOMENTS = {"DA": "00000000", "TM": "000000.000000"}
_NUMBER = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)\Z")
_PRIVATE = re.compile(r'\(([0-9A-Fa-f]{4}),xx([0-9A-Fa-f]{2}), *"(.+)"\)\Z')


def expected_pairs(objects: Iterable[tuple[Dataset, Facts]], config: Tree) -> set[Pair]:
    """Return every pair that the rules of `config` choose, whenever it leaves."""
    return {
        (str(ds.SOPInstanceUID), name)
        for ds, facts in objects
        for name in destinations_of(ds, facts, config)
    }


def destinations_of(ds: Dataset, facts: Facts, config: Tree) -> set[str]:
    """Return the destinations of one object."""
    usable = {one["name"] for one in config["destinations"] if one.get("enabled", True)}
    chosen: set[str] = set()
    for rule in sorted(config["rules"], key=lambda one: (one.get("priority", 100), one["name"])):
        if rule.get("state") != "live" or not rule.get("enabled", True):
            continue
        if not holds(rule.get("when"), ds, facts):
            continue
        chosen |= set(rule["send"])
        if rule.get("stop", False):
            break
    return chosen & usable


def holds(node: Tree | None, ds: Dataset, facts: Facts) -> bool:
    """Tell whether a condition is true of an object."""
    if node is None:
        return True
    if "all" in node:
        return all(holds(one, ds, facts) for one in node["all"])
    if "any" in node:
        return any(holds(one, ds, facts) for one in node["any"])
    if "not" in node:
        return not holds(node["not"], ds, facts)
    found = _find(str(node["field"]), ds, facts)
    values = [(vr, value) for vr, texts in found for value in texts]
    if node["op"] in {"exists", "missing"}:
        wants_one = str(node["op"]) == "exists"
        return bool(values) == wants_one
    return any(_satisfies(node["op"], vr, value, node["value"]) for vr, value in values)


def _find(field: str, ds: Dataset, facts: Facts) -> list[tuple[str, list[str]]]:
    """Return VR and texts of every element that a field names."""
    if field in FACTS:
        return [("", [facts[field]] if facts.get(field) else [])]
    if private := _PRIVATE.match(field):
        return _private(ds, int(private[1], 16), int(private[2], 16), private[3])
    if number := _NUMBER.match(field):
        tag = (int(number[1], 16) << 16) + int(number[2], 16)
        return [_texts(ds[tag])] if tag in ds else []
    head, _, rest = field.partition(".")
    if head not in ds:
        return []
    if not rest:
        return [_texts(ds[head])]
    return [found for item in ds[head].value for found in _find(rest, item, facts)]


def _private(ds: Dataset, group: int, element: int, creator: str) -> list[tuple[str, list[str]]]:
    try:
        return [_texts(ds.private_block(group, creator)[element])]
    except KeyError:
        return []


def _texts(element: DataElement) -> tuple[str, list[str]]:
    value = element.value
    if element.VR == "SQ" or value is None:
        return element.VR, ["item"] * len(value or ())
    several = list(value) if isinstance(value, MultiValue | list) else [value]
    texts = [_original(one).rstrip(" \0") for one in several]
    return element.VR, [text for text in texts if text]


def _original(value: object) -> str:
    return str(getattr(value, "original_string", None) or value)


def _satisfies(op: str, vr: str, text: str, wanted: object) -> bool:
    if op in {"lt", "lte", "gt", "gte"}:
        order = _order(vr, text, wanted)
        if order is None:
            return False
        return {"lt": order < 0, "lte": order <= 0, "gt": order > 0, "gte": order >= 0}[op]
    if op == "in":
        assert isinstance(wanted, list)
        return any(_is_equal(vr, text, one) for one in wanted)
    if op in {"equals", "not_equals"}:
        return _is_equal(vr, text, wanted) == (op == "equals")
    if op == "matches":
        return fnmatchcase(text, str(wanted).replace("[", "[[]"))
    if op == "contains":
        return str(wanted) in text
    assert op == "regex"
    return re.search(str(wanted), text) is not None


def _is_equal(vr: str, text: str, wanted: object) -> bool:
    if vr in NUMBERS:
        return _order(vr, text, wanted) == 0
    return text == str(wanted)


def _order(vr: str, text: str, wanted: object) -> int | None:
    """Return -1, 0 or 1; None where one of the two is no such value."""
    if vr in MOMENTS:
        shape = MOMENTS[vr]
        left, right = (part + shape[len(part) :] for part in (text, str(wanted)))
        return (left > right) - (left < right)
    try:
        first, second = Decimal(text.strip()), Decimal(str(wanted))
    except InvalidOperation:
        return None
    return (first > second) - (first < second)
