"""The rows above an instance: studies and series made on first sight, and the counts they carry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F
from django.db.models.functions import Greatest

from router.dicom.header import Header
from router.models import Series, Study
from router.services.header_text import (
    SERIES_KEYWORDS,
    STUDY_KEYWORDS,
    columns,
    searchable,
    whole_number,
)


@dataclass(frozen=True)
class Place:
    """Where an object belongs, and what its header says of study and series."""

    study_uid: str
    series_uid: str
    header: Header | None
    source: str
    received_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        """The UIDs of study and series."""
        return self.study_uid, self.series_uid


@dataclass
class Growth:
    """What a batch adds to one study."""

    current: int = 0
    quarantined: int = 0
    bytes: int = 0
    last: datetime | None = None


def ensure_studies(places: Sequence[Place]) -> dict[str, Study]:
    """Return the studies by UID; a missing one is made from the first object seen of it."""
    firsts = {place.study_uid: place for place in reversed(places)}
    found = _studies(firsts)
    missing = [place for uid, place in sorted(firsts.items()) if uid not in found]
    if missing:
        Study.objects.bulk_create([_new_study(place) for place in missing], ignore_conflicts=True)
        found |= _studies(place.study_uid for place in missing)
    return found


def _studies(uids: Iterable[str]) -> dict[str, Study]:
    rows = Study.objects.filter(study_instance_uid__in=list(uids))
    return {row.study_instance_uid: row for row in rows}


def _new_study(place: Place) -> Study:
    texts = dict.fromkeys(STUDY_KEYWORDS, "")
    if place.header is not None:
        texts = columns(place.header, STUDY_KEYWORDS, Study)
    return Study(
        study_instance_uid=place.study_uid,
        patient_name_search=searchable(texts["patient_name"])[:324],
        modalities="",
        source=place.source,
        first_received_at=place.received_at,
        last_received_at=place.received_at,
        **texts,
    )


def ensure_series(
    places: Sequence[Place], studies: Mapping[str, Study]
) -> dict[tuple[str, str], Series]:
    """Return the series by the UIDs of study and series, made where they are missing."""
    firsts = {place.key: place for place in reversed(places)}
    found = _series(firsts, studies)
    missing = [place for key, place in sorted(firsts.items()) if key not in found]
    if missing:
        rows = [_new_series(place, studies[place.study_uid]) for place in missing]
        Series.objects.bulk_create(rows, ignore_conflicts=True)
        found = _series(firsts, studies)
    return found


def _series(
    keys: Iterable[tuple[str, str]], studies: Mapping[str, Study]
) -> dict[tuple[str, str], Series]:
    names = {study.pk: uid for uid, study in studies.items()}
    uids = {series_uid for _study_uid, series_uid in keys}
    rows = Series.objects.filter(study_id__in=names, series_instance_uid__in=uids)
    return {(names[row.study_id], row.series_instance_uid): row for row in rows}


def _new_series(place: Place, study: Study) -> Series:
    texts = dict.fromkeys(SERIES_KEYWORDS, "")
    number = None
    if place.header is not None:
        texts = columns(place.header, SERIES_KEYWORDS, Series)
        number = whole_number(place.header, "SeriesNumber")
    return Series(study=study, series_instance_uid=place.series_uid, series_number=number, **texts)


def grow_series(pk: int, number: int) -> None:
    """Add current instances to a series."""
    Series.objects.filter(pk=pk).update(instances_count=F("instances_count") + number)


def grow_study(pk: int, growth: Growth) -> None:
    """Add to a study's counts; its modalities and series are those with current instances."""
    filled = Series.objects.filter(study_id=pk, instances_count__gt=0)
    modalities = sorted(set(filled.values_list("modality", flat=True)) - {""})
    changes = {
        "instances_count": F("instances_count") + growth.current,
        "quarantined_count": F("quarantined_count") + growth.quarantined,
        "bytes": F("bytes") + growth.bytes,
        "series_count": filled.count(),
        "modalities": "\\".join(modalities)[:128],
    }
    if growth.last is not None:
        changes["last_received_at"] = Greatest(F("last_received_at"), growth.last)
    Study.objects.filter(pk=pk).update(**changes)
