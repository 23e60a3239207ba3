"""Objects kept apart until a person releases or discards them."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from router.models import Instance, InstanceState, Permission
from router.services import access, quarantine, visibility
from router.services.access import requires
from router.views.listing import page, private, shown

RELEASED = {
    InstanceState.CURRENT: "The object is released. It is routed by the rules of today.",
    InstanceState.VERSION: (
        "The object is released as a version: another one stands under its SOP Instance UID. "
        "It is routed by the rules of today."
    ),
}
SORTS = {"received": "received_at", "reason": "reason", "size": "size"}


@requires(Permission.SEE_STUDIES_MASKED)
@require_safe
def waiting(request: HttpRequest) -> HttpResponse:
    """List what is in quarantine, the oldest first."""
    found = visibility.visible_instances(access.person(request)).quarantined()
    found = found.select_related("study", "series")
    context = {
        "listing": page(found, request, sorts=SORTS, default="received"),
        "total": found.count(),
    }
    return shown(request, "quarantine/index.html", "quarantine/_table.html", context)


@requires(Permission.RESOLVE_QUARANTINE)
@require_POST
def release(request: HttpRequest, pk: int) -> HttpResponse:
    """Accept an object: it is kept beside the first one and routed."""
    instance = _instance(request, pk)
    try:
        state = quarantine.release(instance, actor=access.actor(request))
    except quarantine.NotQuarantined:
        messages.warning(request, "Nothing was changed: the object has left quarantine meanwhile.")
    else:
        messages.success(request, RELEASED[state])
    return redirect(f"/studies/{instance.study_id}/")


@requires(Permission.RESOLVE_QUARANTINE)
@require_http_methods(["GET", "HEAD", "POST"])
def discard(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask, then drop an object's bytes."""
    instance = _instance(request, pk)
    if request.method != "POST":
        return private(render(request, "quarantine/discard.html", {"instance": instance}))
    try:
        quarantine.discard(instance, actor=access.actor(request))
    except quarantine.NotQuarantined:
        messages.warning(request, "Nothing was changed: the object has left quarantine meanwhile.")
    else:
        messages.success(request, "The object is discarded. Its receipt stays in the ledger.")
    return redirect("/quarantine/")


def _instance(request: HttpRequest, pk: int) -> Instance:
    mine = visibility.visible_instances(access.person(request)).select_related("study", "series")
    return get_object_or_404(mine, pk=pk)
