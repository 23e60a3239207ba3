"""Which member of a group has a study: chosen once, by the group's kind and its members' health.

The choice is a row, inserted where there is none; whoever is second reads it. Whatever comes of the
study later goes to the same member. Refuses to move a study: that is `failover`'s.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from django.db.models import Count

from router.models import (
    OPEN_STATES,
    Assignment,
    Balance,
    Destination,
    DestinationGroup,
    GroupKind,
    JobItem,
    Study,
)
from router.services import clock, members
from router.services.members import Member

LONGEST = 500

Wanted = tuple[int, str]
"""A study and the name of a group."""


@dataclass(frozen=True)
class Chosen:
    """A member and why it was chosen, in words."""

    member: Member
    why: str


def assigned(wanted: Iterable[Wanted]) -> dict[Wanted, Assignment]:
    """Return the assignments of studies to members, made where they are missing.

    Runs inside the caller's transaction and locks them until it is over, so that no study is moved
    while items are chosen for it.
    """
    asked = set(wanted)
    if not asked:
        return {}
    found = _locked(asked)
    missing = asked - found.keys()
    if missing:
        _assign(missing)
        found |= _locked(missing)
    return found


def _locked(wanted: set[Wanted]) -> dict[Wanted, Assignment]:
    rows = Assignment.objects.filter(
        study__in={study for study, _name in wanted}, group__name__in={name for _, name in wanted}
    )
    rows = rows.select_for_update(of=("self",)).select_related("group", "member__version")
    found = {(row.study_id, row.group.name): row for row in rows.order_by("pk")}
    return {key: row for key, row in found.items() if key in wanted}


def _assign(missing: set[Wanted]) -> None:
    """Choose a member for each; one transaction at a time does so for a group."""
    names = {name for _study, name in missing}
    groups = DestinationGroup.objects.filter(name__in=names).select_for_update().order_by("pk")
    by_name = {group.name: Choosing(group, members.of(group)) for group in groups}
    # Another may have come first while we waited for the group.
    left = sorted(missing - _locked(missing).keys())
    studies = Study.objects.filter(pk__in={study for study, _name in left})
    uids = dict(studies.values_list("pk", "study_instance_uid"))
    chosen = [(study, by_name[name], by_name[name].next(uids[study])) for study, name in left]
    now = clock.now()
    Assignment.objects.bulk_create(
        [
            Assignment(
                study_id=study,
                group=choosing.group,
                member=found.member.destination,
                reason=found.why[:LONGEST],
                since=now,
            )
            for study, choosing, found in chosen
        ],
        ignore_conflicts=True,
    )
    for choosing in by_name.values():
        choosing.save()


# --- how a member is chosen ----------------------------------------------------------------------
@dataclass
class Choosing:
    """A group that chooses; its row is locked. Counts what it has chosen itself meanwhile."""

    group: DestinationGroup
    members: Sequence[Member]
    _open: dict[int, int] = field(default_factory=dict)

    def next(self, study_instance_uid: str) -> Chosen:
        """Choose a member for a study."""
        able, remark = self._able()
        member, why = self._pick(able, study_instance_uid)
        self.group.last = member.destination
        return Chosen(member, f"{why}{remark}")

    def save(self) -> None:
        """Remember the member chosen last."""
        self.group.save(update_fields=["last"])

    def _able(self) -> tuple[list[Member], str]:
        """Return those to choose from, and what is to be said of the others."""
        if not self.group.enabled:
            return list(self.members[:1]), "; the group is disabled"
        well = [one for one in self.members if not one.ill]
        if well:
            ill = [f"{one.name} {one.ill}" for one in self.members if one.ill]
            return well, f"; left out: {', '.join(ill)}" if ill else ""
        soon = [one for one in self.members if not one.is_left]
        there = [one for one in self.members if one.destination.enabled]
        able = soon or there or list(self.members)
        if self.group.kind == GroupKind.FAILOVER:
            able = able[:1]
        return able, "; no member is well, so it waits there"

    def _pick(self, able: Sequence[Member], uid: str) -> tuple[Member, str]:
        if self.group.kind == GroupKind.FAILOVER:
            return self._in_order(able)
        if self.group.by == Balance.HASH:
            return max(able, key=lambda one: _weight(one.name, uid)), "by the Study Instance UID"
        turns = self._after_last(able)
        if self.group.by == Balance.LEAST_OPEN:
            return self._least_open(turns)
        return turns[0], "in turn"

    def _in_order(self, able: Sequence[Member]) -> tuple[Member, str]:
        last = self.group.last_id
        if not self.group.returns and last is not None:
            staying = next((one for one in able if one.destination.pk == last), None)
            if staying is not None:
                return staying, "the member that was chosen last, and is well"
            return self._after_last(able)[0], "the next member that is well"
        first = self.members[0].name == able[0].name
        return able[0], "the first member" if first else "the first member that is well"

    def _after_last(self, able: Sequence[Member]) -> list[Member]:
        """Return the members in turn, beginning after the one that was chosen last."""
        order = [one.destination.pk for one in self.members]
        last = order.index(self.group.last_id) if self.group.last_id in order else -1
        turn = {pk: (place - last - 1) % len(order) for place, pk in enumerate(order)}
        return sorted(able, key=lambda one: turn[one.destination.pk])

    def _least_open(self, turns: Sequence[Member]) -> tuple[Member, str]:
        if not self._open:
            self._open = dict(open_work(one.destination for one in self.members))
        least = min(turns, key=lambda one: self._open[one.destination.pk])
        count = self._open[least.destination.pk]
        self._open[least.destination.pk] += 1
        return least, f"least open work, {count} objects"


def open_work(places: Iterable[Destination]) -> Mapping[int, int]:
    """Return how many items are open at each destination."""
    ids = [place.pk for place in places]
    items = JobItem.objects.filter(destination__in=ids, state__in=OPEN_STATES, finished_at=None)
    counted = items.order_by().values_list("destination").annotate(number=Count("pk"))
    return dict.fromkeys(ids, 0) | dict(counted)


def _weight(name: str, uid: str) -> bytes:
    """The highest decides, so that a member that is ill or gone changes nothing for the others."""
    return hashlib.sha256(f"{name}\0{uid}".encode()).digest()
