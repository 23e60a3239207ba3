"""The configuration as a whole: applied in one transaction as one revision, exported, rolled back.

Whether a document is right is `router.config`'s business; here it becomes the rows, a revision, an
audit event and, after the commit, the file from which the receiver knows its sources.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import IntegrityError, transaction

from router.config import dump, plan, schema
from router.config.document import Document
from router.config.findings import ConfigError, Finding
from router.config.plan import Change
from router.models import ConfigRevision, Destination, Source
from router.services import audit, clock, working_copy
from router.services.actors import SYSTEM, Actor

SOURCES_FILE = "sources.json"
_TRIES = 5
_MAX_ACTOR, _MAX_REASON = 150, 300


class ConfigBusyError(Exception):
    """Other revisions kept coming in between; nothing was changed."""


class PublishError(OSError):
    """The revision stands, but the receiver's list of sources could not be written."""


class _OvertakenError(Exception):
    """Another revision took the number first."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: no revision where nothing changed, or where it was only tried."""

    revision: ConfigRevision | None
    changes: tuple[Change, ...]


def current() -> Document:
    """Return the configuration in force."""
    return working_copy.read()


def export() -> str:
    """Return the configuration in force as YAML; applying it is no change."""
    return dump.to_yaml(current())


def apply(document: Document, *, actor: Actor, reason: str = "", dry_run: bool = False) -> Applied:
    """Make the configuration equal to `document`, whole or not at all.

    Args:
        document: what `router.config.schema.load` returned.
        actor: who applies it.
        reason: why, for the history.
        dry_run: only say what would change.

    Raises:
        ConfigError: the rows forbid it, such as a removed role that users still have.
        ConfigBusyError: others applied at the same time, again and again.
        PublishError: applied, but the file of sources could not be written.
    """
    if dry_run:
        changes = plan.compare(current(), document)
        working_copy.check(changes)
        return Applied(None, changes)
    for _ in range(_TRIES):
        try:
            return _apply(document, actor=actor, reason=reason)
        except _OvertakenError:
            continue
    raise ConfigBusyError(f"Other revisions came in between {_TRIES} times; try again.")


def ensure_revision() -> ConfigRevision:
    """Return the newest revision; on a fresh system make revision 1 of what is there."""
    for _ in range(_TRIES):
        newest = ConfigRevision.objects.first()
        if newest is not None:
            return newest
        try:
            with transaction.atomic():
                return _record(1, current(), actor=SYSTEM, reason="first start", changes=())
        except _OvertakenError:
            continue
    raise ConfigBusyError("The first revision could not be made; try again.")


def roll_back(number: int, *, actor: Actor, reason: str = "") -> Applied:
    """Apply the document of an earlier revision, as a new revision.

    Raises:
        ConfigError: no such revision, or its document is not right any more.
    """
    revision = ConfigRevision.objects.filter(number=number).first()
    if revision is None:
        raise ConfigError([Finding(0, "", f"there is no revision {number}")])
    document = schema.from_json(revision.document)
    return apply(document, actor=actor, reason=reason or f"roll back to revision {number}")


def publish_sources() -> bool:
    """Write the list of sources, and of far ends that may report, from which the receiver judges
    callers, durably and at once.

    A lock makes the last writer the one that saw the newest revision.

    Returns:
        False when the file said so already.

    Raises:
        PublishError: it could not be written.
    """
    folder = Path(settings.DATA_DIR)
    path = folder / SOURCES_FILE
    try:
        with _locked(folder / f"{SOURCES_FILE}.lock"):
            text = _sources_text()
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return False
            _write_durably(path, text)
    except OSError as error:
        raise PublishError(error.errno, error.strerror, str(path)) from error
    return True


@transaction.atomic
def _apply(document: Document, *, actor: Actor, reason: str) -> Applied:
    """Apply once. The number is read first: whoever commits in between takes it, and we start
    again."""
    newest = ConfigRevision.objects.values_list("number", flat=True).first() or 0
    before = current()
    changes = plan.compare(before, document)
    if not changes:
        return Applied(None, ())
    working_copy.check(changes)
    if newest == 0:
        newest = _record(1, before, actor=SYSTEM, reason="before the first", changes=()).number
    revision = _record(newest + 1, document, actor=actor, reason=reason, changes=changes)
    working_copy.write(document, changes, revision=revision, actor=actor)
    _audit(revision, actor=actor)
    transaction.on_commit(publish_sources)
    return Applied(revision, changes)


def _record(
    number: int, document: Document, *, actor: Actor, reason: str, changes: tuple[Change, ...]
) -> ConfigRevision:
    """Insert a revision.

    Raises:
        _OvertakenError: the number is taken.
    """
    data = dump.to_data(document)
    try:
        with transaction.atomic():
            return ConfigRevision.objects.create(
                number=number,
                created_at=clock.now(),
                actor=actor.name[:_MAX_ACTOR],
                reason=reason[:_MAX_REASON],
                document=data,
                digest=dump.digest(data),
                changes=[change.as_dict() for change in changes],
            )
    except IntegrityError as error:
        raise _OvertakenError from error


def _audit(revision: ConfigRevision, *, actor: Actor) -> None:
    audit.record(
        "config.applied",
        actor=actor,
        code="security",
        target=f"configuration revision {revision.number}",
        details={
            "revision": revision.number,
            "digest": revision.digest,
            "reason": revision.reason,
            "changes": revision.changes,
        },
    )


def _sources_text() -> str:
    newest = ConfigRevision.objects.values_list("number", flat=True).first() or 0
    rows = Source.objects.order_by("name").values(
        "name", "ae_title", "hosts", "services", "duplicates", "enabled"
    )
    listed = {"revision": newest, "sources": list(rows), "peers": _peers()}
    return json.dumps(listed, indent=1)


def _peers() -> list[dict[str, object]]:
    """Return the far ends that may report to us what they commit to."""
    rows = Destination.objects.active().filter(kind="dicom", version__isnull=False)
    given = rows.order_by("name").values_list("name", "version__settings")
    keys = ("ae_title", "host", "calling_ae")
    return [{"name": name} | {key: one.get(key) or "" for key in keys} for name, one in given]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel lets go of it if we die."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_durably(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
