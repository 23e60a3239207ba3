"""The story of one study: received, decided because, sent, proved; and why it was not sent to X.

Built from the ledger alone, in a bounded number of queries whatever the study's size. Reads only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import Count, Max, Min, Q, Sum

from router.dicom.rules import Outcome, Reason
from router.models import (
    DONE_STATES,
    OPEN_STATES,
    Assignment,
    Association,
    Attempt,
    Decision,
    Destination,
    ItemState,
    Job,
    QuietTimer,
    Receipt,
    ReceiptOutcome,
    RoutingMark,
    Rule,
    Study,
    User,
)
from router.services import members, proof_story
from router.services.visibility import sees_patients, visible_items

# Any in this module: rows of values(), whose columns the query names.

MASK = "•••••"
MOST_ROWS = 100
# Fields whose values identify no patient; other values are masked for those who may not see them.
PLAIN_FIELDS = frozenset(
    {
        "BodyPartExamined", "InstitutionName", "Manufacturer", "ManufacturerModelName", "Modality",
        "SOPClassUID", "SeriesDescription", "StationName", "StudyDate", "StudyDescription",
        "TransferSyntaxUID", "called_ae", "calling_ae", "origin", "remote_host", "source",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Reception:
    """What one association brought of the study."""

    association: Association
    objects: int
    bytes: int
    outcomes: tuple[tuple[str, int], ...]
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True)
class Explained:
    """One rule in a decision: whether it acted, and the sentence why."""

    rule: str
    result: str
    matched: bool
    sentence: str


@dataclass(frozen=True)
class Decided:
    """A decision with its destinations, each with the rule that chose it and why."""

    decision: Decision
    chosen: tuple[tuple[str, Explained], ...]
    refusing: tuple[Explained, ...]


@dataclass(frozen=True)
class Answer:
    """Attempts of one job that ended alike."""

    outcome: str
    label: str
    status: int | None
    detail: str
    count: int
    last_at: datetime


@dataclass(frozen=True)
class Sending:
    """One job of the study: its items by state, what was answered, and the proof."""

    job: Job
    states: tuple[tuple[str, int], ...]
    objects: int
    bytes: int
    answers: tuple[Answer, ...]
    reasons: tuple[str, ...]
    next_try_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Timeline:
    """All of it, in the order of the page."""

    receptions: tuple[Reception, ...]
    decisions: tuple[Decided, ...]
    undecided: int
    timers: tuple[QuietTimer, ...]
    assignments: tuple[Assignment, ...]
    sendings: tuple[Sending, ...]
    proofs: tuple[proof_story.Line, ...]

    @property
    def proof_mood(self) -> str:
        """Return the worst of the proofs, in the same words as `sending_mood`."""
        return proof_story.mood(self.proofs)

    @property
    def sending_mood(self) -> str:
        """Return the worst of what was sent: ``bad``, ``held``, ``wait``, ``ok`` or ``none``."""
        states = {state for sending in self.sendings for state, _count in sending.states}
        moods = {
            "bad": {ItemState.PARKED},
            "held": {ItemState.HELD},
            "wait": set(OPEN_STATES),
            "ok": set(DONE_STATES),
        }
        return next((mood for mood, signs in moods.items() if signs & states), "none")


@dataclass(frozen=True)
class WhyNot:
    """Why a study was, or was not, sent to a destination: a verdict and its lines."""

    destination: str
    was_sent: bool
    verdict: str
    lines: tuple[Explained, ...]


def of(study: Study, user: User) -> Timeline:
    """Return the story of a study as ``user`` may read it."""
    return Timeline(
        receptions=tuple(_receptions(study)),
        decisions=tuple(_decisions(study, user)),
        undecided=RoutingMark.objects.undecided().filter(instance__study=study).count(),
        timers=tuple(QuietTimer.objects.filter(study=study, fired_at=None).order_by("due_at")),
        assignments=tuple(_assignments(study)),
        sendings=tuple(_sendings(study, user)),
        proofs=proof_story.of_study(study, user),
    )


def _receptions(study: Study) -> Iterable[Reception]:
    receipts = Receipt.objects.filter(instance__study=study)
    groups = receipts.values("association_id").annotate(
        number=Count("pk"),
        total_bytes=Sum("size"),
        first_at=Min("received_at"),
        last_at=Max("received_at"),
        **{kind: Count("pk", filter=Q(outcome=kind)) for kind in ReceiptOutcome.values},
    )
    rows = list(groups.order_by("first_at")[:MOST_ROWS])
    associations = Association.objects.in_bulk([row["association_id"] for row in rows])
    for row in rows:
        outcomes = tuple((kind, row[kind]) for kind in ReceiptOutcome.values if row[kind])
        yield Reception(
            association=associations[row["association_id"]],
            objects=row["number"],
            bytes=row["total_bytes"],
            outcomes=outcomes,
            first_at=row["first_at"],
            last_at=row["last_at"],
        )


def _decisions(study: Study, user: User) -> Iterable[Decided]:
    decisions = Decision.objects.filter(study=study).order_by("created_at", "pk")
    for decision in decisions[:MOST_ROWS]:
        explained = explanation(decision, user)
        by_rule = {one.rule: one for one in explained}
        chosen = tuple(
            (name, by_rule[rule])
            for name in decision.destinations
            for rule in decision.rules_to(name)
            if rule in by_rule
        )
        acting = {one.rule for _name, one in chosen}
        refusing = tuple(one for one in explained if one.rule not in acting)
        yield Decided(decision, chosen, refusing)


def explanation(decision: Decision, user: User) -> list[Explained]:
    """Return each rule tried with its sentence; patient data masked where it must be."""
    clear = sees_patients(user)
    return [_explained(Outcome.from_dict(one), clear=clear) for one in decision.explanation]


def _explained(outcome: Outcome, *, clear: bool) -> Explained:
    shown = outcome if clear else replace(outcome, reasons=tuple(map(masked, outcome.reasons)))
    acted = outcome.result == "matched" and not outcome.shadow
    return Explained(outcome.rule, outcome.result, acted, shown.sentence())


def masked(reason: Reason) -> Reason:
    """Return a reason without values that may identify a patient."""
    if reason.field in PLAIN_FIELDS:
        return reason
    return replace(reason, seen=(MASK,) if reason.seen else (), wanted=MASK)


def _assignments(study: Study) -> Iterable[Assignment]:
    rows = Assignment.objects.filter(study=study).select_related("group", "member")
    return rows.order_by("group__name")[:MOST_ROWS]


def _sendings(study: Study, user: User) -> Iterable[Sending]:
    found = Job.objects.filter(study=study).order_by("pk")
    found = found.select_related("destination", "assignment__group")
    jobs = list(found[:MOST_ROWS])
    items = visible_items(user).filter(job__in=jobs)
    states = states_of(jobs, user)
    totals = {
        row["job_id"]: row
        for row in items.values("job_id").annotate(
            number=Count("pk"),
            total_bytes=Sum("size"),
            next_try_at=Min("due_at", filter=Q(state=ItemState.WAITING)),
            finished=Max("finished_at"),
        )
    }
    answers, reasons = _answers(jobs), _reasons(jobs)
    for job in jobs:
        total = totals.get(job.pk)
        if total is None:
            continue
        yield Sending(
            job=job,
            states=states.get(job.pk, ()),
            objects=total["number"],
            bytes=total["total_bytes"],
            answers=tuple(answers.get(job.pk, ())),
            reasons=tuple(reasons.get(job.pk, ())),
            next_try_at=total["next_try_at"],
            finished_at=total["finished"],
        )


def states_of(jobs: Iterable[Job], user: User) -> dict[int, tuple[tuple[str, int], ...]]:
    """Return for each job its items by state, in the order of the states."""
    items = visible_items(user).filter(job__in=[job.pk for job in jobs])
    counted: dict[int, dict[str, int]] = {}
    for row in items.values("job_id", "state").annotate(count=Count("pk")).order_by():
        counted.setdefault(row["job_id"], {})[row["state"]] = row["count"]
    return {
        job: tuple((state, counts[state]) for state in ItemState.values if state in counts)
        for job, counts in counted.items()
    }


def _answers(jobs: Sequence[Job]) -> dict[int, list[Answer]]:
    attempts = Attempt.objects.filter(item__job__in=[job.pk for job in jobs])
    groups = attempts.values("item__job_id", "outcome", "status", "detail").annotate(
        count=Count("pk"), last_at=Max("started_at")
    )
    found: dict[int, list[Answer]] = {}
    for row in groups.order_by("last_at")[: MOST_ROWS * 2]:
        label = Attempt(outcome=row["outcome"]).get_outcome_display()
        answer = Answer(
            row["outcome"], label, row["status"], row["detail"], row["count"], row["last_at"]
        )
        found.setdefault(row["item__job_id"], []).append(answer)
    return found


def _reasons(jobs: Sequence[Job]) -> dict[int, list[str]]:
    waiting = [ItemState.PARKED, ItemState.HELD, ItemState.CANCELLED, ItemState.WAITING]
    rows = Job.objects.filter(pk__in=[job.pk for job in jobs], items__state__in=waiting)
    pairs = rows.exclude(items__reason="").values_list("pk", "items__reason").distinct()
    found: dict[int, list[str]] = {}
    for pk, reason in pairs.order_by("pk", "items__reason")[:MOST_ROWS]:
        if reason:
            found.setdefault(pk, []).append(reason)
    return found


def why_not(study: Study, destination: Destination, user: User) -> WhyNot:
    """Say why a study was, or was not, sent to a destination, from its decisions."""
    naming = set(_rules_naming(destination.name))
    lines: list[Explained] = []
    chosen = Job.objects.filter(study=study, destination=destination).exists()
    passed: dict[str, None] = {}
    for decision in Decision.objects.filter(study=study).order_by("created_at", "pk")[:MOST_ROWS]:
        acted = decision.rules_to(destination.name)
        chosen = chosen or bool(acted)
        wanted = naming.union(acted)
        passed |= dict.fromkeys(decision.passed_over(destination.name))
        lines += [one for one in explanation(decision, user) if one.rule in wanted]
    distinct = tuple(dict.fromkeys(lines))
    verdict = _verdict(study, destination, distinct, chosen=chosen)
    if passed and not chosen:
        verdict = f"Not chosen for {destination.name}. {'. '.join(passed)}."
    return WhyNot(destination.name, chosen, verdict, distinct)


def _rules_naming(name: str) -> list[str]:
    names = {name} | members.groups_with(name)
    rules = Rule.objects.order_by("priority", "name")
    return [rule.name for rule in rules if names & {*rule.send}]


def _verdict(
    study: Study, destination: Destination, lines: Sequence[Explained], *, chosen: bool
) -> str:
    name = destination.name
    if chosen:
        return f"It was chosen for {name}."
    if QuietTimer.objects.filter(study=study, fired_at=None).exists():
        return f"Not yet: a rule waits until the series or study is quiet before {name} may get it."
    if not Decision.objects.filter(study=study).exists():
        return "Nothing is decided yet."
    if not lines:
        return f"No rule that was tried sends to {name}."
    return f"Not chosen for {name}: no rule that sends there took it."
