"""What a replay is about: studies, and of their objects the pairs that a job once had.

A selection is data that a row can hold. It says which studies, which of their objects, and which of
the destinations; it refuses to say what is to be done with them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime

from django.db.models import Q

from router.models import (
    Cause,
    Instance,
    InstanceState,
    Job,
    JobItem,
    Study,
    User,
)
from router.models.jobs import JobItemQuerySet
from router.models.studies import InstanceQuerySet, StudyQuerySet
from router.services.visibility import visible_instances, visible_studies

CAUSES = (Cause.RULE, Cause.REPLAY, Cause.MANUAL, Cause.FAILOVER)
"""Who chose destinations "then"; what somebody fetched by C-MOVE went where that one is."""
SENDABLE = (InstanceState.CURRENT, InstanceState.VERSION)
MOST_JOBS = 1000

_LABELS = {
    "patient_id": "patient ID",
    "accession_number": "accession number",
    "study_instance_uid": "Study Instance UID",
    "study_date_from": "study date from",
    "study_date_to": "study date to",
    "received_from": "received from",
    "received_to": "received before",
    "source": "source",
    "rule": "rule",
    "destination": "destination",
    "state": "state",
    "jobs": "jobs",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What is meant; an empty value does not narrow.

    ``received_from`` is included and ``received_to`` is not; study dates are both included.
    ``rule``, ``destination``, ``state`` and ``jobs`` are of the pairs; ``state`` is that of the
    newest item of a pair.
    """

    patient_id: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""
    study_date_from: date | None = None
    study_date_to: date | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None
    source: str = ""
    rule: str = ""
    destination: str = ""
    state: str = ""
    jobs: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it means everything there is."""
        return self == Selection()

    def named(self) -> dict[str, object]:
        """Return what narrows, by field."""
        return {name: value for name, value in asdict(self).items() if value}

    def as_dict(self) -> dict[str, object]:
        """Return what narrows as JSON-safe values."""
        return {name: _plain(value) for name, value in self.named().items()}

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> "Selection":
        """Return the selection that `as_dict` gave."""
        known = {field.name for field in fields(cls)}
        values = {name: _read(name, value) for name, value in given.items() if name in known}
        return replace(cls(), **values)  # type: ignore[arg-type] # as_dict has made them

    def words(self, *, clear: bool) -> list[tuple[str, str]]:
        """Return what narrows as label and text; the patient id masked unless `clear`."""
        return [
            (_LABELS[name], _worded(name, value, clear=clear))
            for name, value in self.named().items()
        ]

    # --- as querysets -----------------------------------------------------------------------------
    def studies(self, user: User | None, *, as_chosen: bool) -> StudyQuerySet:
        """Return the studies that may hold something of it.

        Args:
            user: whose limit holds; None for the command line.
            as_chosen: whether the pairs are those of jobs there are; then studies without any that
                match are left out.
        """
        studies = visible_studies(user) if user else Study.objects.visible()
        studies = studies.filter(self._of_studies())
        if self.jobs:
            studies = studies.filter(pk__in=Job.objects.filter(pk__in=self.jobs).values("study"))
        if as_chosen and (self.rule or self.destination or self.state):
            studies = studies.filter(pk__in=self._items().order_by().values("job__study"))
        return studies

    def instances(self, user: User | None) -> InstanceQuerySet:
        """Return the objects that may be sent and were received when wanted, of any study."""
        instances = visible_instances(user) if user else Instance.objects.all()
        instances = instances.filter(state__in=SENDABLE)
        if self.received_from:
            instances = instances.filter(received_at__gte=self.received_from)
        if self.received_to:
            instances = instances.filter(received_at__lt=self.received_to)
        return instances

    def _of_studies(self) -> Q:
        found = Q()
        for name in ("patient_id", "accession_number", "study_instance_uid", "source"):
            if getattr(self, name):
                found &= Q((name, getattr(self, name)))
        if self.study_date_from:
            found &= Q(study_date__gte=f"{self.study_date_from:%Y%m%d}")
        if self.study_date_to:
            found &= Q(study_date__lte=f"{self.study_date_to:%Y%m%d}") & ~Q(study_date="")
        if self.received_from:
            found &= Q(last_received_at__gte=self.received_from)
        if self.received_to:
            found &= Q(first_received_at__lt=self.received_to)
        return found

    def _items(self) -> JobItemQuerySet:
        items = JobItem.objects.filter(cause__in=CAUSES)
        if self.destination:
            items = items.filter(destination__name=self.destination)
        if self.rule:
            items = items.filter(job__rule=self.rule)
        if self.state:
            items = items.filter(state=self.state)
        return items


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def _read(name: str, value: object) -> object:
    if name in {"study_date_from", "study_date_to"}:
        return date.fromisoformat(str(value))
    if name in {"received_from", "received_to"}:
        return datetime.fromisoformat(str(value))
    return tuple(value) if isinstance(value, list) else value


def _worded(name: str, value: object, *, clear: bool) -> str:
    if name == "patient_id" and not clear:
        return "•••••"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, tuple):
        return f"{len(value):,} chosen"
    return str(value)
