"""Destinations: whether they take work, and what waits for them."""

from datetime import datetime

from django.http import Http404, HttpRequest
from ninja import Field, Schema

from router.api.endpoints import Endpoints, user_of
from router.models import Permission
from router.services import overview
from router.services.overview import DestinationRow

endpoints = Endpoints("Destinations")


class DestinationOut(Schema):
    """A destination with the state of its lane and its backlog. Settings are not shown."""

    name: str
    kind: str
    state: str = Field(description="open, backoff, stopped, paused or disabled")
    reason: str
    resume_at: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    waiting: int
    oldest_waiting_at: datetime | None
    needs_attention: int
    held: int
    objects_per_minute: float


@endpoints.reads("/destinations", Permission.SEE_CONFIG, response=list[DestinationOut])
def list_destinations(request: HttpRequest) -> list[dict[str, object]]:
    """List the destinations by name, with what waits for them within the owner's limit."""
    return [_out(row) for row in overview.destinations(user_of(request))]


@endpoints.reads("/destinations/{name}", Permission.SEE_CONFIG, response=DestinationOut)
def get_destination(request: HttpRequest, name: str) -> dict[str, object]:
    """Show one destination."""
    for row in overview.destinations(user_of(request)):
        if row.name == name:
            return _out(row)
    raise Http404


def _out(row: DestinationRow) -> dict[str, object]:
    names = ("name", "kind", "state", "reason", "resume_at", "last_success_at", "last_failure_at")
    return {
        **{name: getattr(row, name) for name in names},
        "waiting": row.backlog,
        "oldest_waiting_at": row.oldest,
        "needs_attention": row.parked,
        "held": row.held,
        "objects_per_minute": row.per_minute,
    }
