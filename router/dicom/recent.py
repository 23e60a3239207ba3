"""What was found for instances seen lately, so that the images of a series are not judged anew.

What is found depends on nothing but what was seen, in the order in which it was looked at: what
one field holds says which one is looked at next. So a path of what was seen leads to it. Bounded
in number; it forgets everything when it is full.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

from router.dicom.seen import Seen

_T = TypeVar("_T")


class _Fork(Generic[_T]):
    """The slot that is looked at next, and where what is seen there leads to."""

    __slots__ = ("branches", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.branches: dict[Seen, _Fork[_T] | _T] = {}


class Recent(Generic[_T]):
    """Findings by what led to them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._start: _Fork[_T] | None = None
        self._number = 0

    def find(self, look: Callable[[int], Seen]) -> _T | None:
        """What was found for an instance that looks the same, or None."""
        node: _Fork[_T] | _T | None = self._start
        while isinstance(node, _Fork):
            node = node.branches.get(look(node.slot))
        return node

    def keep(self, looked: Sequence[tuple[int, Seen]], found: _T) -> None:
        """Remember what was found by these looks, unless one of them does not last."""
        if not looked or not all(seen.lasts for _, seen in looked):
            return
        if self._number >= self._most:
            self._start, self._number = None, 0
        node = self._start = self._start or _Fork(looked[0][0])
        for (_, seen), (slot, _) in pairwise(looked):
            below = node.branches.get(seen)
            if not isinstance(below, _Fork):
                below = node.branches[seen] = _Fork(slot)
            node = below
        node.branches[looked[-1][1]] = found
        self._number += 1
