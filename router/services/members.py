"""The members of a group: which may be chosen now, and from which its studies are to leave.

Reads rows and the clock; decides nothing about studies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import F

from router.models import Destination, DestinationGroup, ItemState, JobItem, Lane, LaneState
from router.services import lanes

_STATES = {
    LaneState.STOPPED: "is stopped",
    LaneState.PAUSED: "is paused",
    LaneState.BACKOFF: "does not answer",
}


@dataclass(frozen=True)
class Member:
    """A member as it is now.

    `ill` says what is the matter with it, in words that follow its name, '' when it may be chosen.
    Where it `is_left`, what waits there goes to another member, once that has lasted from `since`
    on for the patience of the group; else it is only not chosen for new studies. One that is
    drained finishes its items up to `drain_to`.
    """

    destination: Destination
    ill: str = ""
    is_left: bool = False
    since: datetime | None = None
    drain_to: int | None = None

    @property
    def name(self) -> str:
        """What rules and groups call it."""
        return self.destination.name


def of(group: DestinationGroup) -> list[Member]:
    """Return the members of a group in its order."""
    rows = {row.name: row for row in _rows(group.members)}
    holding = _holding(row.pk for row in rows.values())
    return [
        _member(rows[name], holds_back=rows[name].pk in holding)
        for name in group.members
        if name in rows
    ]


def groups_with(name: str) -> set[str]:
    """Return the groups of which a destination is a member."""
    rows = DestinationGroup.objects.present().values_list("name", "members")
    return {group for group, names in rows if name in names}


def left(group: DestinationGroup) -> list[Member]:
    """Return those from which studies of the group are to leave, members of earlier days too.

    One that is no member any more and is well finishes the studies that it has.
    """
    rows = _rows([*group.members, *group.former])
    return [one for row in rows if (one := _member(row, holds_back=False)).is_left]


def _rows(names: Sequence[str]) -> Iterable[Destination]:
    return Destination.objects.filter(name__in=names).select_related("lane", "version")


def _holding(places: Iterable[int]) -> set[int]:
    """Return the destinations whose address changed and that hold objects back for that."""
    held = JobItem.objects.filter(destination__in=list(places), state=ItemState.HELD)
    held = held.exclude(endpoint=F("destination__endpoint")).order_by()
    return set(held.values_list("destination", flat=True).distinct())


def _member(row: Destination, *, holds_back: bool) -> Member:
    lane = getattr(row, "lane", None) or Lane(destination=row)
    if row.removed:
        return Member(row, "is no destination any more", is_left=True)
    if not row.enabled:
        return Member(row, "is disabled", is_left=True)
    if lane.state in _STATES:
        return Member(row, _STATES[LaneState(lane.state)], is_left=True, since=lane.ill_since)
    if lane.drain_to is not None:
        drained = Member(row, "is drained", is_left=True, since=lane.ill_since)
        return replace(drained, drain_to=lane.drain_to)
    if holds_back:
        return Member(row, "holds objects back since its address changed")
    if lanes.opens_at(row) is not None:
        return Member(row, "is outside its windows")
    return Member(row)
