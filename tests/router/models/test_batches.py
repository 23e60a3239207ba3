"""Many rows in one statement: the columns follow the models, and nothing is lost on the way."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, models, transaction

from router.models import Association, CounterKind, HourCount, Job, RoutingMark
from router.models.batches import PARAMETERS, Insert, Update, reserve
from tests import factories

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 20, 12, 0, 0, 250, tzinfo=UTC)
HOURS = Insert(HourCount, "hour", "kind", "modality")


def _row(modality: str, at: datetime = NOON) -> tuple[datetime, str, str]:
    return at, CounterKind.RECEIVED.value, modality


def test_rows_are_as_django_writes_them() -> None:
    HOURS.write([_row("CT"), _row("MR", NOON.astimezone(timezone(timedelta(hours=5))))])
    HourCount.objects.create(hour=NOON, kind=CounterKind.RECEIVED, modality="US")

    assert HourCount.objects.filter(hour=NOON).count() == 3
    written = HourCount.objects.get(modality="MR")
    assert (written.hour, written.source, written.objects_count) == (NOON, "", 0)


def test_bytes_and_ids_are_kept() -> None:
    stored, association = factories.instance(), factories.association()
    (pk,) = reserve(RoutingMark, 1)
    marks = Insert(RoutingMark, "id", "instance_id", "association_id", "created_at", "header")
    marks.write([(pk, stored.pk, association.pk, NOON, b"\x00\xff\\")])

    mark = RoutingMark.objects.get(pk=pk)
    assert (bytes(mark.header or b""), mark.decision, mark.tries) == (b"\x00\xff\\", None, 0)


def test_reserved_ids_are_never_given_twice() -> None:
    first = list(reserve(HourCount, 3))
    assert len(set(first)) == 3
    HourCount.objects.create(hour=NOON, kind=CounterKind.RECEIVED)
    later = [*reserve(HourCount, 2), HourCount.objects.get().pk]
    assert len({*first, *later}) == 6
    assert list(reserve(HourCount, 0)) == []


def test_a_row_that_breaks_a_constraint_writes_nothing() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        HOURS.write([_row("CT"), _row("MR"), _row("CT")])
    assert not HourCount.objects.exists()


def test_missing_rows_are_added_beside_those_that_are_there() -> None:
    HOURS.write([_row("CT")])
    HOURS.write_missing([_row("CT"), _row("MR"), _row("MR")])
    HOURS.write_missing([])

    assert set(HourCount.objects.values_list("modality", flat=True)) == {"CT", "MR"}
    assert HourCount.objects.count() == 2


@pytest.mark.parametrize(
    ("model", "names", "wrong"),
    [
        (HourCount, ("hour", "kind", "colour"), "colour"),
        (HourCount, ("kind",), "hour"),
        (Job, ("study_id", "destination_id", "cause", "created_at"), "key"),
    ],
    ids=["a field that is not there", "a field left out", "a text left out"],
)
def test_a_statement_that_does_not_fit_its_model_cannot_be_made(
    model: type[models.Model], names: tuple[str, ...], wrong: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=wrong):
        Insert(model, *names)
    with pytest.raises(ImproperlyConfigured, match="colour"):
        Update(model, changes={"colour": "{1}"})


def test_each_row_is_changed_by_its_own_values() -> None:
    HOURS.write([_row("CT"), _row("MR"), _row("US")])
    ids = dict(HourCount.objects.values_list("modality", "pk"))
    grow = Update(
        HourCount,
        changes={"objects_count": "objects_count + {1}", "hour": "{greatest}(hour, {2})"},
        only="modality <> 'US'",
    )
    later = NOON + timedelta(seconds=1)
    earlier = NOON - timedelta(days=1)

    assert grow.write([(ids["CT"], 2, later), (ids["MR"], 3, earlier), (ids["US"], 4, later)]) == 2
    assert grow.write([]) == 0
    rows = HourCount.objects.values_list("modality", "objects_count", "hour")
    assert set(rows) == {("CT", 2, later), ("MR", 3, NOON), ("US", 0, NOON)}


def test_more_rows_than_a_statement_takes_are_written_all() -> None:
    number = PARAMETERS // 3 + 10
    rows = [_row("CT", NOON + timedelta(hours=n)) for n in range(number)]
    HOURS.write_missing(rows)
    ids = list(HourCount.objects.values_list("pk", flat=True))
    changed = Update(HourCount, changes={"objects_count": "{1}", "bytes": "{2}"})

    assert changed.write([(pk, 7, 8) for pk in ids]) == number
    assert HourCount.objects.filter(objects_count=7, bytes=8).count() == number


def test_moments_of_other_zones_are_compared_as_moments() -> None:
    row = factories.association(seen_at=NOON)
    seen = Update(Association, changes={"seen_at": "{greatest}(seen_at, {1})"})
    east = timezone(timedelta(hours=9))
    seen.write([(row.pk, (NOON - timedelta(hours=1)).astimezone(east))])
    row.refresh_from_db()
    assert row.seen_at == NOON
