"""How surely far ends have what was sent: of one study, line by line, and of one destination.

Read only, and limited to what the reader may see. Each line says how many objects it is about, on
what evidence, and since when.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Max, Min, Q

from router.destinations import grades
from router.models import (
    OPEN_PROOFS,
    Commitment,
    CommitmentState,
    Destination,
    Proof,
    ProofAttempt,
    ProofGrade,
    ProofOutcome,
    ProofState,
    Study,
    User,
)
from router.models.jobs import JobItemQuerySet
from router.models.proofs import ProofQuerySet
from router.services import proofs
from router.services.visibility import visible_items

# Any in this module: rows of values(), whose columns the query names.

MOST_LINES = 100
UNPROVEN = (ProofState.WAITING, ProofState.ASKING, ProofState.AWAITED)
_PKS = Count("pk")
_TRANSACTION = "commitment__transaction_uid"


@dataclass(frozen=True)
class Line:
    """One line of a study's proofs. `kind` is what it says: `proven`, `open`, `unconfirmed` or
    `failed`; `word` names the grade or the state."""

    destination: str
    kind: str
    word: str
    objects: int
    sentence: str
    at: datetime | None = None
    next_at: datetime | None = None
    transaction_uid: str = ""


@dataclass(frozen=True)
class Standing:
    """How far the proofs of one destination are, in objects."""

    grade: str
    proven: int
    unproven: int
    awaited: int
    unconfirmed: int
    failed: int
    oldest_request: datetime | None
    reason: str
    resume_at: datetime | None
    is_enrolling: bool

    @property
    def is_asked(self) -> bool:
        """Whether more than an answer is needed."""
        return self.grade != grades.ACCEPTED


def of_study(study: Study, user: User) -> tuple[Line, ...]:
    """Return what is known of a study's objects at each destination that took some."""
    items = visible_items(user).filter(job__study=study)
    return (*_accepted(items), *_proven(items), *_failed(items), *_open(items))


def mood(lines: Iterable[Line]) -> str:
    """Return the mark of the worst of some lines: `bad`, `held`, `wait`, `ok` or `none`."""
    kinds = {line.kind for line in lines}
    moods = {"failed": "bad", "unconfirmed": "held", "open": "wait", "proven": "ok"}
    return next((mark for kind, mark in moods.items() if kind in kinds), "none")


def _accepted(items: JobItemQuerySet) -> Iterator[Line]:
    """What is enough as it is: a success that was answered."""
    enough = items.delivered().of_enough_grade().filter(proof=ProofGrade.ACCEPTED)
    groups = enough.values("destination__name").annotate(number=Count("pk"), at=Max("finished_at"))
    for row in groups.order_by("destination__name"):
        name = row["destination__name"]
        said = f"{name} answered success, and no more is needed there."
        yield Line(name, "proven", "accepted", row["number"], said, row["at"])


def _proven(items: JobItemQuerySet) -> Iterator[Line]:
    said = ProofAttempt.objects.filter(item__in=items.delivered(), outcome=ProofOutcome.PROVEN)
    standing = said.filter(delivery=F("item__fence"), grade=F("item__proof"))
    for row in _grouped(standing, "grade"):
        yield _line(row, "proven", str(ProofGrade(row["grade"]).label).lower())


def _failed(items: JobItemQuerySet) -> Iterator[Line]:
    """What was denied, also where it was proven later."""
    denied = ProofAttempt.objects.filter(item__in=items, outcome=ProofOutcome.FAILED)
    is_mended = Q(item__proving__state=ProofState.PROVEN)
    for rows, kind in ((denied.filter(is_mended), "mended"), (denied.exclude(is_mended), "failed")):
        for row in _grouped(rows, "grade"):
            yield _line(row, kind, "proof failed" if kind == "failed" else "sent again")


def _grouped(rows: Any, *columns: str) -> Iterator[dict[str, Any]]:
    fields = ("item__destination__name", *columns, "detail", _TRANSACTION)
    groups = rows.order_by().values(*fields).annotate(number=Count("pk"), at=Max("ended_at"))
    yield from groups.order_by("item__destination__name", "at")[:MOST_LINES]


def _line(row: dict[str, Any], kind: str, word: str) -> Line:
    return Line(
        row["item__destination__name"],
        kind,
        word,
        row["number"],
        row["detail"],
        row["at"],
        transaction_uid=row[_TRANSACTION] or "",
    )


def _open(items: JobItemQuerySet) -> Iterator[Line]:
    waiting = Proof.objects.filter(item__in=items, state__in=[*UNPROVEN, ProofState.UNCONFIRMED])
    groups = waiting.order_by().values("destination__name", "state", "reason")
    for row in groups.annotate(number=Count("pk"), next_at=Min("due_at"))[:MOST_LINES]:
        state = ProofState(row["state"])
        yield Line(
            row["destination__name"],
            "unconfirmed" if state == ProofState.UNCONFIRMED else "open",
            str(state.label).lower(),
            row["number"],
            row["reason"] or f"{row['destination__name']} was not asked yet.",
            next_at=row["next_at"],
        )


def of_destination(user: User, destination: Destination) -> Standing:
    """Return how far the proofs of a destination are, as far as `user` may see."""
    counts = _counts(user, destination)
    requests = Commitment.objects.filter(destination=destination, state=CommitmentState.ACCEPTED)
    lane = getattr(destination, "lane", None)
    return Standing(
        grade=proofs.grade(destination),
        proven=counts.get(ProofState.PROVEN, 0),
        unproven=sum(counts.get(state, 0) for state in UNPROVEN),
        awaited=counts.get(ProofState.AWAITED, 0),
        unconfirmed=counts.get(ProofState.UNCONFIRMED, 0),
        failed=counts.get(ProofState.FAILED, 0),
        oldest_request=requests.aggregate(first=Min("requested_at"))["first"],
        reason=lane.proof_reason if lane else "",
        resume_at=lane.proof_resume_at if lane else None,
        is_enrolling=bool(lane and lane.enrol_at),
    )


def _counts(user: User, destination: Destination) -> dict[str, int]:
    seen = visible(user).filter(destination=destination).order_by()
    return dict(seen.values_list("state").annotate(number=Count("pk")))


def visible(user: User) -> ProofQuerySet:
    """Return the proofs of objects within the user's limit."""
    found = Proof.objects.all()
    return found.filter(item__in=visible_items(user)) if user.limits() else found


def unconfirmed(user: User) -> list[tuple[str, str, int]]:
    """Return name, reason and number of objects of each destination that leaves some unconfirmed,
    or that has not answered for so long that its pauses are through."""
    seen = visible(user).filter(destination__removed=False).order_by()
    groups = seen.filter(state=ProofState.UNCONFIRMED).values_list("destination__name", "reason")
    found: dict[str, tuple[str, str, int]] = {}
    for name, reason, number in groups.annotate(number=_PKS).order_by("number"):
        found[name] = (name, reason, number + (found[name][2] if name in found else 0))
    silent = Destination.objects.active().filter(lane__proof_failures__gt=0)
    for row in silent.select_related("lane", "version"):
        if proofs.grade(row) != grades.ACCEPTED and _is_silent(row):
            count = seen.filter(destination=row, state__in=OPEN_PROOFS).count()
            found[row.name] = (row.name, row.lane.proof_reason, count)
    return sorted(found.values(), key=lambda one: -one[2])


def _is_silent(destination: Destination) -> bool:
    return destination.lane.proof_failures >= len(proofs.delays(destination))
