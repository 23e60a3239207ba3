"""The rows above an instance: studies and series made on first sight, and the counts they carry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from router.dicom.header import Header
from router.models import Series, Study
from router.models.batches import Insert, Row, Update
from router.services.header_text import (
    SERIES_KEYWORDS,
    STUDY_KEYWORDS,
    columns,
    searchable,
    whole_number,
)

_STUDIES = Insert(
    Study,
    "study_instance_uid",
    "patient_name_search",
    "modalities",
    "source",
    "first_received_at",
    "last_received_at",
    *STUDY_KEYWORDS,
)
_SERIES = Insert(Series, "study_id", "series_instance_uid", "series_number", *SERIES_KEYWORDS)
_GROW_SERIES = Update(Series, changes={"instances_count": "instances_count + {1}"})
_GROW_STUDIES = Update(
    Study,
    changes={
        "instances_count": "instances_count + {1}",
        "quarantined_count": "quarantined_count + {2}",
        "bytes": "bytes + {3}",
    },
)
_SEEN = Update(Study, changes={"last_received_at": "{greatest}(last_received_at, {1})"})
_FILLED = Update(Study, changes={"series_count": "{1}", "modalities": "{2}"})


@dataclass(frozen=True, slots=True)
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


@dataclass(slots=True)
class Growth:
    """What a batch adds to one study."""

    current: int = 0
    quarantined: int = 0
    bytes: int = 0
    last: datetime | None = None


def ensure_studies(places: Sequence[Place]) -> dict[str, int]:
    """Return studies' row ids by UID; a missing one is made from the first object seen of it."""
    firsts = {place.study_uid: place for place in reversed(places)}
    found = _studies(firsts)
    missing = [place for uid, place in sorted(firsts.items()) if uid not in found]
    if missing:
        _STUDIES.write_missing([_new_study(place) for place in missing])
        found |= _studies(place.study_uid for place in missing)
    return found


def _studies(uids: Iterable[str]) -> dict[str, int]:
    rows = Study.objects.filter(study_instance_uid__in=list(uids))
    return dict(rows.values_list("study_instance_uid", "pk"))


def _new_study(place: Place) -> Row:
    texts = dict.fromkeys(STUDY_KEYWORDS, "")
    if place.header is not None:
        texts = columns(place.header, STUDY_KEYWORDS, Study)
    return (
        place.study_uid,
        searchable(texts["patient_name"])[:324],
        "",
        place.source,
        place.received_at,
        place.received_at,
        *(texts[name] for name in STUDY_KEYWORDS),
    )


def ensure_series(
    places: Sequence[Place], studies: Mapping[str, int]
) -> dict[tuple[str, str], int]:
    """Return the series' row ids by the UIDs of study and series, made where they are missing."""
    firsts = {place.key: place for place in reversed(places)}
    found = _series(firsts, studies)
    missing = [place for key, place in sorted(firsts.items()) if key not in found]
    if missing:
        _SERIES.write_missing([_new_series(place, studies[place.study_uid]) for place in missing])
        found = _series(firsts, studies)
    return found


def _series(
    keys: Iterable[tuple[str, str]], studies: Mapping[str, int]
) -> dict[tuple[str, str], int]:
    names = {pk: uid for uid, pk in studies.items()}
    uids = {series_uid for _study_uid, series_uid in keys}
    rows = Series.objects.filter(study_id__in=names, series_instance_uid__in=uids)
    found = rows.values_list("study_id", "series_instance_uid", "pk")
    return {(names[study], uid): pk for study, uid, pk in found}


def _new_series(place: Place, study: int) -> Row:
    texts = dict.fromkeys(SERIES_KEYWORDS, "")
    number = None
    if place.header is not None:
        texts = columns(place.header, SERIES_KEYWORDS, Series)
        number = whole_number(place.header, "SeriesNumber")
    return (study, place.series_uid, number, *(texts[name] for name in SERIES_KEYWORDS))


def grow(studies: Mapping[int, Growth], series: Mapping[int, int]) -> None:
    """Add to the counts of studies and of their series; call inside a transaction.

    Args:
        studies: what is added, by the row ids of the studies.
        series: current instances that are added, by the row ids of series of these studies.

    Who adds to a study holds its row until the transaction ends, and takes the rows in one order:
    none waits for another for ever, and the last one sees every series.
    """
    _hold(studies)
    new = _empty_ones(series)
    _GROW_SERIES.write([(pk, number) for pk, number in sorted(series.items()) if number])
    grown = sorted(studies.items())
    _GROW_STUDIES.write([(pk, one.current, one.quarantined, one.bytes) for pk, one in grown])
    _SEEN.write([(pk, one.last) for pk, one in grown if one.last is not None])
    if new:
        _describe(sorted(new))


def _hold(studies: Iterable[int]) -> None:
    """Take the rows of studies in one order; SQLite has one writer anyway."""
    if connection.vendor == "postgresql":
        rows = Study.objects.filter(pk__in=list(studies)).order_by("pk")
        list(rows.select_for_update(no_key=True).values_list("pk", flat=True))


def _empty_ones(series: Mapping[int, int]) -> set[int]:
    """Return the studies of those series that get their first current instance now."""
    filled = [pk for pk, number in series.items() if number]
    rows = Series.objects.filter(pk__in=filled, instances_count=0)
    return set(rows.values_list("study_id", flat=True))


def _describe(studies: Sequence[int]) -> None:
    """Write how many series with current instances studies have, and of which modalities."""
    counts = dict.fromkeys(studies, 0)
    modalities: dict[int, set[str]] = {pk: set() for pk in studies}
    rows = Series.objects.filter(study_id__in=studies, instances_count__gt=0)
    for study, modality in rows.values_list("study_id", "modality"):
        counts[study] += 1
        modalities[study].add(modality)
    _FILLED.write([(pk, counts[pk], _joined(modalities[pk])) for pk in studies])


def _joined(modalities: set[str]) -> str:
    return "\\".join(sorted(modalities - {""}))[:128]
