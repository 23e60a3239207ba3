"""Triage: open failures by what they have in common, and one action for each group."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any  # fields of a template

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from router.models import Destination, ItemState, Permission
from router.models.jobs import JobItemQuerySet
from router.services import access, jobs, triage, visibility
from router.services.access import requires
from router.templatetags.console import objects
from router.triage_form import TriageForm
from router.views.listing import private, shown

S = ItemState


@dataclass(frozen=True)
class Action:
    """What can be done with a group, in which state, and what a person should know before."""

    verb: str
    states: tuple[ItemState, ...]
    consequence: str


ACTIONS: Mapping[str, Action] = {
    "retry": Action(
        "Retry",
        (S.PARKED, S.WAITING),
        "They are sent again at once, and their count of tries begins anew.",
    ),
    "release": Action("Release", (S.HELD,), "They are sent to the destination's address of today."),
    "readdress": Action(
        "Send elsewhere",
        (S.PARKED, S.HELD, S.WAITING),
        "They are given up here and chosen for another destination, unless it has them already.",
    ),
    "exclude": Action(
        "Exclude",
        (S.PARKED, S.HELD, S.WAITING),
        "They are never sent for these jobs, on purpose. The objects themselves stay stored.",
    ),
}
NATURES = {
    "connection": "The connection fails",
    "passing": "It cannot take them now",
    "agreement": "The agreement with it",
    "object": "The objects",
    "held": "Held",
}


@dataclass(frozen=True)
class Row:
    """A group with its words and the addresses of what can be done with it."""

    group: triage.Group
    nature: str
    actions: tuple[tuple[str, str], ...]


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def groups(request: HttpRequest) -> HttpResponse:
    """List the groups, the largest first."""
    found, more = triage.groups(visibility.visible_items(access.person(request)))
    context = {
        "rows": [Row(group, NATURES[group.nature], _actions(group.key)) for group in found],
        "total": sum(group.count for group in found),
        "more": more,
    }
    return shown(request, "triage/index.html", "triage/_groups.html", context)


def _actions(key: triage.Key) -> tuple[tuple[str, str], ...]:
    fields = {
        "destination": key.destination,
        "state": key.state,
        "status": "" if key.status is None else f"{key.status:04X}",
        "seen": key.seen,
        "sop_class": key.sop_class_uid,
        "transfer_syntax": key.transfer_syntax_uid,
    }
    return tuple(
        (action.verb, urlencode({"action": name, **fields}))
        for name, action in ACTIONS.items()
        if key.state in action.states
    )


@requires(Permission.MANAGE_JOBS)
@require_safe
def confirm(request: HttpRequest) -> HttpResponse:
    """Name the count and the consequence, and ask for what the action needs."""
    form = _form(request.GET, is_decided=False)
    return private(render(request, "triage/confirm.html", _asked(request, form)))


@requires(Permission.MANAGE_JOBS)
@require_POST
def apply(request: HttpRequest) -> HttpResponse:
    """Do it, and say how many objects changed in fact."""
    form = _form(request.POST, is_decided=True)
    if not form.is_valid():
        return private(render(request, "triage/confirm.html", _asked(request, form), status=422))
    changed, sentence = _run(request, form)
    if changed:
        messages.success(request, sentence)
    else:
        messages.warning(request, "Nothing was changed: the group has been dealt with meanwhile.")
    return redirect("triage")


def _form(data: QueryDict, *, is_decided: bool) -> TriageForm:
    form = TriageForm(data, is_decided=is_decided)
    if not form.names_a_group or form.key.state not in ACTIONS[form.cleaned_data["action"]].states:
        raise Http404("There is no such group of failures.")
    return form


def _chosen(request: HttpRequest, form: TriageForm) -> JobItemQuerySet:
    return form.key.of(visibility.visible_items(access.person(request)))


def _asked(request: HttpRequest, form: TriageForm) -> dict[str, Any]:
    found, _more = triage.groups(_chosen(request, form))
    name = form.cleaned_data["action"]
    return {
        "form": form,
        "name": name,
        "action": ACTIONS[name],
        "needs_reason": name in {"exclude", "readdress"},
        "group": found[0] if found else None,
    }


def _run(request: HttpRequest, form: TriageForm) -> tuple[int, str]:
    """Return how many objects changed, and a sentence for the person."""
    items, actor, given = _chosen(request, form), access.actor(request), form.cleaned_data
    if given["action"] == "retry":
        count = jobs.retry(items, actor=actor)
        return count, f"Due again: {objects(count)}."
    if given["action"] == "release":
        count = jobs.release(items, actor=actor)
        return count, f"Released: {objects(count)}."
    if given["action"] == "exclude":
        count = triage.exclude(items, reason=given["why"], actor=actor)
        return count, f"Excluded: {objects(count)}."
    to = get_object_or_404(Destination.objects.active(), name=given["to"])
    done = triage.readdress(items, to, reason=given["why"], actor=actor)
    rest = f" It has {objects(done.there)} already." if done.there else ""
    return done.moved + done.there, f"To {to.name} instead: {objects(done.moved)}.{rest}"
