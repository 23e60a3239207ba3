"""Replays: the list with its progress, the form, the plan that is confirmed, and what became of it.

A replay's page and its report show nothing of patients that the reader may not see, and no address
holds any of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from router.models import Permission, Replay, ReplayState
from router.replay_form import ReplayForm, initial_of
from router.services import access, clock, replay_report, replays, visibility
from router.services.access import requires
from router.services.replay_report import Figures
from router.services.replay_selection import Selection
from router.services.replays import ReplayRefused
from router.templatetags.console import objects
from router.views.listing import page, private, shown

S = ReplayState
LIVE = (S.PLANNING, S.RUNNING, S.PAUSED, S.CANCELLING)
"""States in which figures change while one looks."""
MOVING = (S.RUNNING, S.PAUSED, S.CANCELLING)
REPORTS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
SORTS = {"asked": "id"}


@dataclass(frozen=True)
class Row:
    """A replay in the list, with the figures of one that is under way."""

    replay: Replay
    figures: Figures | None


@requires(Permission.REPLAY)
@require_safe
def listing(request: HttpRequest) -> HttpResponse:
    """List the replays, the newest first."""
    found = replays.visible_replays(access.person(request))
    cut = page(found, request, sorts=SORTS, default="-asked")
    rows = [Row(one, _figures(one)) for one in cut.rows]
    context = {"listing": cut, "rows": rows, "is_live": any(row.figures for row in rows)}
    return shown(request, "replays/index.html", "replays/_table.html", context)


def _figures(replay: Replay) -> Figures | None:
    """Return the figures of one that moves; of the others the row itself says enough."""
    if replay.state in MOVING:
        return replay_report.figures(replay)[0]
    return None


@requires(Permission.REPLAY)
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """Take what is wanted and have it planned."""
    user = access.person(request)
    if request.method != "POST":
        initial, sentence = initial_of(request.GET, user)
        if sentence:
            messages.warning(request, sentence)
        return _asked(request, ReplayForm(user=user, initial=initial))
    form = ReplayForm(request.POST, user=user)
    if not form.is_valid():
        return _asked(request, form, status=422)
    try:
        replay = replays.request(form.wish(), actor=access.actor(request), user=user)
    except ReplayRefused as error:
        form.add_error(None, str(error))
        return _asked(request, form, status=422)
    return redirect("replay", pk=replay.pk)


def _asked(request: HttpRequest, form: ReplayForm, status: int = 200) -> HttpResponse:
    return private(render(request, "replays/new.html", {"form": form}, status=status))


@requires(Permission.REPLAY)
@require_safe
def replay(request: HttpRequest, pk: int) -> HttpResponse:
    """Show one replay: its plan with the button that sends it, its progress, its outcome."""
    row = _found(request, pk)
    context = _context(request, row)
    return shown(request, "replays/replay.html", "replays/_replay.html", context)


def _found(request: HttpRequest, pk: int) -> Replay:
    return get_object_or_404(replays.visible_replays(access.person(request)), pk=pk)


def _context(request: HttpRequest, row: Replay) -> dict[str, object]:
    clear = visibility.sees_patients(access.person(request))
    whole, places = replay_report.figures(row)
    return {
        "replay": row,
        "words": Selection.from_dict(row.selection).words(clear=clear),
        "whole": whole,
        "places": places,
        "reasons": replay_report.reasons(row) if row.state != S.PLANNING else [],
        "names": [place.name for place in places if place.meant],
        "is_live": row.state in LIVE,
        "is_moving": row.state in MOVING,
        "is_over": row.finished_at is not None and row.has_pairs,
        "needs_typing": replays.needs_typing(row),
        "typed_above": settings.REPLAY_TYPED_ABOVE,
        "is_stale": replays.is_stale(row),
        "least_seconds": row.objects_count / row.rate if row.rate else 0,
        "left_seconds": whole.left / row.rate if row.rate and row.state == S.RUNNING else 0,
        "planned_percent": _planned_percent(row),
        "waits_for_worker": _waits_for_worker(row),
    }


def _planned_percent(row: Replay) -> int:
    return 100 * row.studies_seen // row.studies_total if row.studies_total else 0


def _waits_for_worker(row: Replay) -> bool:
    """Whether nobody has begun to plan it for longer than a sweep takes."""
    age = (clock.now() - row.created_at).total_seconds()
    return row.state == S.PLANNING and row.studies_total is None and age > 10


@requires(Permission.REPLAY)
@require_POST
def confirm(request: HttpRequest, pk: int) -> HttpResponse:
    """Have a plan sent, for a form that says what it showed."""
    row = _found(request, pk)
    seen, typed = request.POST.get("objects", ""), request.POST.get("studies", "").strip()
    try:
        replays.confirm(
            row,
            objects=int(seen) if seen.isdigit() else -1,
            studies=int(typed) if typed.isdigit() else None,
            actor=access.actor(request),
        )
    except ReplayRefused as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Replay {pk} runs: {objects(row.objects_count)} to be sent.")
    return redirect("replay", pk=pk)


@requires(Permission.REPLAY)
@require_POST
def pause(request: HttpRequest, pk: int) -> HttpResponse:
    """Release nothing more."""
    return _moved(
        request, pk, replays.pause, "Paused: {} that waited held. What is being sent ends."
    )


@requires(Permission.REPLAY)
@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    """Go on."""
    return _moved(request, pk, replays.resume, "It goes on: {} due again, then the rest.")


def _moved(request: HttpRequest, pk: int, verb: Callable[..., int], sentence: str) -> HttpResponse:
    try:
        count = verb(_found(request, pk), actor=access.actor(request))
    except ReplayRefused as error:
        messages.error(request, str(error))
    else:
        messages.success(request, sentence.format(objects(count)))
    return redirect("replay", pk=pk)


@requires(Permission.REPLAY)
@require_http_methods(["GET", "HEAD", "POST"])
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """Name what is given up, then give it up."""
    row = _found(request, pk)
    if request.method != "POST":
        whole, _places = replay_report.figures(row)
        unsent = whole.left + whole.count(["held"])
        can_be = row.finished_at is None and row.state != S.CANCELLING
        context = {"replay": row, "whole": whole, "unsent": unsent, "can_be": can_be}
        return private(render(request, "replays/cancel.html", context))
    try:
        replays.cancel(row, actor=access.actor(request))
    except ReplayRefused as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "What was not sent is given up; the counts below are final soon.")
    return redirect("replay", pk=pk)


@requires(Permission.REPLAY)
@require_safe
def report(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Give the whole report as CSV or JSON."""
    row, form = _found(request, pk), request.GET.get("format", "csv")
    if form not in REPORTS:
        raise Http404("A report is csv or json.")
    clear = visibility.sees_patients(access.person(request))
    pieces = replay_report.export(row, form, clear=clear, actor=access.actor(request))
    response = StreamingHttpResponse(pieces, content_type=REPORTS[form])
    response["Content-Disposition"] = f'attachment; filename="replay-{pk}.{form}"'
    add_never_cache_headers(response)
    return response
