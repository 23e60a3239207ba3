"""Refuse, in production, a database that forgets what it has committed (R3)."""

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection

SQLITE_FULL = 2
_POSTGRES = {
    "fsync": "a power cut would corrupt the database",
    "synchronous_commit": "a crash would lose commits that were answered",
    "full_page_writes": "a power cut would tear pages",
}


def problems() -> list[str]:
    """Return one sentence for each setting of the database that risks committed rows."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA synchronous")
            level = cursor.fetchone()[0]
            return [] if level >= SQLITE_FULL else ["SQLite's synchronous is below FULL."]
        found = []
        for name, consequence in _POSTGRES.items():
            cursor.execute("SELECT current_setting(%s)", [name])
            if cursor.fetchone()[0] == "off":
                found.append(f"PostgreSQL's {name} is off: {consequence}.")
        return found


def refuse_unsafe_database() -> None:
    """Check the database before a process of production serves.

    A database that is away is no reason to refuse: the receiver goes on without it.

    Raises:
        ImproperlyConfigured: it would lose what it acknowledged; a sentence for each reason.
    """
    if not settings.PRODUCTION:
        return
    try:
        found = problems()
    except OperationalError:
        return
    if found:
        raise ImproperlyConfigured("Refused in production:\n- " + "\n- ".join(found))
