"""Indexing: rows and files of a batch, duplicates, conflicts, crashes, and odd headers."""

import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any  # values by keyword, and Django's own

import pytest
from django.db import DataError, connection
from django_q.models import OrmQ

from router import storage
from router.dicom.uids import valid_uid
from router.models import (
    Association,
    AuditEvent,
    CounterKind,
    HourCount,
    Instance,
    InstanceState,
    Receipt,
    RoutingMark,
    Series,
    Study,
)
from router.services import archive, associations, indexer, indexing, reckoning
from router.spool import Spooled
from tests import corpus, senders
from tests.intake import ROOT, Site, image

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)

HOUR = datetime(2026, 3, 1, 14, tzinfo=UTC)


def _outcomes() -> Counter[str]:
    return Counter(Receipt.objects.values_list("outcome", flat=True))


def _states() -> Counter[str]:
    return Counter(Instance.objects.values_list("state", flat=True))


def _no_gaps() -> None:
    assert reckoning.reckon(deep=True).gaps == []


def _queued() -> list[str]:
    return [row.task["func"] for row in OrmQ.objects.all()]


# --- a batch --------------------------------------------------------------------------------------
@committing
def test_a_batch_becomes_rows_and_files(site: Site) -> None:
    objects = [image(n, study=1 + n % 2, series=n % 3) for n in range(1, 7)]
    spooled = site.take(*objects)
    assert indexing.index(spooled) == 6
    assert (Study.objects.count(), Series.objects.count()) == (2, 6)
    for item, raw in zip(spooled, objects, strict=True):
        row = Instance.objects.get(sop_instance_uid=raw.sop_instance_uid)
        assert (row.state, row.file_id) == (InstanceState.CURRENT, item.receipt_id)
        assert row.instance_number == int(raw.sop_instance_uid.rsplit(".", 1)[1])
        expected = f"{row.study_id // 1000}/{row.study_id}/{row.series_id}/{row.file_id}.dcm"
        stored = (site.objects / expected).read_bytes()
        assert stored[row.offset :] == raw.data
        assert (len(raw.data), item.sha256) == (row.size, row.sha256)
        assert row.mark.decision is None
        receipt = row.receipts.get()
        assert (receipt.uid, receipt.outcome, receipt.sha256) == (row.file_id, "stored", row.sha256)
    assert len(site.stored()) == 6
    assert site.waiting() == []
    assert _queued() == ["router.tasks.route"]
    _no_gaps()


def test_study_and_series_hold_what_the_header_says(site: Site) -> None:
    values: dict[str, Any] = {
        "PatientID": "PID 7",
        "PatientName": "M\xfcller^Anna^",
        "SpecificCharacterSet": "ISO_IR 100",
        "AccessionNumber": "A-1",
        "StudyDate": "20260301",
        "StudyDescription": "Thorax",
        "SeriesDescription": "axial",
        "SeriesNumber": "4",
        "BodyPartExamined": "CHEST",
    }
    indexing.index(site.take(image(1, **values)))
    study, series = Study.objects.get(), Series.objects.get()
    assert (study.patient_id, study.accession_number) == ("PID 7", "A-1")
    assert study.patient_name.startswith("M\xfcller^Anna")
    assert study.patient_name_search == "muller anna"
    assert (study.study_date, study.study_description) == ("20260301", "Thorax")
    assert (study.source, study.modalities) == ("ct-1", "CT")
    assert (series.series_description, series.series_number) == ("axial", 4)
    assert (series.modality, series.body_part_examined) == ("CT", "CHEST")


def test_the_corpus_is_indexed_without_a_gap(site: Site) -> None:
    files = [path for path in corpus.whole_files() if path.stat().st_size < 1 << 20][:80]
    objects = {item.sop_instance_uid: item for item in map(senders.read_raw, files)}
    objects = {uid: item for uid, item in objects.items() if valid_uid(uid)}
    spooled = site.take(*objects.values())
    indexer.index_all(spooled)
    assert len(objects) > 30
    assert _states()["current"] == len(objects)
    for row in Instance.objects.all():
        with archive.opened(row) as file:
            file.seek(row.offset)
            assert file.read() == objects[row.sop_instance_uid].data
    _no_gaps()


def test_indexing_nothing_is_nothing(site: Site) -> None:
    assert indexing.index([]) == 0
    assert indexer.index_all([]) == 0
    assert not Association.objects.exists()


# --- the same object again ------------------------------------------------------------------------
def test_the_same_bytes_again_are_one_object(site: Site) -> None:
    indexing.index(site.take(image(1)))
    RoutingMark.objects.all().delete()
    assert indexing.index(site.take(image(1))) == 1
    assert _outcomes() == {"stored": 1, "duplicate": 1}
    assert _states() == {"current": 1}
    assert not RoutingMark.objects.exists()  # nothing is routed again
    assert len(site.stored()) == 1
    assert site.waiting() == []
    duplicate = Receipt.objects.get(outcome="duplicate")
    assert duplicate.instance == Instance.objects.get()
    assert Study.objects.get().instances_count == Series.objects.get().instances_count == 1


def test_duplicates_within_one_batch(site: Site) -> None:
    indexing.index(site.take(image(1), image(1), image(2), image(1)))
    assert _outcomes() == {"stored": 2, "duplicate": 2}
    assert _states() == {"current": 2}
    assert len(site.stored()) == RoutingMark.objects.count() == 2
    assert site.waiting() == []
    _no_gaps()


def test_another_transfer_syntax_is_other_bytes(site: Site) -> None:
    first = site.take(image(1))
    indexing.index(first)
    other = replace(site.take(image(1))[0], transfer_syntax="1.2.840.10008.1.2")
    indexing.index([replace(other, structure=first[0].structure)])
    assert _outcomes() == {"stored": 1, "quarantined": 1}


# --- other bytes under a known UID ----------------------------------------------------------------
def test_other_bytes_are_quarantined(site: Site) -> None:
    indexing.index(site.take(image(1)))
    indexing.index(site.take(image(1, salt=9)))
    assert _states() == {"current": 1, "quarantined": 1}
    apart = Instance.objects.quarantined().get()
    assert "the first stays" in apart.reason
    assert "another study" not in apart.reason
    study = Study.objects.get()
    assert (study.instances_count, study.quarantined_count) == (1, 1)
    assert RoutingMark.objects.count() == 1
    assert len(site.stored()) == 2
    _no_gaps()


def test_other_bytes_are_a_version_where_the_source_says_so(site: Site) -> None:
    indexing.index(site.take(image(1)))
    indexing.index(site.take(image(1, salt=9), duplicates="versions"))
    assert _states() == {"current": 1, "version": 1}
    assert RoutingMark.objects.count() == 2  # a version is routed too
    assert Study.objects.get().instances_count == 1
    assert Study.objects.get().quarantined_count == 0
    _no_gaps()


@pytest.mark.parametrize(
    ("policy", "state"), [("quarantine", "quarantined"), ("versions", "version")]
)
def test_other_bytes_within_one_batch(site: Site, policy: str, state: str) -> None:
    indexing.index(site.take(image(1), image(1, salt=2), image(1, salt=2), duplicates=policy))
    assert _states() == {"current": 1, state: 1}
    assert _outcomes() == {"stored": 1, state: 1, "duplicate": 1}
    assert Instance.objects.current().get().sha256 == Receipt.objects.get(outcome="stored").sha256
    _no_gaps()


def test_the_same_uid_in_another_study(site: Site) -> None:
    indexing.index(site.take(image(1, study=1)))
    indexing.index(site.take(image(1, study=2)))
    apart = Instance.objects.quarantined().get()
    assert "in another study" in apart.reason
    assert apart.study.study_instance_uid == f"{ROOT}.1.2"
    assert (apart.study.instances_count, apart.study.quarantined_count) == (0, 1)
    assert (apart.study.series_count, apart.study.modalities) == (0, "")
    _no_gaps()


def test_the_bytes_of_a_quarantined_object_again_are_a_duplicate(site: Site) -> None:
    indexing.index(site.take(image(1), image(1, salt=5)))
    indexing.index(site.take(image(1, salt=5)))
    assert _outcomes() == {"stored": 1, "quarantined": 1, "duplicate": 1}
    assert Study.objects.get().quarantined_count == 1


# --- many at the same time ------------------------------------------------------------------------
def _at_once(work: Iterable[Spooled]) -> None:
    """Index every object in a thread of its own, all started together."""
    items = list(work)
    start = threading.Barrier(len(items))

    def run(item: Spooled) -> None:
        start.wait(20)
        try:
            indexer.index_all([item])
        finally:
            connection.close()

    with ThreadPoolExecutor(len(items)) as pool:
        list(pool.map(run, items, timeout=90))


@committing
def test_twenty_at_once_leave_one_object(site: Site) -> None:
    _at_once(site.take(image(1))[0] for _ in range(20))
    assert _outcomes() == {"stored": 1, "duplicate": 19}
    assert _states() == {"current": 1}
    assert len(site.stored()) == RoutingMark.objects.count() == 1
    assert site.waiting() == []
    study = Study.objects.get()
    assert (study.instances_count, study.series_count) == (1, 1)
    _no_gaps()


@committing
def test_twenty_other_bytes_at_once_lose_nothing(site: Site) -> None:
    _at_once(site.take(image(1, salt=n))[0] for n in range(20))
    assert _outcomes() == {"stored": 1, "quarantined": 19}
    assert len(site.stored()) == 20
    assert Study.objects.get().quarantined_count == 19
    counts = HourCount.objects.values_list("kind", "objects_count")
    assert Counter(dict(counts)).total() == 20
    _no_gaps()


# --- crashes --------------------------------------------------------------------------------------
@committing
def test_a_crash_between_commit_and_move_is_made_good(site: Site) -> None:
    spooled = site.take(image(1), image(2), image(3), image(3))
    storage.objects()
    site.objects.rmdir()
    site.objects.touch()  # nothing can be put below a file
    with pytest.raises(FileExistsError):
        indexing.index(spooled)
    assert Instance.objects.count() == 3  # the rows stand
    site.objects.unlink()
    moved = Instance.objects.get(file_id=spooled[1].receipt_id)  # as if it had gone before
    storage.objects().place([(spooled[1].path, moved.location)])
    for row in Instance.objects.all():
        archive.opened(row).close()  # readable wherever it lies
    assert indexing.index(spooled) == 0  # nothing new, only moved
    assert len(site.stored()) == 3
    assert site.waiting() == []
    assert _outcomes() == {"stored": 3, "duplicate": 1}
    assert Study.objects.get().instances_count == 3
    _no_gaps()


def test_an_object_without_rows_is_found_again_in_its_inbox(site: Site) -> None:
    inbox = site.inbox()
    (spooled,) = site.take(image(1), inbox=inbox)
    (left,) = inbox.leftovers()
    assert (left.receipt_id, left.sha256) == (spooled.receipt_id, spooled.sha256)
    indexing.index([left])
    assert Receipt.objects.get().uid == spooled.receipt_id
    _no_gaps()


def test_a_leftover_indexed_twice_counts_once(site: Site) -> None:
    inbox = site.inbox()
    site.take(image(1), inbox=inbox)
    leftovers = list(inbox.leftovers())
    assert [indexing.index(leftovers), indexing.index(leftovers)] == [1, 0]
    assert Association.objects.get().objects_count == 1
    _no_gaps()


# --- odd objects ----------------------------------------------------------------------------------
def test_an_object_without_study_gets_one_of_its_own(site: Site) -> None:
    (spooled,) = site.take(image(1, StudyInstanceUID=None, SeriesInstanceUID=None))
    indexing.index([spooled])
    own = f"2.25.{int(spooled.receipt_id, 16)}"
    row = Instance.objects.get()
    assert row.state == InstanceState.CURRENT
    assert (row.study.study_instance_uid, row.series.series_instance_uid) == (own, own)
    _no_gaps()


@pytest.mark.parametrize("bad", ["../../etc/passwd", "1.2.x", "1." * 40 + "1", "", "1.2\x003"])
def test_a_study_uid_that_is_none_is_no_study(site: Site, bad: str) -> None:
    indexing.index(site.take(image(1, StudyInstanceUID=bad)))
    assert Study.objects.get().study_instance_uid.startswith("2.25.")
    assert len(site.stored()) == 1


def test_an_unreadable_leftover_is_quarantined(site: Site) -> None:
    inbox = site.inbox()
    (spooled,) = site.take(image(1), inbox=inbox)
    content = spooled.path.read_bytes()
    spooled.path.write_bytes(content[:-10])
    indexing.index(list(inbox.leftovers()))
    row = Instance.objects.get()
    assert row.state == InstanceState.QUARANTINED
    assert row.reason.startswith("Damaged in the inbox: unreadable when indexed")
    assert row.study.study_instance_uid == f"2.25.{int(spooled.receipt_id, 16)}"
    assert len(site.stored()) == 1
    assert not RoutingMark.objects.exists()


def test_what_inflates_beyond_the_limits_is_quarantined_with_the_reason(site: Site) -> None:
    (spooled,) = site.take(image(1))
    found = spooled.examined().structure
    assert found is not None
    bomb = replace(spooled, structure=replace(found, quarantine="inflates beyond the limits"))
    assert bomb.quarantine == "inflates beyond the limits"
    indexing.index([bomb])
    row = Instance.objects.get()
    assert (row.state, row.reason) == (InstanceState.QUARANTINED, "inflates beyond the limits")
    assert RoutingMark.objects.count() == 0
    assert len(site.stored()) == 1


def test_a_change_of_intake_is_audited_once_however_many_saw_it(site: Site) -> None:
    for state in ("slow", "slow", "refusing", "refusing", "open", "open"):
        associations.record_disk_state(associations.DiskChanged(state, 12))
    told = AuditEvent.objects.filter(event="intake.disk").order_by("pk")
    assert [event.target for event in told] == ["intake slow", "intake refusing", "intake open"]
    assert [event.outcome for event in told] == ["8", "8", "0"]


def test_nuls_in_texts_do_not_stop_anything(site: Site) -> None:
    values: dict[str, Any] = dict.fromkeys(
        ["PatientID", "PatientName", "StudyDescription", "AccessionNumber", "Modality"], b"A\0B\0"
    )
    indexing.index(site.take(image(1, SeriesDescription=b"\0\0", StudyID=b"\0", **values)))
    study = Study.objects.get()
    assert "\0" not in study.patient_id + study.patient_name + study.study_description
    assert Instance.objects.get().state == InstanceState.CURRENT
    assert HourCount.objects.get().objects_count == 1


def test_texts_that_are_too_long_are_cut(site: Site) -> None:
    keywords = ["PatientID", "PatientName", "StudyDescription", "AccessionNumber", "Modality"]
    keywords += ["StudyID", "SeriesDescription", "BodyPartExamined", "StudyDate", "InstitutionName"]
    values: dict[str, Any] = dict.fromkeys(keywords, "x" * 2000)
    indexing.index(site.take(image(1, **values)))
    study, series = Study.objects.get(), Series.objects.get()
    assert study.accession_number == "x" * 16
    assert (series.modality, study.modalities) == ("x" * 16, "x" * 16)
    assert set(study.patient_name) == {"x"}


@pytest.mark.parametrize(
    "value", ["9" * 12, "9" * 30, "-5", "1.5", "abc", "", "١٢", "1_0", "9" * 5000]
)
def test_an_instance_number_of_any_kind_is_taken(site: Site, value: str) -> None:
    indexing.index(site.take(image(1, InstanceNumber=value.encode(), SeriesNumber=value.encode())))
    assert Instance.objects.get().state == InstanceState.CURRENT


def test_texts_in_a_broken_character_set_are_taken(site: Site) -> None:
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": b"\xff\xfe\xed\xa0\x80^\x1b$B",
        "PatientID": b"\xed\xb0\x80",
    }
    indexing.index(site.take(image(1, **values)))
    assert Instance.objects.get().state == InstanceState.CURRENT


def _refuses(execute: Any, sql: str, params: Any, *rest: Any) -> Any:
    """Refuse as a database does whose column cannot hold a text."""
    if "POISON" in repr(params):
        raise DataError("a text that the column cannot hold")
    return execute(sql, params, *rest)


@committing
def test_a_bad_object_does_not_take_its_batch_along(site: Site) -> None:
    spooled = site.take(*(image(n, study=n) for n in range(1, 5)))
    bad = site.take(image(9, study=9, PatientID="POISON"))
    spooled += bad + site.take(*(image(n, study=n) for n in range(10, 14)))
    with connection.execute_wrapper(_refuses):
        assert indexer.index_all(spooled) == 9
    assert _states() == {"current": 8, "quarantined": 1}
    apart = Instance.objects.quarantined().get()
    assert apart.file_id == bad[0].receipt_id
    assert apart.reason == "Its header cannot be indexed."
    _no_gaps()


# --- counts ---------------------------------------------------------------------------------------
def _at(item: Spooled, moment: datetime) -> Spooled:
    return replace(item, received_at=moment)


def test_hours_are_counted_exactly(site: Site) -> None:
    items = site.take(image(1), image(1), image(2), image(2, salt=3), image(4, Modality="MR"))
    late = site.take(image(5))
    batch = [_at(item, HOUR + timedelta(minutes=59, seconds=59)) for item in items]
    indexing.index([*batch, _at(late[0], HOUR + timedelta(hours=1))])
    indexing.index([_at(site.take(image(6))[0], HOUR)])
    rows = {
        (row.hour.hour, row.kind, row.modality): (row.objects_count, row.bytes)
        for row in HourCount.objects.all()
    }
    size = [item.size for item in items]
    assert rows == {
        (14, CounterKind.RECEIVED, "CT"): (3, size[0] + size[2] + late[0].size),
        (14, CounterKind.DUPLICATE, "CT"): (1, size[1]),
        (14, CounterKind.QUARANTINED, "CT"): (1, size[3]),
        (14, CounterKind.RECEIVED, "MR"): (1, size[4]),
        (15, CounterKind.RECEIVED, "CT"): (1, late[0].size),
    }
    assert set(HourCount.objects.values_list("source", flat=True)) == {"ct-1"}


def test_studies_and_associations_are_counted_exactly(site: Site) -> None:
    inbox = site.inbox()
    first = site.take(image(1), image(2, series=2, Modality="SR"), inbox=inbox)
    second = site.take(image(1), image(2, salt=8), image(3), inbox=inbox)
    indexing.index([_at(item, HOUR + timedelta(minutes=5)) for item in first])
    indexing.index([_at(item, HOUR) for item in second])
    study = Study.objects.get()
    assert (study.instances_count, study.quarantined_count, study.series_count) == (3, 1, 2)
    assert study.modalities == "CT\\SR"
    assert study.bytes == sum(item.size for item in [*first, second[2]])
    assert study.first_received_at == study.last_received_at == HOUR + timedelta(minutes=5)
    row = Association.objects.get()
    assert (row.objects_count, row.bytes) == (5, sum(i.size for i in [*first, *second]))
    assert row.uid == inbox.facts.id


def test_an_association_holds_its_facts(site: Site) -> None:
    facts: dict[str, Any] = {
        "calling_ae": "CT\x001" + "X" * 40,
        "remote_host": "h" * 90,
        "user": "u" * 200,
    }
    indexing.index(site.take(image(1), **facts, source=None, remote_port=0))
    row = Association.objects.get()
    assert row.calling_ae == "CT1" + "X" * 13
    assert (len(row.remote_host), len(row.user)) == (64, 150)
    assert (row.source, row.remote_port) == ("", None)
