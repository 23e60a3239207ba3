"""The audit log, the people and their roles, and the state of the machine; read only."""

import platform
from collections.abc import Iterable

import django
import pydicom
import pynetdicom
from django.conf import settings
from django.db import connection
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.http import require_safe

from router.forms import AuditFilter
from router.models import AuditEvent, AuditOutcome, LedgerCheck, Permission, Role, User
from router.services import access, audit, health, overview, reckoning, visibility
from router.services import users as people
from router.services.access import requires
from router.version import VERSION
from router.views.listing import as_csv, page, shown, wants_csv

AUDIT_SORTS = {"at": "id"}
AUDIT_HEADS = (
    "Number", "At", "Event", "Code", "Outcome", "Who", "Kind", "From", "Study Instance UID",
    "Target", "Details",
)  # fmt: skip
USER_SORTS = {"name": "username", "last": "last_login"}


@requires(Permission.SEE_AUDIT)
@require_safe
def audit_log(request: HttpRequest) -> HttpResponseBase:
    """List the events that match; as CSV for those who may export them."""
    user = access.person(request)
    filters = AuditFilter(request.GET, user=user)
    events = visibility.visible_events(user).filter(filters.conditions())
    may_export = people.holds(user, Permission.EXPORT_AUDIT)
    if wants_csv(request) and may_export:
        audit.record("audit.exported", actor=access.actor(request), code="audit.used")
        return as_csv("audit", AUDIT_HEADS, events.order_by("pk").iterator(2000), _event_cells)
    context = {
        "listing": page(events, request, sorts=AUDIT_SORTS, default="-at"),
        "filters": filters,
        "may_export": may_export,
        "sees_all": people.holds(user, Permission.SEE_HEALTH) and not user.limits(),
        "success": AuditOutcome.SUCCESS,
    }
    return shown(request, "audit/index.html", "audit/_table.html", context)


def _event_cells(event: AuditEvent) -> tuple[object, ...]:
    return (
        event.pk,
        event.at.isoformat(timespec="milliseconds"),
        event.event,
        event.code,
        event.get_outcome_display(),
        event.actor,
        event.actor_kind,
        event.remote_address,
        event.study_instance_uid,
        event.target,
        event.details,
    )


@requires(Permission.SEE_USERS)
@require_safe
def users(request: HttpRequest) -> HttpResponse:
    """List people and programs with their roles, and what each role may do."""
    rows = User.objects.select_related("role").annotate(
        usable_tokens=Count("tokens", filter=Q(tokens__revoked_at=None))
    )
    roles = list(Role.objects.order_by("name"))
    context = {
        "listing": page(rows, request, sorts=USER_SORTS, default="name"),
        "roles": roles,
        "matrix": list(_matrix(roles)),
    }
    return shown(request, "users/index.html", "users/_table.html", context)


def _matrix(roles: Iterable[Role]) -> Iterable[tuple[str, list[bool]]]:
    for permission in Permission:
        yield permission.label, [permission.value in role.permissions for role in roles]


@requires(Permission.SEE_HEALTH)
@require_safe
def system(request: HttpRequest) -> HttpResponse:
    """Show processes, readiness, disk, what is unfinished, and the versions."""
    failing = health.failing()
    context = {
        "processes": overview.processes(),
        "readiness": [(name, name not in failing) for name in health.CHECKS],
        "disk": overview.disk(access.person(request)),
        "marks": {"slow": settings.DISK_SLOW, "refuse": settings.DISK_REFUSE},
        "unfinished": reckoning.unfinished(),
        "ledger": LedgerCheck.objects.order_by("-at").first(),
        "network": _network(),
        "versions": _versions(),
    }
    return shown(request, "system/index.html", "system/_panels.html", context)


def _network() -> list[tuple[str, str]]:
    return [
        ("AE title", settings.AE_TITLE),
        ("DICOM listener", f"{settings.DIMSE_BIND}:{settings.DIMSE_PORT}"),
        ("Public address", settings.PUBLIC_URL),
        ("Data directory", str(settings.DATA_DIR)),
    ]


def _versions() -> list[tuple[str, str]]:
    return [
        ("DICOM Router", VERSION),
        ("Python", platform.python_version()),
        ("Django", django.get_version()),
        ("pydicom", pydicom.__version__),
        ("pynetdicom", pynetdicom.__version__),
        (connection.display_name, ".".join(map(str, connection.get_database_version()))),
    ]
