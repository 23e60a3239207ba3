"""The report: figures that add up, reasons, CSV that no spreadsheet runs, JSON that is exact."""

import csv
import json
from io import StringIO

import pytest

from router.models import Destination, ItemState, JobItem, PairState, Replay, ReplayPair
from router.services import clock, replay_report
from tests import factories
from tests.replaying import advance, confirmed, planned

S, P = ItemState, PairState

pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> Destination:
    return factories.destination("pacs")


@pytest.fixture
def replay(pacs: Destination) -> Replay:
    """Ten pairs: six released with different ends, one to be released, three left out."""
    study = factories.study(patient_id="P4711", accession_number="=1+1")
    job = factories.job(study, destination=pacs, rule="to-pacs")
    series = factories.series(study)
    for _ in range(10):
        factories.item(job, instance=factories.instance(series, size=10), state=S.DELIVERED)
    found = advance(confirmed(planned(destination="pacs")))
    rows = list(ReplayPair.objects.in_order())
    ends = (S.DELIVERED, S.DELIVERED, S.DELIVERED_WITH_WARNING, S.PARKED, S.CANCELLED, S.LEASED)
    for row, state in zip(rows, ends, strict=False):
        reason = "@SUM(A1): refused." if state == S.PARKED else ""
        status = 0xA900 if state == S.PARKED else 0 if state == S.DELIVERED else None
        JobItem.objects.filter(replay_pair=row).update(
            state=state, reason=reason, status=status, finished_at=clock.now()
        )
    for row, left_out in zip(rows[6:], (P.PLANNED, P.THERE, P.UNKNOWN, P.UNKNOWN), strict=True):
        detail = "pacs finds it (C-FIND)." if left_out == P.THERE else "Connection refused."
        ReplayPair.objects.filter(pk=row.pk).update(
            state=left_out, item=None, detail="" if left_out == P.PLANNED else detail
        )
    return found


def test_figures_add_up(replay: Replay) -> None:
    whole, places = replay_report.figures(replay)
    assert whole.parts == [
        ("unreleased", 1), ("leased", 1), ("delivered", 2), ("warning", 1), ("parked", 1),
        ("cancelled", 1), ("there", 1), ("unknown", 2),
    ]  # fmt: skip
    assert (whole.meant, whole.meant_bytes, whole.sent, whole.left) == (7, 70, 3, 2)
    assert (whole.failed, whole.unasked, whole.percent) == (1, 2, 71)
    assert [(place.name, place.parts) for place in places] == [("pacs", whole.parts)]


def test_it_is_at_a_hundred_only_when_nothing_is_left() -> None:
    figures = replay_report.Figures("all")
    assert figures.percent == 100
    figures.objects.update({"delivered": 999, "unreleased": 1})
    assert figures.percent == 99
    figures.objects["unreleased"] = 0
    assert figures.percent == 100


def test_says_why_by_frequency(replay: Replay) -> None:
    found = [(one.outcome, one.reason, one.count) for one in replay_report.reasons(replay)]
    assert found == [("unknown", "Connection refused.", 2), ("parked", "@SUM(A1): refused.", 1)]


def test_csv_has_every_pair_and_no_formula(replay: Replay) -> None:
    text = "".join(replay_report.as_csv(replay, clear=True))
    rows = list(csv.DictReader(StringIO(text)))
    assert len(rows) == 10
    assert {row["Accession number"] for row in rows} == {"'=1+1"}
    assert {row["Patient ID"] for row in rows} == {"P4711"}
    (parked,) = [row for row in rows if row["Outcome"] == "Failed"]
    assert (parked["Reason"], parked["Status"]) == ("'@SUM(A1): refused.", "A900")
    (there,) = [row for row in rows if row["Outcome"] == "There already"]
    assert (there["Reason"], there["Finished"]) == ("pacs finds it (C-FIND).", "")


def test_json_is_exact(replay: Replay) -> None:
    found = json.loads("".join(replay_report.as_json(replay, clear=True)))
    assert (found["replay"], found["objects"], len(found["pairs"])) == (replay.pk, 10, 10)
    assert found["outcomes"]["Delivered"] == 2
    assert {one["accession_number"] for one in found["pairs"]} == {"=1+1"}
    assert [one["status"] for one in found["pairs"] if one["outcome"] == "Failed"] == [0xA900]


@pytest.mark.parametrize("form", [replay_report.as_csv, replay_report.as_json])
def test_patients_are_hidden_from_those_who_may_not_see_them(replay: Replay, form: object) -> None:
    assert "P4711" not in "".join(form(replay, clear=False))  # type: ignore[operator]


def test_a_report_of_nothing_is_whole(pacs: Destination) -> None:
    empty = planned(destination="pacs")
    assert json.loads("".join(replay_report.as_json(empty, clear=True)))["pairs"] == []
