"""Finding studies by how a column begins, alike on both databases."""

import pytest

from router.models import Study
from router.models.studies import begins
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("muller", {"muller anna", "muller", "muller-lang"}),
        ("muller ", {"muller anna"}),
        ("mul%", set()),
        ("mulle_", set()),
        ("MULLER", set()),
        ("山田", {"山田 太郎"}),
        ("", {"muller anna", "muller", "muller-lang", "mullen", "山田 太郎"}),
    ],
)
def test_begins_means_these_very_characters(text: str, found: set[str]) -> None:
    for name in ("muller anna", "muller", "muller-lang", "mullen", "山田 太郎"):
        factories.study(patient_name_search=name)

    rows = Study.objects.filter(begins("patient_name_search", text))

    assert set(rows.values_list("patient_name_search", flat=True)) == found
