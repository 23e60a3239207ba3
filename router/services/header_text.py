"""Text of a header as the index holds it: decoded, cut to the column, without NULs."""

import unicodedata
from collections.abc import Mapping
from typing import cast

from django.db.models import CharField, Model

from router.dicom.header import Header

STUDY_KEYWORDS: Mapping[str, str] = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_id": "StudyID",
    "accession_number": "AccessionNumber",
    "study_description": "StudyDescription",
    "referring_physician_name": "ReferringPhysicianName",
    "institution_name": "InstitutionName",
}
SERIES_KEYWORDS: Mapping[str, str] = {
    "modality": "Modality",
    "series_description": "SeriesDescription",
    "body_part_examined": "BodyPartExamined",
    "series_date": "SeriesDate",
}
INTEGER_LIMIT = 1 << 62


def columns(header: Header, keywords: Mapping[str, str], model: type[Model]) -> dict[str, str]:
    """Return ``{column: text}`` for the keywords, each cut to its column's length."""
    texts = {}
    for column, keyword in keywords.items():
        limit = cast("CharField[str, str]", model._meta.get_field(column)).max_length
        texts[column] = header.text(keyword).replace("\x00", "")[:limit]
    return texts


def whole_number(header: Header, keyword: str) -> int | None:
    """Return an integer string as a number the database can hold, else None."""
    value = header.integer(keyword)
    return value if value is not None and abs(value) < INTEGER_LIMIT else None


def searchable(name: str) -> str:
    """Return a person's name in the form names are searched in: no accents, lower case, spaces."""
    decomposed = unicodedata.normalize("NFKD", name)
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    return " ".join(bare.casefold().replace("^", " ").replace("=", " ").split())
