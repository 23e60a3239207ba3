"""Stocktaking: compare the files on storage with the rows, folder by folder, in bounded memory.

A file is seen before its row is asked for, and rows are written before files are moved; so what
looks like a gap while the product runs is looked at once more before it is called one.
"""

import hashlib
from collections.abc import Iterator

from router import storage
from router.models import Instance
from router.services import archive

CHUNK = 1 << 20
FOLDERS_AT_ONCE = 400

Gap = tuple[str, str]
Folder = tuple[int, dict[str, int]]


def take(*, deep: bool) -> Iterator[Gap | int]:
    """Compare every file with its row and every row with its file.

    Args:
        deep: also hash each object.

    Yields:
        Gaps as (kind, sentence), and last the number of objects that were compared.
    """
    seen: set[int] = set()
    count = 0
    for folders in _some_folders():
        seen.update(series_id for series_id, _files in folders)
        files = {name: size for _series_id, listing in folders for name, size in listing.items()}
        rows = Instance.objects.kept().filter(series_id__in=[pk for pk, _files in folders])
        for instance in rows.iterator(chunk_size=2000):
            count += 1
            yield from _compare(instance, files.pop(f"{instance.file_id}.dcm", None), deep=deep)
        yield from _strangers(files)
    for instance in Instance.objects.kept().exclude(series_id__in=seen).iterator(2000):
        count += 1
        yield from _compare(instance, None, deep=deep)
    yield count


def _some_folders() -> Iterator[list[Folder]]:
    some: list[Folder] = []
    for folder, files in storage.objects().walk():
        name = folder.rsplit("/", 1)[-1]
        some.append((int(name) if name.isdigit() else 0, files))
        if len(some) >= FOLDERS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _compare(instance: Instance, size: int | None, *, deep: bool) -> Iterator[Gap]:
    """Compare an object with its file.

    Raises:
        OSError: the storage is away; what is wrong with one file alone is a gap.
    """
    try:
        yield from _differences(instance, size, deep=deep)
    except OSError as error:
        if storage.is_passing(error):
            raise
        cause = error.strerror or "input error"
        yield "files", f"instance {instance.sop_instance_uid} cannot be read: {cause}"


def _differences(instance: Instance, size: int | None, *, deep: bool) -> Iterator[Gap]:
    expected = instance.offset + instance.size
    if size is None or size == storage.UNKNOWN:
        size = _look_again(instance)
    if size is None:
        if Instance.objects.kept().filter(pk=instance.pk).exists():
            yield "files", f"instance {instance.sop_instance_uid} has no file"
    elif size != expected:
        yield "files", f"instance {instance.sop_instance_uid} has {size} bytes, not {expected}"
    elif deep and digest(instance) != instance.sha256:
        yield "hashes", f"instance {instance.sop_instance_uid} has changed on storage"


def _look_again(instance: Instance) -> int | None:
    """Return the length of an object's file, wherever it is now; None when it is nowhere."""
    try:
        return archive.stored_size(instance)
    except FileNotFoundError:
        return None


def _strangers(files: dict[str, int]) -> Iterator[Gap]:
    """Name files without a row; one whose row came meanwhile is none."""
    if not files:
        return
    ids = {name.removesuffix(".dcm") for name in files}
    known = set(Instance.objects.kept().filter(file_id__in=ids).values_list("file_id", flat=True))
    for file_id in sorted(ids - known):
        yield "files", f"{file_id}.dcm has no row"


def digest(instance: Instance) -> str:
    """Return the SHA-256 of a stored object's data set."""
    found = hashlib.sha256()
    with archive.opened(instance) as file:
        file.seek(instance.offset)
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
