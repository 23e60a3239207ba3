"""Jobs: what leaves, by study and destination; and what a person does with many items at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.contrib import messages
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from router.forms import JobFilter
from router.models import (
    UNFINISHED_STATES,
    Attempt,
    ItemState,
    JobItem,
    Permission,
    Priority,
)
from router.models.jobs import JobItemQuerySet
from router.services import access, audit, jobs, timeline, visibility
from router.services.access import requires
from router.templatetags.console import MASK
from router.views.listing import as_csv, page, private, shown, wants_csv

S = ItemState
SORTS = {"created": "id", "rule": "rule"}
ITEM_SORTS = {"created": "id", "state": "state"}
HEADS = (
    "Job", "Study Instance UID", "Accession number", "Patient ID", "Destination", "Rule", "Cause",
    "SOP Instance UID", "State", "Priority", "Tries", "Reason", "Proof", "Proof state", "Evidence",
    "SHA-256 received", "SHA-256 sent", "Chosen", "Finished",
)  # fmt: skip

PRECEDENCE = {
    Priority.URGENT: "They go before all that is normal or low and waits for the same place.",
    Priority.NORMAL: "They go by their age, after what is urgent and before what is low.",
    Priority.LOW: "They go when nothing else waits; one of eight turns is theirs in any case.",
}


@dataclass(frozen=True)
class Action:
    """A verb on items: which states it touches, and what a person should know before."""

    verb: str
    states: tuple[ItemState, ...]
    run: Callable[..., int]
    consequence: str
    done: str
    adjective: str = ""

    @property
    def name(self) -> str:
        """What its button says."""
        return f"{self.verb} {self.adjective}".strip()


ACTIONS = {
    "retry": Action(
        "Retry",
        (S.PARKED, S.WAITING),
        jobs.retry,
        "They are sent again at once, and their count of tries begins anew.",
        "due again",
    ),
    "hold": Action(
        "Hold",
        (S.PENDING, S.WAITING),
        jobs.hold,
        "They are not sent until somebody releases them.",
        "held",
    ),
    "release": Action(
        "Release",
        (S.HELD,),
        jobs.release,
        "They are sent to the destination's address of today.",
        "released",
    ),
    **{
        priority.label.lower(): Action(
            "Make",
            UNFINISHED_STATES,
            partial(jobs.prioritise, priority=priority),
            PRECEDENCE[priority],
            f"{priority.label.lower()} now",
            adjective=priority.label.lower(),
        )
        for priority in Priority
    },
    "cancel": Action(
        "Cancel",
        (S.PENDING, S.WAITING, S.HELD, S.PARKED),
        jobs.cancel,
        "They are never sent for these jobs. The objects themselves stay stored.",
        "cancelled",
    ),
}


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def listing(request: HttpRequest) -> HttpResponseBase:
    """List the jobs whose items match; as CSV, the items themselves."""
    user = access.person(request)
    filters = JobFilter(request.GET, user=user)
    if wants_csv(request):
        return _export(request, filters.items())
    found = visibility.visible_jobs(user)
    if filters.narrows:
        found = found.filter(pk__in=filters.items().values("job_id"))
    found = found.select_related("study", "destination")
    cut = page(found, request, sorts=SORTS, default="-created")
    states = timeline.states_of(cut.rows, user)
    context = {
        "listing": cut,
        "rows": [(job, states.get(job.pk, ())) for job in cut.rows],
        "filters": filters,
        "totals": _totals(visibility.visible_items(user)),
        "actions": ACTIONS,
    }
    return shown(request, "jobs/index.html", "jobs/_table.html", context)


def _totals(items: JobItemQuerySet) -> list[tuple[str, int]]:
    counts = {
        row["state"]: row["count"]
        for row in items.unfinished().values("state").annotate(count=Count("pk")).order_by()
    }
    return [(state, counts[state]) for state in S.values if state in counts]


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def job(request: HttpRequest, pk: int) -> HttpResponse:
    """Show one job: its items with their last answers."""
    user = access.person(request)
    found = visibility.visible_jobs(user).select_related("study", "destination")
    row = get_object_or_404(found, pk=pk)
    items = visibility.visible_items(user).filter(job=row)
    items = items.select_related("instance__series", "proving")
    state = request.GET.get("state", "")
    if state in S.values:
        items = items.filter(state=state)
    cut = page(items, request, sorts=ITEM_SORTS, default="created")
    attempts = _last_attempts(cut.rows)
    context = {
        "job": row,
        "study": row.study,
        "states": timeline.states_of([row], user).get(row.pk, ()),
        "state": state,
        "listing": cut,
        "rows": [(item, attempts.get(item.pk)) for item in cut.rows],
        "actions": ACTIONS,
    }
    return shown(request, "jobs/job.html", "jobs/_items.html", context)


def _last_attempts(items: list[JobItem]) -> dict[int, Attempt]:
    attempts = Attempt.objects.filter(item__in=[item.pk for item in items]).order_by("pk")
    return {attempt.item_id: attempt for attempt in attempts}


@requires(Permission.MANAGE_JOBS)
@require_safe
def confirm(request: HttpRequest) -> HttpResponse:
    """Name the count and the consequence before anything is done."""
    key, action = _action(request.GET)
    chosen = _chosen(request, request.GET)
    touched = chosen.filter(state__in=action.states)
    names = touched.values_list("destination__name", flat=True).order_by("destination__name")
    context = {
        "key": key,
        "action": action,
        "count": touched.count(),
        "untouched": chosen.exclude(state__in=action.states).count(),
        "names": list(names.distinct()[:4]),
        "fields": [(name, value) for name, values in request.GET.lists() for value in values],
        "back": _back(request, request.GET),
    }
    return private(render(request, "jobs/confirm.html", context))


@requires(Permission.MANAGE_JOBS)
@require_POST
def apply(request: HttpRequest) -> HttpResponse:
    """Do it, and say how many items changed in fact."""
    _key, action = _action(request.POST)
    touched = _chosen(request, request.POST).filter(state__in=action.states)
    count = action.run(touched, actor=access.actor(request))
    if count:
        noun = "object is" if count == 1 else "objects are"
        messages.success(request, f"{count:,} {noun} {action.done}.")
    else:
        messages.warning(request, "Nothing was changed: no object is in a state this applies to.")
    return redirect(_back(request, request.POST))


def _action(data: QueryDict) -> tuple[str, Action]:
    key = data.get("action", "")
    if key not in ACTIONS:
        raise Http404("There is no such action.")
    return key, ACTIONS[key]


def _chosen(request: HttpRequest, data: QueryDict) -> JobItemQuerySet:
    """Return the items meant: of the ticked jobs, or all that match when ``all`` is set."""
    filters = JobFilter(data, user=access.person(request))
    if filters.errors:
        raise Http404("A filter names something that does not exist.")
    if data.get("all"):
        return filters.items()
    ticked = [int(pk) for pk in data.getlist("job") if pk.isdigit()]
    return filters.items().filter(job_id__in=ticked)


def _back(request: HttpRequest, data: QueryDict) -> str:
    asked = data.get("next", "")
    ours = url_has_allowed_host_and_scheme(asked, allowed_hosts={request.get_host()})
    return asked if ours and asked.startswith("/") else "/jobs/"


def _export(request: HttpRequest, items: QuerySet[JobItem]) -> HttpResponseBase:
    clear = visibility.sees_patients(access.person(request))
    audit.record("export", actor=access.actor(request), code="export", target="list of items")
    rows = items.select_related("job", "destination", "instance__study", "proving")
    rows = rows.order_by("pk")
    return as_csv("jobs", HEADS, rows.iterator(2000), lambda item: _cells(item, clear=clear))


def _cells(item: JobItem, *, clear: bool) -> tuple[object, ...]:
    study, proof = item.instance.study, getattr(item, "proving", None)
    return (
        item.job_id,
        study.study_instance_uid,
        study.accession_number,
        study.patient_id if clear else MASK,
        item.destination.name,
        item.job.rule,
        item.get_cause_display(),
        item.instance.sop_instance_uid,
        item.get_state_display(),
        item.get_priority_display(),
        item.tries,
        item.reason,
        item.proof,
        proof.get_state_display() if proof else "",
        proof.reason if proof else "",
        item.instance.sha256,
        item.egress_sha256,
        item.created_at.isoformat(timespec="seconds"),
        item.finished_at.isoformat(timespec="seconds") if item.finished_at else "",
    )
