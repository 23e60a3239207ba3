"""The groups as a page tells of them: each member with its state, its open work and its share.

Reads only. The state of a lane is `overview`'s, and whether a member may be chosen `members`'.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count

from router.models import Assignment, DestinationGroup, User
from router.services import clock, members, overview

LATELY = timedelta(hours=24)


@dataclass(frozen=True)
class MemberRow:
    """A member: what is the matter with it, and how many studies it was given lately."""

    name: str
    state: str
    ill: str
    open_work: int
    studies: int
    percent: int


@dataclass(frozen=True)
class GroupRow:
    """A group with its members in their order."""

    name: str
    kind: str
    by: str
    returns: bool
    enabled: bool
    studies: int
    members: tuple[MemberRow, ...]

    @property
    def is_stuck(self) -> bool:
        """Whether no member is well."""
        return all(one.ill for one in self.members)


def groups(user: User) -> list[GroupRow]:
    """Return the groups of the configuration; work is counted as far as `user` may see it."""
    rows = list(DestinationGroup.objects.present())
    if not rows:
        return []
    places = {row.name: row for row in overview.destinations(user)}
    return [_group(row, places) for row in rows]


def _group(row: DestinationGroup, places: dict[str, overview.DestinationRow]) -> GroupRow:
    since = clock.now() - LATELY
    given = Assignment.objects.filter(group=row, since__gte=since).order_by()
    counts = dict(given.values_list("member__name").annotate(number=Count("pk")))
    total = sum(counts.values())
    return GroupRow(
        name=row.name,
        kind=row.kind,
        by=row.get_by_display() if row.by else "",
        returns=row.returns,
        enabled=row.enabled,
        studies=total,
        members=tuple(
            MemberRow(
                name=one.name,
                state=places[one.name].state,
                ill=one.ill,
                open_work=places[one.name].backlog,
                studies=counts.get(one.name, 0),
                percent=round(100 * counts.get(one.name, 0) / total) if total else 0,
            )
            for one in members.of(row)
            if one.name in places
        ),
    )
