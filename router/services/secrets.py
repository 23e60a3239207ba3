"""Stored secrets: put, removed, revealed to senders, and wrapped anew under the newest key (R55).

What is put in comes out for a sender only; no page, export, audit event or log ever holds it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db import transaction

from router import secrets
from router.config.entry import NAME
from router.models import Destination, Secret
from router.services import audit, clock
from router.services.actors import Actor

MOST_CHARACTERS = 4096
BATCH = 100
SUFFIX = "_stored"


class SecretError(Exception):
    """What was asked cannot be done; the sentence says why and what was expected."""


@dataclass(frozen=True, slots=True)
class Known:
    """A stored secret as people may see it: by which destinations it is named, and how old."""

    row: Secret
    uses: tuple[str, ...]
    is_current: bool


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many envelopes were wrapped anew, and those that do not open, with the reason."""

    key_id: str
    count: int
    unreadable: tuple[tuple[str, str], ...]


def put(name: str, value: str, *, actor: Actor) -> bool:
    """Keep `value` under `name`, in place of what was there; tell whether the name is new.

    Raises:
        SecretError: the name is none, or the value is empty, too long or no single line.
    """
    if not NAME.match(name):
        raise SecretError(f"{name!r} is no name; 1 to 64 of A-Z a-z 0-9 _ - are expected.")
    if not value or len(value) > MOST_CHARACTERS or not value.isprintable():
        raise SecretError(f"One line of 1 to {MOST_CHARACTERS} printable characters is expected.")
    now = clock.now()
    with transaction.atomic():
        fields = {"envelope": b"", "key_id": "", "changed_at": now, "changed_by": ""}
        row, is_new = Secret.objects.get_or_create(name=name, defaults=fields)
        row.envelope = secrets.seal(value, place=row.place)
        row.key_id = secrets.key_of(row.envelope)
        row.changed_at, row.changed_by = now, actor.name[:150]
        row.save(update_fields=["envelope", "key_id", "changed_at", "changed_by"])
        event = "secret.stored" if is_new else "secret.replaced"
        audit.record(event, actor=actor, code="security", target=f"secret {name}")
    return is_new


@transaction.atomic
def remove(name: str, *, actor: Actor) -> None:
    """Forget a stored secret.

    Raises:
        SecretError: there is none, or a destination names it.
    """
    if used := uses().get(name):
        raise SecretError(
            f"'{name}' is still named by {', '.join(used)}; change the configuration first."
        )
    deleted, _ = Secret.objects.filter(name=name).delete()
    if not deleted:
        raise SecretError(f"No secret '{name}' is stored.")
    audit.record("secret.removed", actor=actor, code="security", target=f"secret {name}")


def reveal(name: str) -> str:
    """Return a stored secret, for a sender.

    Raises:
        secrets.Unresolved: there is none, or its envelope does not open.
    """
    row = Secret.objects.filter(name=name).first()
    if row is None:
        raise secrets.Unresolved(f"no secret '{name}' is stored")
    try:
        return secrets.unseal(bytes(row.envelope), place=row.place)
    except secrets.Unreadable as error:
        raise secrets.Unreadable(f"the stored secret '{name}' does not open: {error}") from error


def known() -> list[Known]:
    """Return every stored secret by name, without its value."""
    newest, used = secrets.newest_key(), uses()
    return [
        Known(row, tuple(used.get(row.name, ())), row.key_id == newest)
        for row in Secret.objects.defer("envelope")
    ]


def uses() -> dict[str, list[str]]:
    """Return which destinations of the configuration name each secret."""
    found: dict[str, list[str]] = {}
    for row in Destination.objects.present().select_related("version"):
        for name in named(row.version.settings if row.version else {}):
            found.setdefault(name, []).append(row.name)
    return found


def named(settings: dict[str, object]) -> set[str]:
    """Return the names of the stored secrets in the settings of a destination."""
    return {str(value) for key, value in settings.items() if key.endswith(SUFFIX) and value}


def missing(names: Iterable[str]) -> set[str]:
    """Return which of `names` no secret is stored under."""
    wanted = set(names)
    return wanted - set(Secret.objects.filter(name__in=wanted).values_list("name", flat=True))


def rotate(*, actor: Actor, batch: int = BATCH) -> Rotation:
    """Wrap every envelope that is under an older key anew under the newest, while all is in use.

    Each write holds only if nobody changed the row in between; then its turn comes again.
    """
    count, unreadable = 0, dict[str, str]()
    while rows := _older(batch, besides=unreadable):
        with transaction.atomic():
            for row in rows:
                try:
                    count += _rewrap(row)
                except secrets.Unreadable as error:
                    unreadable[row.name] = str(error)
    newest = secrets.newest_key()
    details = {"count": count, "key": newest, "unreadable": sorted(unreadable)}
    audit.record("secrets.rotated", actor=actor, code="security", details=details)
    return Rotation(newest, count, tuple(sorted(unreadable.items())))


def _older(most: int, *, besides: Iterable[str]) -> list[Secret]:
    older = Secret.objects.exclude(key_id=secrets.newest_key()).exclude(name__in=list(besides))
    return list(older.order_by("pk")[:most])


def _rewrap(row: Secret) -> int:
    before = bytes(row.envelope)
    after = secrets.seal(secrets.unseal(before, place=row.place), place=row.place)
    same = Secret.objects.filter(pk=row.pk, envelope=before)
    return same.update(envelope=after, key_id=secrets.key_of(after))
