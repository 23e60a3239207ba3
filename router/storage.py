"""Object bytes in and out of the final storage: local files, or an S3-compatible bucket.

Keys come from our own ids only. Local objects are renamed from the spool (same volume) or copied,
verified and then unlinked; objects for a bucket are uploaded, verified and then unlinked.
Refuses to know rows: callers say which key holds what.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from urllib.parse import parse_qs, urlsplit

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from storages.backends.s3 import S3Storage

from router import durable

CHUNK = 1 << 20
# Parts of 16 MiB, one after the other: a worker is a process of its own.
TRANSFER = TransferConfig(
    multipart_threshold=16 << 20, multipart_chunksize=16 << 20, use_threads=False
)


UNKNOWN = -1


class StorageMismatch(OSError):
    """What was written is not what was read back."""


class ObjectStorage(Protocol):
    """The verbs of a storage."""

    def place(self, moves: Iterable[tuple[Path, str]]) -> None:
        """Bring files to their keys, durably; each source file is gone afterwards."""

    def open(self, key: str) -> BinaryIO:
        """Open an object as a real file. Raises FileNotFoundError."""

    def size(self, key: str) -> int:
        """Return the bytes of an object. Raises FileNotFoundError."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def walk(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield every folder that holds objects, with their names and lengths; `UNKNOWN` is the
        length of one that cannot be looked at."""


class StorageAway(OSError):
    """The bucket cannot be used now; nothing is said about the object."""


def is_passing(error: OSError) -> bool:
    """Tell whether the trouble will pass and is no fault of the object's.

    The storage is away, or this process has no descriptors or memory left.
    """
    passing = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
    return isinstance(error, StorageAway) or error.errno in passing


class FileStorage:
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def place(self, moves: Iterable[tuple[Path, str]]) -> None:
        """Rename (or copy across volumes), then sync target and source folders once each."""
        targets: set[Path] = set()
        sources: set[Path] = set()
        for path, key in moves:
            target = self.root / key
            if target.parent not in targets:
                durable.make_folder(target.parent)
            self._move(path, target)
            targets.add(target.parent)
            sources.add(path.parent)
        for folder in (*targets, *sources):
            if folder.is_dir():
                durable.sync_folder(folder)

    def open(self, key: str) -> BinaryIO:
        """Open the file."""
        return (self.root / key).open("rb")

    def size(self, key: str) -> int:
        """Return the file's length."""
        return (self.root / key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove the file."""
        (self.root / key).unlink(missing_ok=True)

    def walk(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Walk the folders; a file that goes away meanwhile is left out."""
        for folder, _folders, names in os.walk(self.root):
            if names:
                relative = Path(folder).relative_to(self.root).as_posix()
                yield relative, _lengths(folder)

    def _move(self, path: Path, target: Path) -> None:
        try:
            path.rename(target)
        except FileNotFoundError:
            if not target.exists():
                raise
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_verified(path, target)
            path.unlink()


def _copy_verified(path: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    with path.open("rb") as source, part.open("w+b") as copy:
        shutil.copyfileobj(source, copy, CHUNK)
        copy.flush()
        os.fsync(copy.fileno())
        source.seek(0)
        copy.seek(0)
        if _digest(source) != _digest(copy):
            raise StorageMismatch(f"{target.name}: the copy differs from the spooled object")
    part.rename(target)
    durable.sync_folder(target.parent)  # before the caller removes the only other copy


def _digest(file: BufferedReader | BufferedRandom) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _remote() -> Iterator[None]:
    """Say what the libraries below call by many names: the bucket cannot be used now."""
    try:
        yield
    except (BotoCoreError, Boto3Error, ClientError) as error:
        raise StorageAway(f"The bucket cannot be used: {error}") from error


class BucketStorage:
    """Objects in an S3-compatible bucket (django-storages)."""

    def __init__(self, backend: S3Storage) -> None:
        self.backend = backend

    def place(self, moves: Iterable[tuple[Path, str]]) -> None:
        """Upload, compare the stored length and checksum, then remove the spooled file."""
        for path, key in moves:
            with _remote():
                if path.exists() or not self.backend.exists(key):
                    self._upload(path, key)

    def _upload(self, path: Path, key: str) -> None:
        with path.open("rb") as file:
            digest = _digest(file)
            file.seek(0)
            stored = self.backend.bucket.Object(self.backend._normalize_name(key))
            extra = {"Metadata": {"sha256": digest}}
            stored.upload_fileobj(file, ExtraArgs=extra, Config=TRANSFER)
        stored.load()
        length, kept = stored.content_length, stored.metadata.get("sha256")
        if length != path.stat().st_size or kept != digest:
            raise StorageMismatch(f"{key}: the stored object differs from the spooled one")
        path.unlink()

    def open(self, key: str) -> BinaryIO:
        """Fetch the object into an unnamed temporary file and open that."""
        self.size(key)
        file = tempfile.TemporaryFile(dir=settings.SPOOL_DIR)  # noqa: SIM115 - handed to the caller
        try:
            with _remote():
                stored = self.backend.bucket.Object(self.backend._normalize_name(key))
                stored.download_fileobj(file, Config=TRANSFER)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast("BinaryIO", file)

    def size(self, key: str) -> int:
        """Return the object's length."""
        with _remote():
            return int(self.backend.size(key))

    def delete(self, key: str) -> None:
        """Remove the object."""
        with _remote():
            self.backend.delete(key)

    def walk(self) -> Iterator[tuple[str, dict[str, int]]]:
        """List the bucket below the prefix; keys come in order, so folders come whole."""
        folder, found = "", dict[str, int]()
        for key, size in self._listed():
            parent, _, name = key.rpartition("/")
            if parent != folder and found:
                yield folder, found
                found = {}
            folder = parent
            found[name] = size
        if found:
            yield folder, found

    def _listed(self) -> Iterator[tuple[str, int]]:
        prefix = f"{self.backend.location}/".lstrip("/")
        with _remote():
            for item in self.backend.bucket.objects.filter(Prefix=prefix):
                yield item.key.removeprefix(prefix), item.size


def _lengths(folder: str) -> dict[str, int]:
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".dcm"):
                with contextlib.suppress(FileNotFoundError):
                    found[entry.name] = _length(entry)
    return found


def _length(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        raise
    except OSError:
        return UNKNOWN


@cache
def objects() -> ObjectStorage:
    """Return the storage that ``ROUTER_STORAGE_URL`` names.

    Raises:
        ImproperlyConfigured: the URL is neither ``file://`` nor ``s3://``.
    """
    url = urlsplit(settings.STORAGE_URL)
    if url.scheme == "file":
        return FileStorage(Path(url.path))
    if url.scheme == "s3" and url.netloc:
        options = parse_qs(url.query)
        return BucketStorage(
            S3Storage(
                bucket_name=url.netloc,
                location=url.path.strip("/"),
                endpoint_url=options.get("endpoint", [None])[0],
                region_name=options.get("region", [None])[0],
                file_overwrite=True,
                default_acl=None,
            )
        )
    raise ImproperlyConfigured(
        f"ROUTER_STORAGE_URL begins with {url.scheme!r}; file:// or s3://bucket is expected."
    )
