"""Say why a study went where it went, and why not elsewhere: received, decided, sent, proven."""

from dataclasses import asdict, dataclass, replace
from datetime import datetime

from django.db.models import Count, Max, Q

from router.dicom.rules import Outcome
from router.models import (
    Assignment,
    Decision,
    DecisionPhase,
    Destination,
    Instance,
    InstanceState,
    ItemState,
    Job,
    JobItem,
    QuietTimer,
    Receipt,
    ReceiptOutcome,
    Study,
)
from router.models.jobs import JobItemQuerySet
from router.services.timeline import masked


@dataclass(frozen=True)
class Received:
    """One association's part of a study."""

    association: str
    origin: str
    calling_ae: str
    called_ae: str
    remote_host: str
    source: str
    objects: int
    duplicates: int
    quarantined: int
    last_at: datetime


@dataclass(frozen=True)
class RuleLine:
    """One rule's outcome, as a sentence."""

    rule: str
    result: str
    sentence: str


@dataclass(frozen=True)
class Decided:
    """One decision: what became of a group of instances, and why."""

    id: int
    at: datetime
    revision: int | None
    phase: str
    outcome: str
    outcome_label: str
    instances: int
    destinations: dict[str, str]
    groups: dict[str, dict[str, str]]
    rules: tuple[RuleLine, ...]
    problem: str


@dataclass(frozen=True)
class Given:
    """Which member of a group has the study, why, and which had it before."""

    group: str
    member: str
    reason: str
    since: datetime
    before: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Sent:
    """What became of the items for one destination."""

    destination: str
    states: dict[str, int]
    proof: dict[str, int]
    reasons: tuple[str, ...]
    attempts: int
    last_at: datetime | None


@dataclass(frozen=True)
class NotSent:
    """A destination that no decision chose, and what each rule that sends there said."""

    destination: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class StudyReport:
    """The whole way of one study."""

    study_instance_uid: str
    accession_number: str
    instances: int
    series: int
    quarantined: int
    versions: int
    received: tuple[Received, ...]
    decided: tuple[Decided, ...]
    waiting: tuple[str, ...]
    groups: tuple[Given, ...]
    sent: tuple[Sent, ...]
    not_sent: tuple[NotSent, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON-safe values (times as ISO 8601 by the encoder)."""
        return asdict(self)


def find(uid_or_accession: str) -> list[Study]:
    """Return the studies with this Study Instance UID, SOP Instance UID or accession number."""
    exact = Study.objects.filter(
        Q(study_instance_uid=uid_or_accession) | Q(accession_number=uid_or_accession)
    ).newest_first()
    if found := list(exact[:50]):
        return found
    by_object = Study.objects.filter(instances__sop_instance_uid=uid_or_accession)
    return list(by_object.distinct()[:50])


def of_study(study: Study, *, clear: bool = True) -> StudyReport:
    """Gather the way of one study; values that may identify a patient masked unless `clear`."""
    made = Decision.objects.filter(study=study).select_related("revision")
    decisions = list(made.order_by("pk"))
    states = dict(
        Instance.objects.filter(study=study).values_list("state").annotate(number=Count("pk"))
    )
    return StudyReport(
        study_instance_uid=study.study_instance_uid,
        accession_number=study.accession_number,
        instances=states.get(InstanceState.CURRENT, 0),
        series=study.series_count,
        quarantined=states.get(InstanceState.QUARANTINED, 0),
        versions=states.get(InstanceState.VERSION, 0),
        received=tuple(_received(study)),
        decided=tuple(_decided(row, clear=clear) for row in decisions),
        waiting=tuple(_waiting(study)),
        groups=tuple(_groups(study)),
        sent=tuple(_sent(study)),
        not_sent=tuple(_not_sent(study, decisions, clear=clear)),
    )


def _received(study: Study) -> list[Received]:
    fields = ("uid", "origin", "calling_ae", "called_ae", "remote_host", "source")
    rows = (
        Receipt.objects.filter(instance__study=study)
        .values(*(f"association__{name}" for name in fields))
        .annotate(
            objects=Count("pk"),
            duplicates=Count("pk", filter=Q(outcome=ReceiptOutcome.DUPLICATE)),
            quarantined=Count("pk", filter=Q(outcome=ReceiptOutcome.QUARANTINED)),
            last_at=Max("received_at"),
        )
        .order_by("last_at")
    )
    return [
        Received(
            association=row["association__uid"],
            **{name: row[f"association__{name}"] for name in fields[1:]},
            **{name: row[name] for name in ("objects", "duplicates", "quarantined", "last_at")},
        )
        for row in rows
    ]


def rule_lines(decision: Decision, *, clear: bool = True) -> tuple[RuleLine, ...]:
    """Return a decision's rules in the order tried, each with its sentence."""
    outcomes = [Outcome.from_dict(item) for item in decision.explanation]
    if not clear:
        outcomes = [replace(o, reasons=tuple(map(masked, o.reasons))) for o in outcomes]
    return tuple(RuleLine(o.rule, str(o.result), o.sentence()) for o in outcomes)


def _decided(decision: Decision, *, clear: bool) -> Decided:
    return Decided(
        id=decision.pk,
        at=decision.created_at,
        revision=decision.revision_id,
        phase=DecisionPhase(decision.phase).label,
        outcome=decision.outcome,
        outcome_label=str(decision.get_outcome_display()),
        instances=decision.instances_count,
        destinations=decision.destinations,
        groups=decision.groups,
        rules=rule_lines(decision, clear=clear),
        problem=decision.problem,
    )


def _waiting(study: Study) -> list[str]:
    timers = QuietTimer.objects.filter(study=study, fired_at=None).annotate(number=Count("items"))
    return [
        f"{timer.number} instances wait for rule {timer.rule} until the {timer.trigger} is quiet, "
        f"at {timer.due_at:%Y-%m-%d %H:%M:%S} UTC at the earliest"
        for timer in timers
    ]


def _groups(study: Study) -> list[Given]:
    rows = Assignment.objects.filter(study=study).select_related("group", "member")
    return [
        Given(row.group.name, row.member.name, row.reason, row.since, tuple(row.history))
        for row in rows.order_by("group__name")
    ]


def _sent(study: Study) -> list[Sent]:
    items = JobItem.objects.filter(job__study=study)
    return [
        _sent_to(name, items.filter(destination__name=name))
        for name in items.order_by().values_list("destination__name", flat=True).distinct()
    ]


def _sent_to(name: str, items: JobItemQuerySet) -> Sent:
    states = items.order_by().values_list("state").annotate(number=Count("pk"))
    proofs = items.exclude(proof="").order_by().values_list("proof").annotate(number=Count("pk"))
    reasons = items.exclude(reason="").order_by().values_list("reason", flat=True).distinct()
    return Sent(
        destination=name,
        states={str(ItemState(state).label): number for state, number in states},
        proof=dict(proofs),
        reasons=tuple(reasons[:10]),
        attempts=items.aggregate(number=Count("attempts"))["number"],
        last_at=items.aggregate(last=Max("finished_at"))["last"],
    )


def _not_sent(study: Study, decisions: list[Decision], *, clear: bool) -> list[NotSent]:
    chosen = {name for decision in decisions for name in decision.destinations}
    jobs = Job.objects.filter(study=study).order_by()
    chosen |= set(jobs.values_list("destination__name", flat=True))
    rest = Destination.objects.present().exclude(name__in=chosen)
    return [NotSent(row.name, why_not(decisions, row.name, clear=clear)) for row in rest]


def why_not(decisions: list[Decision], destination: str, *, clear: bool = True) -> tuple[str, ...]:
    """Return, for a destination not chosen, what each rule said that sends there.

    The rules are those of the revision the decision was made under.
    """
    sentences: dict[str, None] = {}
    for decision in decisions:
        senders = _senders(decision, destination)
        if not senders:
            sentences[f"No rule of revision {decision.revision_id} sends to {destination}."] = None
        for line in rule_lines(decision, clear=clear):
            if line.rule in senders:
                sentences[line.sentence] = None
        sentences |= dict.fromkeys(decision.passed_over(destination))
    return tuple(sentences) or ("Nothing has been decided yet.",)


def _senders(decision: Decision, destination: str) -> set[str]:
    if decision.revision is None:
        return set()
    document = decision.revision.document
    groups = document.get("groups", [])
    names = {destination, *(one["name"] for one in groups if destination in one["members"])}
    rules = document.get("rules", [])
    return {rule["name"] for rule in rules if names & {*rule.get("send", [])}}
