"""What every page shows around its content: navigation by permission, person, theme, version."""

from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest

from router.models import Permission, User
from router.services import clock, users
from router.services.visibility import sees_patients
from router.version import VERSION

THEMES = ("system", "light", "dark")
THEME_COOKIE = "theme"


@dataclass(frozen=True)
class Entry:
    """One line of the navigation."""

    label: str
    address: str
    icon: str
    permission: Permission


@dataclass(frozen=True)
class Link:
    """A line as one person sees it."""

    label: str
    address: str
    icon: str
    is_current: bool


NAVIGATION: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "",
        (
            Entry("Dashboard", "/", "layout-dashboard", Permission.SEE_DASHBOARD),
            Entry("Studies", "/studies/", "images", Permission.SEE_STUDIES_MASKED),
            Entry("Jobs", "/jobs/", "list-checks", Permission.SEE_STUDIES_MASKED),
            Entry("Triage", "/triage/", "layers", Permission.SEE_STUDIES_MASKED),
            Entry("Replays", "/replays/", "rotate-ccw", Permission.REPLAY),
            Entry("Quarantine", "/quarantine/", "shield-alert", Permission.SEE_STUDIES_MASKED),
            Entry("Statistics", "/statistics/", "chart-column", Permission.SEE_DASHBOARD),
        ),
    ),
    (
        "Configuration",
        (
            Entry("Rules", "/rules/", "git-branch", Permission.SEE_CONFIG),
            Entry("Destinations", "/destinations/", "send", Permission.SEE_CONFIG),
            Entry("Sources", "/sources/", "radio-tower", Permission.SEE_CONFIG),
            Entry("Revisions", "/revisions/", "history", Permission.SEE_CONFIG),
        ),
    ),
    (
        "Administration",
        (
            Entry("Audit", "/audit/", "scroll-text", Permission.SEE_AUDIT),
            Entry("Users", "/users/", "users", Permission.SEE_USERS),
            Entry("Secrets", "/secrets/", "key-round", Permission.MANAGE_SECRETS),
            Entry("System", "/system/", "activity", Permission.SEE_HEALTH),
        ),
    ),
)


def context(request: HttpRequest) -> dict[str, object]:
    """Return the frame's variables."""
    theme = request.COOKIES.get(THEME_COOKIE, "system")
    frame: dict[str, object] = {
        "theme": theme if theme in THEMES else "system",
        "environment": "" if settings.PRODUCTION else settings.ENVIRONMENT,
        "version": VERSION,
        "rendered_at": clock.now(),
    }
    person = getattr(request, "user", None)
    if isinstance(person, User):
        frame |= _personal(request, person)
    return frame


def _personal(request: HttpRequest, person: User) -> dict[str, object]:
    return {
        "navigation": _navigation(request, person),
        "sees_patients": sees_patients(person),
        "may_search": users.holds(person, Permission.SEE_STUDIES_MASKED),
        "may_manage_jobs": users.holds(person, Permission.MANAGE_JOBS),
        "may_replay": users.holds(person, Permission.REPLAY),
        "may_resolve": users.holds(person, Permission.RESOLVE_QUARANTINE),
        "may_pause": users.holds(person, Permission.PAUSE),
        "may_see_config": users.holds(person, Permission.SEE_CONFIG),
        "may_activate": users.holds(person, Permission.ACTIVATE),
        "may_see_health": users.holds(person, Permission.SEE_HEALTH),
    }


def _navigation(request: HttpRequest, person: User) -> list[tuple[str, list[Link]]]:
    groups = []
    for label, entries in NAVIGATION:
        links = [
            Link(entry.label, entry.address, entry.icon, _is_current(request.path, entry.address))
            for entry in entries
            if users.holds(person, entry.permission)
        ]
        if links:
            groups.append((label, links))
    return groups


def _is_current(path: str, address: str) -> bool:
    return path == address if address == "/" else path.startswith(address)
