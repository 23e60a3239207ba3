"""Storage on files and in a real S3-compatible bucket: durable, verified, nothing lost halfway."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from django.core.exceptions import ImproperlyConfigured
from moto.server import ThreadedMotoServer

from router import storage
from router.storage import BucketStorage, FileStorage, ObjectStorage, StorageAway, StorageMismatch

BUCKET = "images"
KEY = "0/7/9/abc.dcm"
DATA = b"DICM" + bytes(range(256)) * 20

OpenStorage = Callable[[str], ObjectStorage]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def open_storage(
    settings: Any,
    tmp_path: Path,  # Any: pytest-django has no type
) -> Iterator[OpenStorage]:
    """Return a function that opens the storage a URL names."""

    def opened(url: str) -> ObjectStorage:
        settings.STORAGE_URL = url
        settings.SPOOL_DIR = tmp_path
        storage.objects.cache_clear()
        return storage.objects()

    yield opened
    storage.objects.cache_clear()


@pytest.fixture
def files(open_storage: OpenStorage, tmp_path: Path) -> FileStorage:
    found = open_storage(f"file://{tmp_path / 'objects'}")
    assert isinstance(found, FileStorage)
    return found


@pytest.fixture
def bucket(
    open_storage: OpenStorage, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> BucketStorage:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    remote = boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1")
    made = remote.create_bucket(Bucket=BUCKET)
    made.objects.all().delete()
    found = open_storage(f"s3://{BUCKET}/in?endpoint={endpoint}&region=us-east-1")
    assert isinstance(found, BucketStorage)
    return found


@pytest.fixture(params=["files", "bucket"])
def anywhere(request: pytest.FixtureRequest) -> ObjectStorage:
    found: ObjectStorage = request.getfixturevalue(request.param)
    return found


def _spooled(folder: Path, name: str = "abc.dcm", data: bytes = DATA) -> Path:
    path = folder / "inbox" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


# --- whatever lies below -------------------------------------------------------------------------
def test_keeps_the_bytes_and_takes_the_spooled_file(
    anywhere: ObjectStorage, tmp_path: Path
) -> None:
    path = _spooled(tmp_path)

    anywhere.place([(path, KEY)])

    assert not path.exists()
    assert anywhere.size(KEY) == len(DATA)
    with anywhere.open(KEY) as file:
        assert file.read() == DATA
        assert os.fstat(file.fileno()).st_size == len(DATA)  # a real file: it is sent from there


def test_placing_again_what_was_placed_before_is_harmless(
    anywhere: ObjectStorage, tmp_path: Path
) -> None:
    path = _spooled(tmp_path)
    anywhere.place([(path, KEY)])

    anywhere.place([(path, KEY)])

    assert anywhere.size(KEY) == len(DATA)


def test_names_what_is_in_no_place(anywhere: ObjectStorage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        anywhere.place([(tmp_path / "nowhere.dcm", KEY)])
    with pytest.raises(FileNotFoundError):
        anywhere.open(KEY)
    with pytest.raises(FileNotFoundError):
        anywhere.size(KEY)


def test_walks_every_folder_with_lengths(anywhere: ObjectStorage, tmp_path: Path) -> None:
    keys = {"0/7/9/a.dcm": 10, "0/7/9/b.dcm": 20, "0/7/10/c.dcm": 30, "12/12000/4/d.dcm": 40}
    anywhere.place([(_spooled(tmp_path, Path(k).name, bytes(n)), k) for k, n in keys.items()])

    found = {
        f"{folder}/{name}": n for folder, names in anywhere.walk() for name, n in names.items()
    }

    assert found == keys


def test_walks_nothing_where_nothing_is(anywhere: ObjectStorage) -> None:
    assert list(anywhere.walk()) == []


def test_deletes_what_is_there_and_minds_nothing_else(
    anywhere: ObjectStorage, tmp_path: Path
) -> None:
    anywhere.place([(_spooled(tmp_path), KEY)])

    anywhere.delete(KEY)
    anywhere.delete(KEY)

    with pytest.raises(FileNotFoundError):
        anywhere.size(KEY)


# --- files ---------------------------------------------------------------------------------------
def test_renames_on_the_same_volume(files: FileStorage, tmp_path: Path) -> None:
    path = _spooled(tmp_path)
    inode = path.stat().st_ino

    files.place([(path, KEY)])

    assert (files.root / KEY).stat().st_ino == inode


@pytest.fixture
def two_volumes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the kernel refuse to rename across folders, as it does across volumes."""
    calls: list[str] = []
    rename, unlink, fsync = Path.rename, Path.unlink, os.fsync

    def apart(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        calls.append(f"rename {target.name}")
        return rename(self, target)

    def gone(self: Path, *, missing_ok: bool = False) -> None:
        calls.append(f"unlink {self.name}")
        unlink(self, missing_ok=missing_ok)

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(f"fsync {path.name}")
        fsync(descriptor)

    monkeypatch.setattr(Path, "rename", apart)
    monkeypatch.setattr(Path, "unlink", gone)
    monkeypatch.setattr(os, "fsync", synced)
    return calls


def test_copies_across_volumes_and_removes_the_source_last(
    files: FileStorage, two_volumes: list[str], tmp_path: Path
) -> None:
    path = _spooled(tmp_path)
    (files.root / KEY).parent.mkdir(parents=True)

    files.place([(path, KEY)])

    copied = ["fsync abc.part", "rename abc.dcm", "fsync 9", "unlink abc.dcm"]
    assert two_volumes[: len(copied)] == copied  # durable under its name before the source goes
    assert (files.root / KEY).read_bytes() == DATA
    assert not path.exists()


def test_a_copy_that_differs_leaves_the_source(
    files: FileStorage, two_volumes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _spooled(tmp_path)
    monkeypatch.setattr(shutil, "copyfileobj", lambda _from, to, _size: to.write(b"other"))

    with pytest.raises(StorageMismatch):
        files.place([(path, KEY)])

    assert path.read_bytes() == DATA
    assert not (files.root / KEY).exists()


def test_a_copy_that_was_cut_is_made_anew(
    files: FileStorage, two_volumes: list[str], tmp_path: Path
) -> None:
    half = (files.root / KEY).with_suffix(".part")
    half.parent.mkdir(parents=True)
    half.write_bytes(bytes(99_999))

    files.place([(_spooled(tmp_path), KEY)])

    assert (files.root / KEY).read_bytes() == DATA
    assert not half.exists()


def test_other_failures_are_not_taken_for_another_volume(
    files: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = _spooled(tmp_path)
    monkeypatch.setattr(Path, "rename", refuse)

    with pytest.raises(OSError, match="No space"):
        files.place([(path, KEY)])

    assert path.exists()


def test_new_folders_are_durable_in_their_parents(
    files: FileStorage, two_volumes: list[str], tmp_path: Path
) -> None:
    files.place([(_spooled(tmp_path), KEY)])

    made = [call for call in two_volumes if call.startswith("fsync")][:3]
    assert made == ["fsync objects", "fsync 0", "fsync 7"]


def test_only_trouble_that_will_pass_is_no_fault_of_an_object() -> None:
    assert storage.is_passing(OSError(errno.EMFILE, "Too many open files"))
    assert storage.is_passing(StorageAway("away"))
    assert not storage.is_passing(OSError(errno.EIO, "Input/output error"))
    assert not storage.is_passing(FileNotFoundError(errno.ENOENT, "No such file"))


# --- the bucket ----------------------------------------------------------------------------------
def test_keys_lie_below_the_prefix(bucket: BucketStorage, tmp_path: Path) -> None:
    bucket.place([(_spooled(tmp_path), KEY)])

    assert [item.key for item in bucket.backend.bucket.objects.all()] == [f"in/{KEY}"]


def test_what_others_keep_in_the_bucket_is_not_ours(bucket: BucketStorage) -> None:
    bucket.backend.bucket.put_object(Key="elsewhere/x.dcm", Body=b"x")
    bucket.backend.bucket.put_object(Key="in-between/y.dcm", Body=b"y")

    assert list(bucket.walk()) == []


def test_large_objects_go_in_parts(bucket: BucketStorage, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 17
    path = _spooled(tmp_path, data=data)

    bucket.place([(path, KEY)])

    with bucket.open(KEY) as file:
        assert file.read() == data


def test_a_bucket_that_is_not_there_leaves_the_spooled_file(
    open_storage: OpenStorage, endpoint: str, tmp_path: Path, bucket: BucketStorage
) -> None:
    absent = open_storage(f"s3://absent?endpoint={endpoint}&region=us-east-1")
    path = _spooled(tmp_path)

    with pytest.raises(StorageAway, match="bucket"):
        absent.place([(path, KEY)])

    assert path.read_bytes() == DATA


def test_an_endpoint_that_is_away_is_trouble_of_the_system(
    open_storage: OpenStorage, tmp_path: Path, bucket: BucketStorage
) -> None:
    """The indexer and the router wait for it: it is neither a missing file nor a fault of ours."""
    away = open_storage(f"s3://{BUCKET}?endpoint=http://127.0.0.1:9&region=us-east-1")
    path = _spooled(tmp_path)

    with pytest.raises(StorageAway):
        away.place([(path, KEY)])
    with pytest.raises(StorageAway):
        away.size(KEY)
    assert path.read_bytes() == DATA


# --- which one -----------------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "s3:///prefix-only", "objects"])
def test_refuses_what_names_no_storage(open_storage: OpenStorage, url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="ROUTER_STORAGE_URL"):
        open_storage(url)
