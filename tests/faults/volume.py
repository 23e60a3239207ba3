"""Volumes that fill up or lose their power: a small tmpfs, and ext4 on a loop device.

Both need the right to mount; without it `NoRights` says so, and a proof that needs them fails.
"""

import fcntl
import os
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class NoRights(AssertionError):
    """This machine does not let us mount, or has no loop devices."""


class Volume:
    """A mounted file system that can be filled."""

    folder: Path

    def fill(self, leave: int = 0) -> Path:
        """Write a ballast file until nothing, or `leave` bytes, is left; return it."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while (free := self.free()) > leave:
                file.write(b"\0" * min(1 << 20, max(1, free - leave)))
        return ballast

    def free(self) -> int:
        """Bytes left."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def take_inodes(self) -> list[Path]:
        """Make empty files until no inode is left; return them."""
        made: list[Path] = []
        with suppress(OSError):
            for number in range(1_000_000):
                path = self.folder / f"empty-{number}"
                path.touch()
                made.append(path)
        return made


class Tmpfs(Volume):
    """A small file system in memory: `with Tmpfs(folder, "size=64m"): ...`."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder, self._options = folder, options

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", self._options, "tmpfs", str(self.folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unmount(self.folder)


class PowerVolume(Volume):
    """An ext4 image on a loop device whose power can be cut: what was not synced is gone."""

    def __init__(self, folder: Path, *, megabytes: int = 2048) -> None:
        self.image = folder / "disk.img"
        self.folder = folder / "disk"
        self._megabytes = megabytes
        self._device = ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(self._megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", str(self.image))
        self._device = _run("losetup", "--find", "--show", str(self.image)).strip()
        self.mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unmount(self.folder)
        _run("losetup", "--detach", self._device)
        self.image.unlink()

    def mount(self) -> None:
        """Mount; the journal is replayed."""
        _run("mount", "-t", "ext4", self._device, str(self.folder))

    def cut(self) -> None:
        """Stop the file system without flushing its log; every call from now on is an error."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        except OSError as error:
            raise NoRights(f"the ext4 shutdown is refused: {error}") from error
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Unmount what was cut, replay the journal, check the file system, mount again."""
        unmount(self.folder)
        self.mount()
        unmount(self.folder)
        _run("e2fsck", "-f", "-n", self._device)
        self.mount()


def unmount(folder: Path) -> None:
    """Unmount, waiting for processes that are just ending."""
    for _ in range(50):
        if (
            subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode
            == 0
        ):
            return
        time.sleep(0.2)
    _run("umount", str(folder))


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError as error:
        raise NoRights(f"{command[0]} is not installed") from error
    if done.returncode:
        raise NoRights(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
