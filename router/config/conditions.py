"""The conditions of rules in the file: every leaf is checked, so that all findings come at once."""

from router.config.entry import Problems
from router.config.tree import Data, Node
from router.dicom.errors import RuleError
from router.dicom.rules import parse_condition

_KEYS = ("all", "any", "not", "field", "op", "value")


def read(node: Node | None, problems: Problems) -> Data:
    """Return the tree of a `when` as data with its keys in order; None where there is none."""
    if node is None:
        return None
    if node.value is None:
        problems.add(node, "a condition is expected; leave 'when' out to take every instance")
        return None
    if not _check_parts(node, problems):
        _check(node, problems)
    return in_order(node.data())


def in_order(data: Data) -> Data:
    """Return a tree with the keys of each node in the order people write them."""
    if isinstance(data, list):
        return [in_order(one) for one in data]
    if isinstance(data, dict):
        return {key: in_order(data[key]) for key in sorted(data, key=_rank)}
    return data


def _rank(key: str) -> int:
    return _KEYS.index(key) if key in _KEYS else len(_KEYS)


def _check_parts(node: Node, problems: Problems) -> bool:
    """Check the conditions below a group one by one; tell whether something was found."""
    before = len(problems.found)
    for part in _parts(node):
        if not _check_parts(part, problems) and not _parts(part):
            _check(part, problems)
    return len(problems.found) > before


def _parts(node: Node) -> tuple[Node, ...]:
    if not isinstance(node.value, dict) or len(node.value) != 1:
        return ()
    key, below = next(iter(node.value.items()))
    if key == "not":
        return (below,) if below.value is not None else ()
    if key in {"all", "any"} and isinstance(below.value, tuple):
        return tuple(one for one in below.value if one.value is not None)
    return ()


def _check(node: Node, problems: Problems) -> None:
    try:
        parse_condition(node.data())
    except RuleError as error:
        expected = f"; expected {error.expected}" if error.expected else ""
        problems.add(_at(node, error.path), f"{error.message}{expected}")


def _at(node: Node, path: tuple[str | int, ...]) -> Node:
    """Return the node that `path` leads to; for a missing key, a node of its name there."""
    for step in path:
        if isinstance(node.value, dict) and step in node.value:
            node = node.value[str(step)]
        elif isinstance(node.value, tuple) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            return Node(None, node.line, f"{node.path}.{step}")
    return node
