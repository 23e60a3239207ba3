"""Studies: list and search them, and say why one went where it went.

What names a patient is asked for in a body, and is null for those who may not see it.
"""

import re
from datetime import date, datetime

from django.db.models import Exists, OuterRef
from django.http import Http404, HttpRequest
from ninja import Field, Query, Schema

from router.api.endpoints import Endpoints, Moment, Page, PageQuery, Text, cut, user_of
from router.models import Permission, Series, Study
from router.models.studies import StudyQuerySet
from router.services import access, audit, report
from router.services.visibility import sees_patients, visible_studies

endpoints = Endpoints("Studies")
MAY = Permission.SEE_STUDIES_MASKED
UID = re.compile(r"[0-9.]{1,64}\Z")
PATIENT = ("patient_name", "patient_id", "patient_birth_date", "patient_sex")


class StudyFilter(PageQuery, extra="forbid"):
    """Which studies; nothing here names a patient."""

    study_instance_uid: Text = Field("", max_length=64)
    source: Text = Field("", max_length=64)
    modality: Text = Field("", max_length=16)
    study_date_from: date | None = None
    study_date_to: date | None = None
    received_from: Moment | None = None
    received_to: Moment | None = Field(None, description="Not included.")

    def studies(self, found: StudyQuerySet) -> StudyQuerySet:
        """Return those of `found` that are meant."""
        columns = {
            "study_instance_uid": self.study_instance_uid,
            "source": self.source,
            "study_date__gte": f"{self.study_date_from:%Y%m%d}" if self.study_date_from else "",
            "study_date__lte": f"{self.study_date_to:%Y%m%d}" if self.study_date_to else "",
            "last_received_at__gte": self.received_from,
            "first_received_at__lt": self.received_to,
        }
        found = found.filter(**{column: value for column, value in columns.items() if value})
        if self.modality:
            inside = Series.objects.filter(study=OuterRef("pk"), modality=self.modality)
            found = found.filter(Exists(inside))
        return found


class StudySearch(StudyFilter, extra="forbid"):
    """Which studies, by what names a patient as well."""

    patient_id: Text = Field("", max_length=64)
    accession_number: Text = Field("", max_length=16)


class StudyOut(Schema):
    """A study as first received; what names the patient is null where it may not be seen."""

    study_instance_uid: str
    accession_number: str
    patient_name: str | None
    patient_id: str | None
    patient_birth_date: str | None
    patient_sex: str | None
    study_date: str
    study_description: str
    modalities: list[str]
    source: str
    institution_name: str
    series: int
    objects: int
    bytes: int
    quarantined: int
    first_received_at: datetime
    last_received_at: datetime


@endpoints.reads("/studies", MAY, response=Page[StudyOut])
def list_studies(request: HttpRequest, query: Query[StudyFilter]) -> dict[str, object]:
    """List the studies that match, the newest first."""
    return _page(request, query, query.studies(visible_studies(user_of(request))))


@endpoints.asks("/studies/search", MAY, response=Page[StudyOut])
def search_studies(request: HttpRequest, query: StudySearch) -> dict[str, object]:
    """List the studies that match, also by patient ID and accession number."""
    user = user_of(request)
    found = query.studies(visible_studies(user))
    if query.patient_id:
        found = found.filter(patient_id=query.patient_id) if sees_patients(user) else found.none()
    if query.accession_number:
        found = found.filter(accession_number=query.accession_number)
    return _page(request, query, found)


@endpoints.reads("/studies/{uid}", MAY, response=StudyOut)
def get_study(request: HttpRequest, uid: str) -> dict[str, object]:
    """Show one study."""
    row = _found(request, uid)
    _viewed(request, row)
    return _study(row, clear=sees_patients(user_of(request)))


@endpoints.reads("/studies/{uid}/routing", MAY, response=dict[str, object])
def get_routing(request: HttpRequest, uid: str) -> dict[str, object]:
    """Say why a study went where it went and not elsewhere: received, decided, sent, proven."""
    row = _found(request, uid)
    _viewed(request, row)
    return report.of_study(row, clear=sees_patients(user_of(request))).as_dict()


def _found(request: HttpRequest, uid: str) -> Study:
    row = None
    if UID.match(uid):
        row = visible_studies(user_of(request)).filter(study_instance_uid=uid).first()
    if row is None:
        raise Http404
    return row


def _page(request: HttpRequest, query: StudyFilter, found: StudyQuerySet) -> dict[str, object]:
    rows, following = cut(found, query)
    asked = query.dict(exclude={"after", "limit"}, exclude_defaults=True)
    audit.record(
        "studies.listed",
        actor=access.actor(request),
        code="query",
        details={"criteria": sorted(asked), "count": len(rows)},
    )
    clear = sees_patients(user_of(request))
    return {"items": [_study(one, clear=clear) for one in rows], "next": following}


def _viewed(request: HttpRequest, row: Study) -> None:
    audit.record(
        "study.viewed",
        actor=access.actor(request),
        code="instances.accessed",
        study_instance_uid=row.study_instance_uid,
    )


def _study(row: Study, *, clear: bool) -> dict[str, object]:
    names = (
        *("study_instance_uid", "accession_number", "study_date", "study_description", "source"),
        *("institution_name", "bytes", "first_received_at", "last_received_at"),
    )
    return {
        **{name: getattr(row, name) for name in names},
        **{name: getattr(row, name) if clear else None for name in PATIENT},
        "modalities": row.modalities.split("\\") if row.modalities else [],
        "series": row.series_count,
        "objects": row.instances_count,
        "quarantined": row.quarantined_count,
    }
