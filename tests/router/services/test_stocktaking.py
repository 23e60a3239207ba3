"""Stocktaking: each gap is named once, and what only seems one is none."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from router import storage
from router.models import Instance, InstanceState
from router.services import indexing, stocktaking
from tests.intake import Site, image

pytestmark = pytest.mark.django_db


def _take(*, deep: bool = False) -> tuple[list[tuple[str, str]], int]:
    """Return the gaps and the number of objects compared."""
    *gaps, count = list(stocktaking.take(deep=deep))
    assert isinstance(count, int)
    return [gap for gap in gaps if not isinstance(gap, int)], count


def _stored(site: Site, *numbers: int) -> list[Path]:
    """Store objects, each in a study of its own; return their files by number."""
    for number in numbers:
        indexing.index(site.take(image(number, study=number)))
    return [site.objects / _row(number).location for number in numbers]


def _row(number: int) -> Instance:
    return Instance.objects.get(sop_instance_uid=image(number).sop_instance_uid)


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_store_has_no_gap(site: Site, deep: bool) -> None:
    assert _take(deep=deep) == ([], 0)
    _stored(site, 1, 2, 3)
    assert _take(deep=deep) == ([], 3)


def test_a_missing_file_is_a_gap(site: Site) -> None:
    first, _second = _stored(site, 1, 2)
    first.unlink()
    gaps = [("files", f"instance {_row(1).sop_instance_uid} has no file")]
    assert _take() == (gaps, 2)
    first.parent.rmdir()  # with its folder, where nothing is walked
    assert _take() == (gaps, 2)


def test_a_cut_file_is_a_gap(site: Site) -> None:
    (path,) = _stored(site, 1)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-2])
    said = f"instance {_row(1).sop_instance_uid} has {whole - 2} bytes, not {whole}"
    assert _take() == ([("files", said)], 1)


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_cannot_be_looked_at_is_a_gap_and_stops_nothing(site: Site, deep: bool) -> None:
    first, second = _stored(site, 1, 2)
    first.unlink()
    first.symlink_to(first.name)
    second.unlink()
    stray = second.parent / f"{'0' * 32}.dcm"
    stray.symlink_to(stray.name)
    cause = os.strerror(errno.ELOOP)
    gaps, count = _take(deep=deep)
    assert sorted(gaps) == [
        ("files", f"{'0' * 32}.dcm has no row"),
        ("files", f"instance {_row(1).sop_instance_uid} cannot be read: {cause}"),
        ("files", f"instance {_row(2).sop_instance_uid} has no file"),
    ]
    assert count == 2


def test_a_folder_that_cannot_be_listed_is_a_gap_for_each_of_its_objects(site: Site) -> None:
    (path,) = _stored(site, 1)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(path.parent.name)
    cause = os.strerror(errno.ELOOP)
    said = f"instance {_row(1).sop_instance_uid} cannot be read: {cause}"
    assert _take() == ([("files", said)], 1)


def test_a_bucket_that_is_away_is_no_gap(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of a million objects would be one, because of a network."""
    (path,) = _stored(site, 1)
    path.unlink()

    def away(*_: object) -> int:
        raise storage.StorageAway("The bucket cannot be used")

    monkeypatch.setattr(storage.FileStorage, "size", away)
    with pytest.raises(storage.StorageAway):
        _take()


def test_changed_bytes_are_found_by_a_deep_look_only(site: Site) -> None:
    (path,) = _stored(site, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert _take() == ([], 1)
    said = f"instance {_row(1).sop_instance_uid} has changed on storage"
    assert _take(deep=True) == ([("hashes", said)], 1)


def test_a_file_without_a_row_is_a_gap(site: Site) -> None:
    (path,) = _stored(site, 1)
    (path.parent / f"{'0' * 32}.dcm").write_bytes(b"stray")
    assert _take() == ([("files", f"{'0' * 32}.dcm has no row")], 1)


def test_the_file_of_a_discarded_object_is_a_stray(site: Site) -> None:
    (path,) = _stored(site, 1)
    Instance.objects.update(state=InstanceState.PURGED)
    assert _take() == ([("files", f"{path.name} has no row")], 0)


def test_what_is_still_in_the_inbox_is_no_gap(site: Site) -> None:
    """Rows are written before files move: a process may have died in between."""
    inbox = site.inbox()
    (spooled,) = site.take(image(1), inbox=inbox)
    content = spooled.path.read_bytes()
    indexing.index([spooled])
    (path,) = site.stored()
    path.unlink()
    spooled.path.write_bytes(content)
    assert _take(deep=True) == ([], 1)


def test_many_folders_are_taken_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stocktaking, "FOLDERS_AT_ONCE", 2)
    paths = _stored(site, 1, 2, 3, 4, 5)
    paths[4].unlink()
    assert _take() == ([("files", f"instance {_row(5).sop_instance_uid} has no file")], 5)


def test_the_digest_is_of_the_data_set_alone(site: Site) -> None:
    _stored(site, 1)
    row = _row(1)
    assert stocktaking.digest(row) == row.sha256
