"""Replays: plan, confirm, watch, pause, resume, cancel, and take the report."""

from datetime import date, datetime
from typing import Literal

from django.http import Http404, HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Field, Query, Schema, Status

from router.api.endpoints import Endpoints, Id, Moment, Page, PageQuery, Text, cut, user_of
from router.models import (
    ItemState,
    Permission,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayRoute,
    ReplayState,
)
from router.services import access, replay_report, replays
from router.services.replay_report import OUTCOMES, Figures
from router.services.replay_selection import Selection
from router.services.replays import MOST_RATE, USUAL_RATE, Wish
from router.services.visibility import sees_patients

endpoints = Endpoints("Replays")
MAY = Permission.REPLAY
REPORTS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


class Criteria(Schema, extra="forbid"):
    """Which studies; at least one is needed, and all that are given must hold."""

    patient_id: Text = Field("", max_length=64)
    accession_number: Text = Field("", max_length=16)
    study_instance_uid: Text = Field("", max_length=64)
    study_date_from: date | None = None
    study_date_to: date | None = None
    received_from: Moment | None = Field(None, description="Included.")
    received_to: Moment | None = Field(None, description="Not included.")
    source: Text = Field("", max_length=64)
    rule: Text = Field("", max_length=64)
    destination: Text = Field("", max_length=64)
    state: ItemState | Literal[""] = ""
    jobs: list[Id] = Field([], max_length=1000)


class ReplayRequest(Schema, extra="forbid"):
    """What is to be sent once more. Nothing is sent before the plan is confirmed."""

    selection: Criteria
    only: ReplayOnly
    route: ReplayRoute = ReplayRoute.THEN
    content: ReplayContent = ReplayContent.ORIGINAL
    rate: float = Field(USUAL_RATE, ge=0, le=MOST_RATE, description="Objects a second, 0 for any.")


class Yes(Schema, extra="forbid"):
    """A confirmation: what the plan said."""

    objects: int = Field(ge=0, description="`objects` of the plan.")
    studies: int | None = Field(None, ge=0, description="Needed where `needs_studies` is true.")


class AtDestination(Schema):
    """The figures of one destination."""

    destination: str
    planned: int
    bytes: int
    outcomes: dict[str, int] = Field(description="Objects by outcome.")


class Why(Schema):
    """Objects that were not sent, or not yet, for one reason."""

    destination: str
    outcome: str
    reason: str
    objects: int


class ReplayBrief(Schema):
    """A replay in a list."""

    id: int
    state: ReplayState
    only: ReplayOnly
    created_at: datetime
    created_by: str
    studies: int
    objects: int
    bytes: int
    finished_at: datetime | None


class ReplayDetail(ReplayBrief):
    """A replay with its plan and its progress."""

    selection: dict[str, object]
    route: ReplayRoute
    content: ReplayContent
    rate: float
    reason: str
    planned_at: datetime | None
    needs_studies: bool
    confirmed_at: datetime | None
    confirmed_by: str
    sent: int
    left: int
    failed: int = Field(description="Objects that wait for a person: parked, or held.")
    unasked: int = Field(description="Objects that the far end could not be asked for.")
    unread: int = Field(description="Objects that could not be read, so that no rule could judge.")
    destinations: list[AtDestination]
    reasons: list[Why]


class ReplayFilter(PageQuery):
    """Which replays."""

    state: ReplayState | None = None


class ReportQuery(Schema):
    """In which form."""

    format: Literal["csv", "json"] = "json"


@endpoints.reads("/replays", MAY, response=Page[ReplayBrief])
def list_replays(request: HttpRequest, query: Query[ReplayFilter]) -> dict[str, object]:
    """List the replays, the newest first."""
    found = replays.visible_replays(user_of(request))
    if query.state:
        found = found.filter(state=query.state)
    rows, following = cut(found, query)
    return {"items": [_brief(one) for one in rows], "next": following}


@endpoints.changes("/replays", MAY, response={202: ReplayDetail})
def plan_replay(request: HttpRequest, wanted: ReplayRequest) -> Status[dict[str, object]]:
    """Have a replay planned. Ask for it again until its state is `planned` (or `done`: nothing to
    send), then confirm it."""
    given = wanted.selection.dict() | {"jobs": tuple(wanted.selection.jobs)}
    wish = Wish(Selection(**given), wanted.only, wanted.route, wanted.content, wanted.rate)
    user = user_of(request)
    row = replays.request(wish, actor=access.actor(request), user=user)
    return Status(202, _detail(row, request))


@endpoints.reads("/replays/{int:pk}", MAY, response=ReplayDetail)
def get_replay(request: HttpRequest, pk: int) -> dict[str, object]:
    """Show one replay: its plan, its progress, why the rest was not sent."""
    return _detail(_found(request, pk), request)


@endpoints.changes("/replays/{int:pk}/confirm", MAY, response=ReplayDetail)
def confirm_replay(request: HttpRequest, pk: int, yes: Yes) -> dict[str, object]:
    """Have a plan sent. 409 when it is not what was seen."""
    row = _found(request, pk)
    replays.confirm(row, objects=yes.objects, studies=yes.studies, actor=access.actor(request))
    return _detail(_found(request, pk), request)


@endpoints.changes("/replays/{int:pk}/pause", MAY, response=ReplayDetail)
def pause_replay(request: HttpRequest, pk: int) -> dict[str, object]:
    """Release nothing more, and hold what was released and is not being sent."""
    replays.pause(_found(request, pk), actor=access.actor(request))
    return _detail(_found(request, pk), request)


@endpoints.changes("/replays/{int:pk}/resume", MAY, response=ReplayDetail)
def resume_replay(request: HttpRequest, pk: int) -> dict[str, object]:
    """Go on, to the addresses of today."""
    replays.resume(_found(request, pk), actor=access.actor(request))
    return _detail(_found(request, pk), request)


@endpoints.changes("/replays/{int:pk}/cancel", MAY, response=ReplayDetail)
def cancel_replay(request: HttpRequest, pk: int) -> dict[str, object]:
    """Give up what was not sent; of a plan that was not confirmed, all of it."""
    replays.cancel(_found(request, pk), actor=access.actor(request))
    return _detail(_found(request, pk), request)


@endpoints.reads("/replays/{int:pk}/report", MAY)
def report_replay(request: HttpRequest, pk: int, query: Query[ReportQuery]) -> HttpResponseBase:
    """Give every object with what became of it, as JSON or CSV."""
    row, clear = _found(request, pk), sees_patients(user_of(request))
    actor = access.actor(request)
    pieces = replay_report.export(row, query.format, clear=clear, actor=actor)
    answer = StreamingHttpResponse(pieces, content_type=REPORTS[query.format])
    answer["Content-Disposition"] = f'attachment; filename="replay-{pk}.{query.format}"'
    return answer


def _found(request: HttpRequest, pk: int) -> Replay:
    row = replays.visible_replays(user_of(request)).filter(pk=pk).first()
    if row is None:
        raise Http404
    return row


def _brief(row: Replay) -> dict[str, object]:
    names = ("state", "only", "created_at", "created_by", "bytes", "finished_at")
    counts = {"studies": row.studies_count, "objects": row.objects_count}
    return {"id": row.pk, **{name: getattr(row, name) for name in names}, **counts}


def _detail(row: Replay, request: HttpRequest) -> dict[str, object]:
    whole, places = replay_report.figures(row)
    names = ("route", "content", "rate", "reason", "planned_at", "confirmed_at", "confirmed_by")
    selection = dict(row.selection)
    if "patient_id" in selection and not sees_patients(user_of(request)):
        selection["patient_id"] = replay_report.MASK
    return {
        **_brief(row),
        **{name: getattr(row, name) for name in names},
        "selection": selection,
        "needs_studies": replays.needs_typing(row),
        "sent": whole.sent,
        "left": whole.left,
        "failed": whole.failed,
        "unasked": whole.unasked,
        "unread": row.unread_count,
        "destinations": [_at(place) for place in places],
        "reasons": [
            {
                "destination": one.destination,
                "outcome": OUTCOMES[one.outcome],
                "reason": one.reason,
                "objects": one.count,
            }
            for one in replay_report.reasons(row)
        ],
    }


def _at(place: Figures) -> dict[str, object]:
    return {
        "destination": place.name,
        "planned": place.meant,
        "bytes": place.meant_bytes,
        "outcomes": {OUTCOMES[key]: count for key, count in place.parts},
    }
