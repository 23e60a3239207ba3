"""The study list and the story of one study. What lies outside a person's limit is absent (404)."""

import secrets
from collections.abc import Iterable, Sequence

from django.contrib import messages
from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_POST, require_safe

from router.forms import StudyFilter
from router.models import (
    DecisionOutcome,
    Destination,
    Instance,
    InstanceState,
    Permission,
    RoutingMark,
    Series,
    Study,
    User,
)
from router.services import access, audit, jobs, timeline, visibility
from router.services.access import requires
from router.templatetags.console import MASK, dicom_date, modalities, person
from router.views.dashboard import first_command
from router.views.listing import as_csv, page, shown, wants_csv

SORTS = {
    "received": "last_received_at",
    "date": "study_date",
    "accession": "accession_number",
    "name": "patient_name_search",
    "objects": "instances_count",
}
HEADS = (
    "Patient", "Patient ID", "Accession number", "Study date", "Description", "Modalities",
    "Source", "Series", "Objects", "Quarantined", "Bytes", "Last received", "Study Instance UID",
)  # fmt: skip
SEARCHES = "searches"
MOST_SEARCHES = 20
MOST_APART = 100


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def studies(request: HttpRequest) -> HttpResponseBase:
    """List the studies that match; as CSV when asked."""
    user = access.person(request)
    filters = StudyFilter(request.GET, user=user)
    words = _words(request)
    found = filters.studies(words)
    if wants_csv(request):
        return _export(request, found.newest_first().iterator(2000))
    sorts = SORTS if visibility.sees_patients(user) else _without_name()
    context = {
        "listing": page(found, request, sorts=sorts, default="-received"),
        "filters": filters,
        "words": words,
        "is_fresh": not Study.objects.exists(),
        "first_command": first_command(),
    }
    return shown(request, "studies/index.html", "studies/_table.html", context)


def _without_name() -> dict[str, str]:
    return {key: column for key, column in SORTS.items() if key != "name"}


def _words(request: HttpRequest) -> str:
    """Return the search words the address refers to: kept in the session, or a plain ``q``."""
    key = request.GET.get("search", "")
    kept = request.session.get(SEARCHES, {}).get(key, "") if key else request.GET.get("q", "")
    return str(kept).strip()[:100]


@requires(Permission.SEE_STUDIES_MASKED)
@require_POST
def search(request: HttpRequest) -> HttpResponse:
    """Keep the words in the session, so that no address or log holds them, and go to the list."""
    words = request.POST.get("q", "").strip()[:100]
    if not words:
        return redirect("/studies/")
    found = StudyFilter({}, user=access.person(request)).studies(words)
    keys = list(found.order_by().values_list("pk", flat=True)[:2])
    if len(keys) == 1:
        return redirect(f"/studies/{keys[0]}/")
    key = secrets.token_urlsafe(6)
    kept = list(request.session.get(SEARCHES, {}).items())[-MOST_SEARCHES + 1 :]
    request.session[SEARCHES] = dict([*kept, (key, words)])
    return redirect(f"/studies/?search={key}")


def _export(request: HttpRequest, found: Iterable[Study]) -> HttpResponseBase:
    clear = visibility.sees_patients(access.person(request))
    audit.record("export", actor=access.actor(request), code="export", target="list of studies")
    return as_csv("studies", HEADS, found, lambda study: _cells(study, clear=clear))


def _cells(study: Study, *, clear: bool) -> Sequence[object]:
    return (
        person(study.patient_name) if clear else MASK,
        study.patient_id if clear else MASK,
        study.accession_number,
        dicom_date(study.study_date),
        study.study_description,
        modalities(study.modalities),
        study.source,
        study.series_count,
        study.instances_count,
        study.quarantined_count,
        study.bytes,
        study.last_received_at.isoformat(timespec="seconds"),
        study.study_instance_uid,
    )


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def newer(request: HttpRequest) -> HttpResponse:
    """Say how many studies came or grew since a moment; the list itself does not jump."""
    since = parse_datetime(request.GET.get("since", ""))
    visible = visibility.visible_studies(access.person(request))
    count = visible.filter(last_received_at__gt=since).count() if since else 0
    context = {"newer": count, "since": request.GET.get("since", "")}
    return shown(request, "studies/_newer.html", "studies/_newer.html", context)


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def study(request: HttpRequest, pk: int) -> HttpResponse:
    """Show one study: head, timeline, why not, series, and what is kept apart."""
    user = access.person(request)
    row = get_object_or_404(visibility.visible_studies(user), pk=pk)
    target = request.htmx.target if request.htmx else ""  # type: ignore[attr-defined]
    if target == "study-why":
        return shown(request, "studies/_why.html", "studies/_why.html", _why(request, row, user))
    if not target:
        audit.record(
            "study.viewed",
            actor=access.actor(request),
            code="instances.accessed",
            study_instance_uid=row.study_instance_uid,
        )
    context = {
        "study": row,
        "timeline": timeline.of(row, user),
        "series": _series(row, user),
        "apart": _apart(row, user),
        "held": _held(row),
        **_why(request, row, user),
    }
    return shown(request, "studies/study.html", "studies/_timeline.html", context)


@requires(Permission.MANAGE_JOBS)
@require_POST
def route_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Judge the instances that no rule took by the rules of today."""
    row = get_object_or_404(visibility.visible_studies(access.person(request)), pk=pk)
    count = jobs.route_again(row, actor=access.actor(request))
    messages.success(request, f"{count} objects are judged by the rules of today.")
    return redirect("study", pk=pk)


def _why(request: HttpRequest, row: Study, user: User) -> dict[str, object]:
    present = list(Destination.objects.present().order_by("name"))
    asked = next((one for one in present if one.name == request.GET.get("why")), None)
    return {
        "study": row,
        "destinations": present,
        "asked": asked,
        "why": timeline.why_not(row, asked, user) if asked else None,
    }


def _held(row: Study) -> int:
    marks = RoutingMark.objects.filter(instance__study=row)
    return marks.filter(decision__outcome=DecisionOutcome.HELD).count()


def _series(row: Study, user: User) -> QuerySet[Series]:
    counted = visibility.visible_series(user, row).annotate(
        apart=Count("instances", filter=~Q(instances__state=InstanceState.CURRENT)),
        total_bytes=Sum("instances__size", filter=Q(instances__state=InstanceState.CURRENT)),
    )
    return counted.order_by("series_number", "pk")


def _apart(row: Study, user: User) -> QuerySet[Instance]:
    instances = visibility.visible_instances(user).filter(study=row)
    apart = instances.exclude(state=InstanceState.CURRENT).select_related("series")
    return apart.order_by("-received_at", "-pk")[:MOST_APART]
