"""Files put below a root folder, whole or not at all, and never outside of it.

Walks by file descriptor from the root, so that no link can lead elsewhere between check and use; a
link that stays inside the root is followed. Knows nothing of DICOM.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

MOST_VERSIONS = 1000
SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,7}\Z")
NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOENT})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Outside(Exception):
    """The path leads out of the root, or through something that is no folder."""


@contextmanager
def folder(root: Path, parts: tuple[str, ...], *, mode: int) -> Iterator[int]:
    """Open the folder `parts` below `root`, making what is missing with `mode`, durably.

    Raises:
        Outside: a part is no plain name, or a link that leads out of the root, or a file.
    """
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise Outside("a part of the path is no plain name")
    opened = _open_below(root, parts, partial(_step, mode=mode))
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def existing(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """Open the folder `parts` below `root`; nothing is made.

    Raises:
        FileNotFoundError: a part is not there. Outside: a part leads out of the root, or is a file.
    """
    opened = _open_below(root, parts, _enter)
    try:
        yield opened
    finally:
        os.close(opened)


def _open_below(root: Path, parts: tuple[str, ...], step: Callable[[Path, int, str], int]) -> int:
    current = os.open(root, _FOLDER)
    try:
        for part in parts:
            following = step(root, current, part)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def _step(root: Path, current: int, part: str, mode: int) -> int:
    try:
        os.mkdir(part, dir_fd=current)
    except FileExistsError:
        return _enter(root, current, part)
    opened = _enter(root, current, part)
    os.fchmod(opened, mode)
    os.fsync(current)
    return opened


def _enter(root: Path, current: int, part: str) -> int:
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=current)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        return _through_link(root, current, part)


def _through_link(root: Path, current: int, part: str) -> int:
    """Follow a link that stays inside the root: its target is walked anew, without links."""
    inside = root.resolve(strict=True)
    target = (Path(f"/proc/self/fd/{current}") / part).resolve(strict=False)
    if not target.is_dir() or not target.is_relative_to(inside):
        raise Outside("a part of the path is a file, or a link that leads out of the folder")
    opened = os.open(inside, _FOLDER)
    for step in target.relative_to(inside).parts:
        try:
            following = os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=opened)
        finally:
            os.close(opened)
        opened = following
    return opened


def versions(name: str) -> Iterator[str]:
    """Yield `name`, then `name` with -2, -3 and so on before its suffix."""
    yield name
    found = SUFFIX.search(name)
    at = found.start() if found else len(name)
    for number in range(2, MOST_VERSIONS):
        yield f"{name[:at]}-{number}{name[at:]}"


class Draft:
    """A file being written in an open folder, unseen until it is published."""

    def __init__(self, folder_fd: int, *, mode: int) -> None:
        self._folder, self._name = folder_fd, ""
        try:
            self.fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, dir_fd=folder_fd)
        except OSError as error:
            if error.errno not in NO_UNNAMED_FILES:
                raise
            self._name = f".{uuid.uuid4().hex}.part"
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(self._name, flags, 0o600, dir_fd=folder_fd)
        os.fchmod(self.fd, mode)

    def write(self, data: memoryview | bytes) -> None:
        """Append all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def sync(self) -> None:
        """Make the content durable."""
        os.fsync(self.fd)

    def publish(self, name: str) -> None:
        """Give the file its name, durably.

        Raises:
            FileExistsError: the name is taken; nothing is overwritten.
        """
        try:
            self._link(name)
        except OSError as error:
            if isinstance(error, FileExistsError) or error.errno not in NO_LINKS or not self._name:
                raise
            self._replace_placeholder(name)
        os.fsync(self._folder)

    def _link(self, name: str) -> None:
        if self._name:
            os.link(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        else:
            os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=self._folder)

    def _replace_placeholder(self, name: str) -> None:
        """Where there are no hard links: take the name with an empty file, then rename."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o600, dir_fd=self._folder))
        os.rename(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Let go; what was not published is gone."""
        os.close(self.fd)
        if self._name:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._folder)


def publish_as(
    draft: Callable[[], Draft], folder_fd: int, name: str, *, is_same: Callable[[int], bool]
) -> tuple[str, bool]:
    """Publish a draft under the first free version of `name`; return the name and whether a file
    with the same content was there before, in which case nothing is written.

    Raises:
        FileExistsError: every version of the name is taken.
    """
    for version in versions(name):
        if _is_there(folder_fd, version, is_same):
            return version, True
        if _exists(folder_fd, version):
            continue
        try:
            draft().publish(version)
        except FileExistsError:
            if _is_there(folder_fd, version, is_same):
                return version, True
            continue
        return version, False
    raise FileExistsError(errno.EEXIST, "every version of the name is taken")


def _exists(folder_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_there(folder_fd: int, name: str, is_same: Callable[[int], bool]) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        found = os.open(name, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EACCES, errno.ENXIO):
            return False
        raise
    try:
        return is_same(found)
    finally:
        os.close(found)
