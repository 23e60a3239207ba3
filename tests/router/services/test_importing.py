"""Importing: resumable, complete without file meta, and a reason for each refusal."""

from dataclasses import replace
from pathlib import Path

import pytest

from router.models import Association, AuditEvent, Instance, Receipt
from router.services import importing, reckoning
from router.services.actors import Actor, ActorKind
from tests.intake import Site, image, part10_file

pytestmark = pytest.mark.django_db
ANN = Actor("ann", ActorKind.SYSTEM)


def _run(*paths: Path) -> importing.ImportReport:
    report = importing.ImportReport()
    files = importing.files_below(paths)
    for _path, so_far in importing.run(files, calling_ae="IMPORTER", actor=ANN):
        report = so_far
    return report


def _folder(tmp_path: Path, count: int = 3) -> Path:
    for number in range(1, count + 1):
        part10_file(tmp_path / "in" / f"{number % 2}" / f"{number}.dcm", image(number))
    return tmp_path / "in"


def test_imports_a_folder(site: Site, tmp_path: Path) -> None:
    report = _run(_folder(tmp_path))
    assert (report.stored, report.known, report.refused) == (3, 0, [])
    assert Instance.objects.current().count() == len(site.stored()) == 3
    row = Association.objects.get()
    assert (row.origin, row.calling_ae, row.user, row.objects_count) == (
        "import",
        "IMPORTER",
        "ann",
        3,
    )
    assert row.ended_at is not None
    assert list((site.spool.root / "inbox").iterdir()) == []
    assert AuditEvent.objects.get(event="import").details == {
        "stored": 3,
        "known": 0,
        "refused": 0,
    }
    assert reckoning.reckon(deep=True).gaps == []


def test_goes_on_where_it_was_cut(site: Site, tmp_path: Path) -> None:
    files = list(importing.files_below([_folder(tmp_path, 5)]))
    run = importing.run(files, calling_ae="IMPORTER", actor=ANN)
    next(run)
    next(run)
    run.close()  # type: ignore[attr-defined] # a generator
    assert Instance.objects.count() == 2
    assert site.waiting() == []
    report = _run(tmp_path / "in")
    assert (report.stored, report.known) == (3, 2)
    assert Instance.objects.count() == Receipt.objects.count() == 5


def test_more_files_than_one_batch(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 2)
    assert _run(_folder(tmp_path, 5)).stored == 5
    assert Instance.objects.count() == 5


def test_a_file_without_meta_is_completed_from_its_data_set(site: Site, tmp_path: Path) -> None:
    bare = part10_file(tmp_path / "bare", image(1), with_meta=False)
    report = _run(bare)
    assert report.refused == []
    row = Instance.objects.get(sop_instance_uid=image(1).sop_instance_uid)
    assert row.sop_class_uid == image(1).sop_class_uid
    assert row.size == len(image(1).data)


def test_each_refusal_has_its_reason(site: Site, tmp_path: Path) -> None:
    cut = part10_file(tmp_path / "cut.dcm", image(1))
    cut.write_bytes(cut.read_bytes()[:-10])
    text = tmp_path / "notes.txt"
    text.write_text("not an image " * 50)
    empty = tmp_path / "empty"
    empty.touch()
    nameless = part10_file(tmp_path / "nameless", image(2, SOPInstanceUID=None), with_meta=False)
    locked = tmp_path / "gone.dcm"
    locked.symlink_to(tmp_path / "nowhere")
    good = part10_file(tmp_path / "good.dcm", image(3))
    report = _run(cut, text, empty, nameless, locked, good)
    assert report.stored == 1
    assert [path for path, _reason in report.refused] == [cut, text, empty, nameless, locked]
    assert all(reason for _path, reason in report.refused)
    said = "it has no SOP Instance UID, neither in its file meta nor in its data set"
    assert dict(report.refused)[nameless] == said
    assert Instance.objects.count() == 1
    assert reckoning.reckon().gaps == []


def test_other_bytes_under_a_known_uid_are_quarantined(site: Site, tmp_path: Path) -> None:
    _run(part10_file(tmp_path / "a", image(1)))
    _run(part10_file(tmp_path / "b", image(1, salt=2)))
    assert Instance.objects.quarantined().count() == 1


def test_the_same_file_twice_in_one_import(site: Site, tmp_path: Path) -> None:
    _run(part10_file(tmp_path / "a", image(1)), part10_file(tmp_path / "b", image(1)))
    assert Instance.objects.count() == 1
    assert reckoning.reckon().gaps == []


def test_an_import_of_nothing_leaves_no_inbox(site: Site, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    report = _run(tmp_path / "none")
    assert (report.stored, report.refused) == (0, [])
    assert not list(site.spool.root.glob("inbox/*"))


def test_files_come_in_a_fixed_order_without_the_directory(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "DICOMDIR", "b/dicomdir"):
        part10_file(tmp_path / name, image(1))
    found = [path.relative_to(tmp_path).as_posix() for path in importing.files_below([tmp_path])]
    assert found == ["a", "b/1", "b/2"]


@pytest.mark.parametrize("uid", ["1.2.x", "1." * 70, "../../etc/passwd", "1..2"])
def test_a_uid_that_is_none_is_shown_with_what_one_is(site: Site, tmp_path: Path, uid: str) -> None:
    bad = part10_file(tmp_path / "bad.dcm", replace(image(1), sop_instance_uid=uid))
    report = _run(bad)
    said = dict(report.refused)[bad]
    assert said.startswith(f"its SOP Instance UID {uid[:60]!a}"[:-1])
    assert said.endswith("is not a UID: numbers between dots, 64 characters at most")
    assert len(said) < 200
    assert not Instance.objects.exists()
