"""The dashboard: what needs a person, what comes in, what goes out, how the machine does."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from router.models import CounterKind, Permission, Study
from router.services import access, overview
from router.services.access import requires
from router.views.listing import shown


@requires(Permission.SEE_DASHBOARD)
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show the page; htmx fetches its panels anew every three seconds."""
    person = access.person(request)
    context = {
        "attention": overview.attention(person),
        "arriving": overview.arriving(person),
        "figures": overview.today(person),
        "by_modality": overview.shares(person, CounterKind.RECEIVED, "modality"),
        "by_destination": overview.shares(person, CounterKind.DELIVERED, "destination"),
        "destinations": overview.destinations(person),
        "disk": overview.disk(person),
        "processes": overview.processes(),
        "is_fresh": not Study.objects.exists(),
        "first_command": first_command(),
    }
    return shown(request, "dashboard/index.html", "dashboard/_panels.html", context)


def first_command() -> str:
    """Return the command that sends a first object to this installation."""
    host = "127.0.0.1" if settings.DIMSE_BIND in {"", "0.0.0.0", "::"} else settings.DIMSE_BIND  # noqa: S104 - compared, not bound
    return f"storescu -aec {settings.AE_TITLE} {host} {settings.DIMSE_PORT} image.dcm"
