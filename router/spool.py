"""The spool: objects on their way in, durable before anyone is told Success.

One folder an association below `inbox/`, named by our id. It holds `association.json` (who sent,
written and synced before the first object can be acknowledged), one `<receipt>.<sha256>.dcm` an
acknowledged object and one `<receipt>.part` an object still arriving. Parts are made some ahead, so
that one sync of the folder serves many. A folder belongs to one live process; the folders of dead
processes are adopted by others, which is how nothing acknowledged gets lost: a part with a seal is
an object too. The inbox is the write-ahead log of the index.

It refuses to know the database, and to use anything received as part of a path.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from router import durable
from router.dicom import part10
from router.facts import AssociationFacts, Counts, Duplicates, EndFacts, Origin
from router.owners import Owner, Owners
from router.spool_file import (
    OBJECT_SUFFIX,
    PART_SUFFIX,
    Spooled,
    SpoolError,
    SpoolFile,
    SpoolFull,
    difference,
    make_parts,
    read_own_meta,
    settle_part,
    sha256_of,
    spool_error,
)

__all__ = [
    "AssociationFacts",
    "Counts",
    "Duplicates",
    "EndFacts",
    "Inbox",
    "Origin",
    "Spool",
    "SpoolError",
    "SpoolFile",
    "SpoolFull",
    "Spooled",
]

log = logging.getLogger(__name__)

FACTS = "association.json"
END = "association_end.json"
NEW_PREFIX = ".new-"
STALE_AFTER = 3600.0
MOST_AHEAD = 32
_NOBODY = Owner(pid=0, process_start=0, boot_id="", lock="0" * 32)
_OBJECT_NAME = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{64}\.dcm")


class Inbox:
    """One association's folder: written by its owner, or read by whoever adopts it.

    The folder comes to be with the first object, so an association that stores nothing leaves
    nothing. One thread at a time writes to it.
    """

    def __init__(self, folder: Path, facts: AssociationFacts, owner: Owner) -> None:
        self.folder = folder
        self.facts = facts
        self.owner = owner
        self._fd = -1
        self._parts: list[str] = []  # receipt ids of empty parts that are durable
        self._ahead = 1

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The inbox that lies in `folder`. Raises OSError or ValueError when it is not one."""
        data = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        try:
            owner = Owner.from_dict(data.pop("owner"))
            return cls(folder, AssociationFacts.from_dict(data), owner)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder.name}: not the facts of an association") from error

    def create(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str
    ) -> SpoolFile:
        """Begin one object. Raises `SpoolFull` or `SpoolError`."""
        self._establish()
        if not self._parts:
            self._make_parts()
        meta = part10.file_meta(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax=transfer_syntax,
            seal=part10.NO_SEAL,
        )
        uids = (sop_class_uid, sop_instance_uid, transfer_syntax)
        file = SpoolFile(self, self._parts[-1], meta=meta, uids=uids)
        self._parts.pop()  # only now: one that could not be opened serves the next object
        return file

    def closed(self, ended_at: datetime, reason: str, counts: Counts) -> None:
        """Note how the association ended, for an adopter; let go of the folder."""
        if self._fd < 0:
            return
        self._drop_parts()
        end = {"ended_at": ended_at.isoformat(), "reason": reason, **asdict(counts)}
        try:
            durable.write(self.folder / END, json.dumps(end))
        except OSError as error:
            raise spool_error(error) from error
        finally:
            os.close(self._fd)
            self._fd = -1

    def end(self) -> EndFacts | None:
        """How the association ended, when its owner came to say so."""
        try:
            data = json.loads((self.folder / END).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return EndFacts(**{**data, "ended_at": datetime.fromisoformat(data["ended_at"])})

    def leftovers(self, *, verify: bool = False) -> Iterator[Spooled]:
        """The acknowledged objects in the folder, oldest first, not examined.

        One that leaves meanwhile is passed over. One whose file meta cannot be read, or with
        `verify` whose bytes are not those its name promises, says so (`Spooled.damage`).
        """
        paths = [path for path in _entries(self.folder) if _OBJECT_NAME.fullmatch(path.name)]
        for path in sorted(paths, key=_modified):
            try:
                yield self._spooled(path, verify=verify)
            except FileNotFoundError:
                continue

    def settle_parts(self) -> bool:
        """Keep the parts that are whole, remove the others. Only for who adopted the folder.

        False when one cannot be read now: it stays a part, and is to be settled again.
        """
        is_settled = True
        for path in [path for path in _entries(self.folder) if path.suffix == PART_SUFFIX]:
            try:
                settle_part(path)
            except OSError as error:
                is_settled = False
                log.error("inbox.part_unreadable", extra={"path": str(path), "error": str(error)})
        return is_settled

    def remove_if_empty(self) -> bool:
        """Remove the folder when it holds no object, arriving or acknowledged."""
        kept = {OBJECT_SUFFIX, PART_SUFFIX}
        if self._fd >= 0 or any(path.suffix in kept for path in _entries(self.folder)):
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    def _spooled(self, path: Path, *, verify: bool) -> Spooled:
        receipt_id, sha256 = path.stem.split(".")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            meta, damage = read_own_meta(file, receipt_id)
            if verify or damage:
                found = sha256_of(file, meta.offset)
                damage = damage or difference(sha256, found)
                sha256 = found
        if damage:
            log.error("inbox.object_damaged", extra={"path": str(path), "error": damage})
        return Spooled(
            receipt_id=receipt_id,
            association=self.facts,
            path=path,
            sha256=sha256,
            size=status.st_size - meta.offset,
            offset=meta.offset,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax=meta.transfer_syntax,
            received_at=datetime.fromtimestamp(status.st_mtime, UTC),
            damage=damage,
        )

    def _establish(self) -> None:
        """Make the folder with its facts in it, durable, in one step that others can see."""
        if self._fd >= 0:
            return
        made = self.folder.with_name(f"{NEW_PREFIX}{self.folder.name}")
        try:
            durable.make_folder(self.folder.parent)
            made.mkdir()
            self._parts = make_parts(made, self._ahead)
            durable.write(made / FACTS, self._facts_json(self.owner))
            made = made.rename(self.folder)
            durable.sync_folder(self.folder.parent)
            self._fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._parts = []
            shutil.rmtree(made, ignore_errors=True)
            raise spool_error(error) from error

    def _make_parts(self) -> None:
        """Make the names of the next objects durable: twice as many each time."""
        self._ahead = min(2 * self._ahead, MOST_AHEAD)
        made = make_parts(self.folder, self._ahead)
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._remove_parts(made)
            raise spool_error(error) from error
        self._parts = made

    def _drop_parts(self) -> None:
        """Remove the parts that no object came for."""
        self._remove_parts(self._parts)
        self._parts = []

    def _remove_parts(self, receipt_ids: Iterable[str]) -> None:
        for receipt_id in receipt_ids:
            with suppress(OSError):
                (self.folder / f"{receipt_id}{PART_SUFFIX}").unlink(missing_ok=True)

    def take_over(self, owner: Owner) -> None:
        """Write the new owner into the facts. Only by `Spool.adopt`."""
        durable.write(self.folder / FACTS, self._facts_json(owner))
        self.owner = owner

    def _facts_json(self, owner: Owner) -> str:
        return json.dumps({**self.facts.to_dict(), "owner": owner.to_dict()})


class Spool:
    """The spool below one root, as one process sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inbox = root / "inbox"
        self._owners = Owners(root / "owners")

    def open_inbox(self, facts: AssociationFacts) -> Inbox:
        """An inbox for a new association; nothing is written before its first object."""
        if not _is_id(facts.id):
            raise ValueError(f"an association's id is 32 hex digits, not {facts.id!r}")
        return Inbox(self._inbox / facts.id, facts, self._owners.me())

    def inboxes(self) -> Iterator[Inbox]:
        """Every inbox on disk, of any owner. One whose facts are damaged is logged, not hidden."""
        for folder in filter(lambda path: _is_id(path.name), _entries(self._inbox)):
            try:
                yield Inbox.read(folder)
            except FileNotFoundError:
                if folder.exists():
                    log.error("inbox.without_facts", extra={"association": folder.name})
            except ValueError as error:
                log.error("inbox.damaged", extra={"association": folder.name, "error": str(error)})

    def mine(self) -> list[Inbox]:
        """The inboxes on disk that this process owns, opened or adopted."""
        me = self._owners.me()
        return [inbox for inbox in self.inboxes() if inbox.owner == me]

    def abandoned(self) -> list[Inbox]:
        """The inboxes whose owning process is dead. Adopt one before touching it."""
        self._restore_facts()
        alive: dict[Owner, bool] = {self._owners.me(): True}
        found = []
        for inbox in self.inboxes():
            if inbox.owner not in alive:
                alive[inbox.owner] = self._owners.is_alive(inbox.owner)
            if not alive[inbox.owner]:
                found.append(inbox)
        return found

    def _restore_facts(self) -> None:
        """Let a folder whose facts are lost be adopted: what it holds was acknowledged."""
        for folder in filter(lambda path: _is_id(path.name), _entries(self._inbox)):
            try:
                Inbox.read(folder)
            except (FileNotFoundError, ValueError):
                if any(map(_may_be_object, _entries(folder))):
                    _write_stand_in(folder)

    def adopt(self, inbox: Inbox) -> bool:
        """Make an abandoned inbox ours; its parts are still to be settled.

        False when another process was quicker or the owner lives after all.
        """
        with self._owners.claim(inbox.owner) as is_claimed:
            if not is_claimed:
                return False
            try:
                current = Inbox.read(inbox.folder)
            except FileNotFoundError:
                return False
            if current.owner != inbox.owner:
                return False
            inbox.take_over(self._owners.me())
        return True

    def remove_finished(self, association_id: str) -> bool:
        """Remove the folder of an ended association once its last object has left."""
        folder = self._inbox / association_id
        if not _is_id(association_id) or not (folder / END).exists():
            return False
        return Inbox.read(folder).remove_if_empty()

    def sweep(self) -> None:
        """Remove what dead processes left that holds no object: half-made folders, lock files."""
        keep = frozenset(inbox.owner.lock for inbox in self.inboxes())
        self._owners.sweep(keep=keep)
        for folder in _entries(self._inbox):
            if folder.name.startswith(NEW_PREFIX) and _age(folder) > STALE_AFTER:
                shutil.rmtree(folder, ignore_errors=True)

    def free_bytes(self) -> int:
        """Room left on the spool's volume for processes without privilege."""
        try:
            status = os.statvfs(self.root)
        except FileNotFoundError:
            durable.make_folder(self.root)
            status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize


def _write_stand_in(folder: Path) -> None:
    """Facts of an association of which nothing but our id is known, of an owner long dead."""
    facts = AssociationFacts(
        id=folder.name,
        origin="dimse",
        calling_ae="",
        called_ae="",
        remote_host="",
        remote_port=0,
        source=None,
        duplicates="quarantine",
        started_at=datetime.fromtimestamp(folder.stat().st_mtime, UTC),
    )
    with suppress(FileNotFoundError):
        (folder / FACTS).rename(folder / f"{FACTS}.damaged")
    Inbox(folder, facts, _NOBODY).take_over(_NOBODY)
    log.error("inbox.facts_lost", extra={"association": folder.name})


def _may_be_object(path: Path) -> bool:
    if _OBJECT_NAME.fullmatch(path.name):
        return True
    with suppress(FileNotFoundError):
        return path.suffix == PART_SUFFIX and path.stat().st_size > 0
    return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _is_id(name: str) -> bool:
    return len(name) == 32 and all(c in "0123456789abcdef" for c in name)


def _modified(path: Path) -> int:
    """When a file was written, in nanoseconds; now when it is gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return time.time_ns()


def _age(path: Path) -> float:
    return time.time() - _modified(path) / 1e9
