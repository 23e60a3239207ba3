"""One object of the spool: while it arrives, and once it is durable.

Bytes are hashed and counted as they are written; `commit` seals and syncs them before anyone is
told Success. It refuses to know where inboxes lie and whose they are.

The name it is written under was made and synced before (`Inbox`), so one sync makes an object
durable: that of its bytes, the seal in its file meta among them. Its final name is for the living;
after a power cut it may have its first name again, and the seal tells that it was whole.
"""

import errno
import hashlib
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from router import crashpoints
from router.dicom import header, part10
from router.dicom.errors import MalformedDataSet
from router.dicom.part10 import FileMeta
from router.facts import AssociationFacts

if TYPE_CHECKING:
    from router.spool import Inbox

OBJECT_SUFFIX = ".dcm"
PART_SUFFIX = ".part"
# An object's dirty pages are pushed out on the way, so that the last fsync stays short.
FLUSH_EVERY = 128 << 20
# A longer write takes longer runs of free memory, which a virtual machine often has to fetch from
# its host first: three times the system time for an object of 526 kB in one piece.
MOST_WRITTEN = 64 << 10
_CHUNK = 1 << 20
_NOTHING = memoryview(b"")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolError(OSError):
    """The spool could not take or give an object; `__cause__` is what the system said."""


class SpoolFull(SpoolError):
    """No room: the volume, the quota or the file size limit."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One object in the inbox, durable."""

    receipt_id: str
    association: AssociationFacts
    path: Path
    sha256: str
    size: int
    offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    received_at: datetime
    structure: header.Structure | None = None
    damage: str = ""  # what is wrong with the file itself; its UIDs and hash are then what it holds

    @property
    def quarantine(self) -> str:
        """Why the object must be kept apart, as far as its structure is known; '' for no reason."""
        return (self.structure.quarantine or "") if self.structure else ""

    def examined(self) -> "Spooled":
        """The same with its structure, read from the file when it is not known yet.

        Raises `router.dicom.errors.DicomError` kinds for data that is not well-formed.
        """
        if self.structure is not None:
            return self
        with self.path.open("rb") as file:
            structure = header.examine(
                file, offset=self.offset, size=self.size, transfer_syntax=self.transfer_syntax
            )
        return replace(self, structure=structure)


class SpoolFile:
    """One object while it arrives: hashed and counted as it is written.

    `write` never keeps a reference to what it is given. Any failure removes the file.
    """

    def __init__(
        self, inbox: "Inbox", receipt_id: str, *, meta: bytes, uids: tuple[str, str, str]
    ) -> None:
        """`meta` ends with room for a seal. The part of this receipt is there, empty."""
        self.receipt_id = receipt_id
        self.size = 0
        self.offset = len(meta)
        self._inbox = inbox
        self._uids = uids
        self._part = inbox.folder / f"{receipt_id}{PART_SUFFIX}"
        self._hash = hashlib.sha256()
        self._flushed = 0
        self._structure: header.Structure | None = None
        self._meta = memoryview(meta)
        self._fd = _open(self._part)
        crashpoints.reach("receive.part_opened")

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: memoryview) -> None:
        """Append data set bytes. Raises `SpoolFull` or `SpoolError`; the file is gone then."""
        self._put(data)
        self._hash.update(data)
        self.size += len(data)
        if self.size - self._flushed >= FLUSH_EVERY:
            self._flush()

    def examine(self) -> header.Structure:
        """Walk the data set written so far to its end. Raises errors of `router.dicom.errors`."""
        self._begin()
        with os.fdopen(os.dup(self._fd), "rb") as file:
            self._structure = header.examine(
                file, offset=self.offset, size=self.size, transfer_syntax=self._uids[2]
            )
        return self._structure

    def commit(self) -> Spooled:
        """Make the object durable under its final name; only then may Success be answered.

        Its first name is synced already, and so are the facts of the association, since the first
        object began. Raises `SpoolFull` or `SpoolError`; the file is gone then.
        """
        self._begin()
        sop_class, sop_instance, transfer_syntax = self._uids
        digest = self.sha256
        path = self._inbox.folder / f"{self.receipt_id}.{digest}{OBJECT_SUFFIX}"
        try:
            self._write_seal(part10.SEAL.pack(self.size, self._hash.digest()))
            crashpoints.reach("receive.before_fsync")
            os.fdatasync(self._fd)
            crashpoints.reach("receive.after_fsync")
            self._part.rename(path)
            crashpoints.reach("receive.after_rename")
        except OSError as error:
            self._break_seal()
            raise self._failed(error) from error
        self._close()
        return Spooled(
            receipt_id=self.receipt_id,
            association=self._inbox.facts,
            path=path,
            sha256=digest,
            size=self.size,
            offset=self.offset,
            sop_class_uid=sop_class,
            sop_instance_uid=sop_instance,
            transfer_syntax=transfer_syntax,
            received_at=datetime.now(UTC),
            structure=self._structure,
        )

    def discard(self) -> None:
        """Drop the object. Harmless when it is gone already."""
        self._close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Write the file meta if no data set has come."""
        if self._meta:
            self._put(_NOTHING)

    def _put(self, data: memoryview) -> None:
        """Write, the file meta before the first bytes in one call with them."""
        meta, self._meta = self._meta, _NOTHING
        done, size = 0, len(meta) + len(data)
        try:
            while done < size:
                rest = max(0, done - len(meta))
                until = rest + MOST_WRITTEN
                done += os.writev(self._fd, (meta[done:], data[rest:until]))
        except OSError as error:
            raise self._failed(error) from error

    def _write_seal(self, seal: bytes) -> None:
        os.pwrite(self._fd, seal, self.offset - len(seal))

    def _break_seal(self) -> None:
        """What is refused must not pass for whole, should its removal not last."""
        with suppress(OSError):
            self._write_seal(part10.NO_SEAL)

    def _flush(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        self._flushed = self.size

    def _failed(self, error: OSError) -> SpoolError:
        self.discard()
        return spool_error(error)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sha256_of(file: BinaryIO, offset: int) -> str:
    """The SHA-256 of what stands in a file from `offset` on, in hexadecimal."""
    found = hashlib.sha256()
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        found.update(chunk)
    return found.hexdigest()


def make_parts(folder: Path, count: int) -> list[str]:
    """Make empty parts; their receipt ids. The caller syncs the folder.

    Raises OSError when not even one can be made.
    """
    made: list[str] = []
    for _ in range(count):
        receipt_id = uuid.uuid4().hex
        try:
            os.close(_open(folder / f"{receipt_id}{PART_SUFFIX}", os.O_CREAT | os.O_EXCL))
        except SpoolError:
            if not made:
                raise
            break
        made.append(receipt_id)
    return made


def settle_part(path: Path) -> bool:
    """Give a part of a dead process its final name when it is sealed; else remove it.

    A part shorter than its seal says was never acknowledged: its bytes were not synced. The hash is
    compared later, by whoever indexes it. Raises OSError when it cannot be read.
    """
    with path.open("r+b") as file:
        sha256 = _sealed(file)
        if sha256:
            os.fsync(file.fileno())
    if sha256:
        path.rename(path.with_name(f"{path.stem}.{sha256}{OBJECT_SUFFIX}"))
    else:
        path.unlink()
    return bool(sha256)


def _sealed(file: BinaryIO) -> str:
    """The SHA-256 in a part's seal; '' when the part is not whole."""
    try:
        meta = part10.read_meta(file, ours=True)
    except MalformedDataSet:
        return ""
    if len(meta.seal) != part10.SEAL.size or meta.seal == part10.NO_SEAL:
        return ""
    size, digest = part10.SEAL.unpack(meta.seal)
    is_whole = os.fstat(file.fileno()).st_size >= meta.offset + size
    return digest.hex() if is_whole else ""


def read_own_meta(file: BinaryIO, receipt_id: str) -> tuple[FileMeta, str]:
    """The file meta that we wrote, and '', or a stand-in and what is wrong with it.

    The stand-in's UID is derived from our receipt (PS3.5 B.2) and all bytes count as data.
    """
    stand_in = FileMeta("", f"2.25.{int(receipt_id, 16)}", "", 0)
    try:
        meta = part10.read_meta(file, ours=True)
        file.seek(0)
        if file.read(meta.offset) == _written(meta):
            return meta, ""
    except MalformedDataSet as error:
        return stand_in, f"its file meta: {error}"
    except UnicodeEncodeError:  # a UID with other characters than we write
        pass
    return stand_in, "its file meta is not what was written"


def _written(meta: FileMeta) -> bytes:
    return part10.file_meta(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax=meta.transfer_syntax,
        seal=meta.seal,
    )


def difference(promised: str, found: str) -> str:
    """Say that bytes have another SHA-256 than was acknowledged; '' when they have not."""
    if promised == found:
        return ""
    return f"SHA-256 is {found[:16]}…, acknowledged was {promised[:16]}…"


def _open(path: Path, flags: int = 0) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        raise spool_error(error) from error


def spool_error(error: OSError) -> SpoolError:
    kind = SpoolFull if error.errno in _FULL else SpoolError
    failure = kind(error.errno, error.strerror)
    failure.__cause__ = error
    return failure
