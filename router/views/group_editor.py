"""Make, change and remove a group of destinations on pages: form, plan, then applying it.

As with destinations nothing changes before the plan was seen and pressed.
"""

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from router.config.entry import NAME
from router.config.findings import ConfigError
from router.group_form import GroupForm, initial
from router.models import Destination, DestinationGroup, Permission
from router.services import editing
from router.services.access import requires
from router.views import applying
from router.views.listing import private

GET_AND_POST = ["GET", "HEAD", "POST"]
SECTION = "groups"
TAKEN = "There is a group or a destination of this name already; choose another."


@dataclass
class Draft:
    """A group as it is on the page, before anything is applied."""

    name: str
    form: GroupForm
    is_new: bool
    problems: tuple[str, ...] = ()
    name_problem: str = ""


@requires(Permission.ACTIVATE)
@require_http_methods(GET_AND_POST)
def new(request: HttpRequest) -> HttpResponse:
    """Fill in a new group, see the plan, apply it."""
    if request.method == "POST":
        return _posted(request, request.POST.get("name", "").strip(), is_new=True)
    return _form(request, Draft("", GroupForm(initial=initial(None)), is_new=True))


@requires(Permission.ACTIVATE)
@require_http_methods(GET_AND_POST)
def edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change the members of a group, or how it chooses among them."""
    row = _row(name)
    if request.method == "POST":
        return _posted(request, name, is_new=False)
    return _form(request, Draft(name, GroupForm(initial=initial(row)), is_new=False))


@requires(Permission.ACTIVATE)
@require_http_methods(GET_AND_POST)
def remove(request: HttpRequest, name: str) -> HttpResponse:
    """Ask, then take a group out of the configuration; its members stay."""
    _row(name)
    context: dict[str, object] = {"name": name}
    try:
        plan = editing.planned(name, None, section=SECTION)
    except ConfigError as error:
        context["problems"] = applying.words(error)
        return private(render(request, "config/remove_group.html", context))
    if request.method == "POST" and request.POST.get("base") == str(plan.base):
        applying.apply(request, plan, done=f"The group {name} is removed")
        return redirect("destinations")
    return private(render(request, "config/remove_group.html", context | {"plan": plan}))


def _row(name: str) -> DestinationGroup:
    return get_object_or_404(DestinationGroup.objects.present(), name=name)


def _posted(request: HttpRequest, name: str, *, is_new: bool) -> HttpResponse:
    draft = Draft(name, GroupForm(request.POST), is_new)
    draft.name_problem = _name_problem(name) if is_new else ""
    step = request.POST.get("step")
    if draft.name_problem or not draft.form.is_valid() or step == "back":
        return _form(request, draft)
    try:
        plan = editing.planned(name, draft.form.entry, section=SECTION)
    except ConfigError as error:
        others = [one for one in error.findings if not draft.form.place(one.path, one.message)]
        draft.problems = applying.words(ConfigError(others))
        return _form(request, draft)
    if step == "apply" and request.POST.get("base") == str(plan.base):
        applying.apply(request, plan, done=f"The group {name} is applied")
        return redirect("destinations")
    context = {"draft": draft, "plan": plan, "values": _values(draft)}
    context["overtaken"] = step == "apply"
    return private(render(request, "config/plan.html", context))


def _name_problem(name: str) -> str:
    if not NAME.match(name):
        return applying.NO_NAME
    groups, places = DestinationGroup.objects.present(), Destination.objects.present()
    is_taken = groups.filter(name=name).exists() or places.filter(name=name).exists()
    return TAKEN if is_taken else ""


def _values(draft: Draft) -> list[tuple[str, str]]:
    """Return the form as hidden fields."""
    given = draft.form.data
    return [("name", draft.name), *((key, str(given.get(key, ""))) for key in draft.form.fields)]


def _form(request: HttpRequest, draft: Draft) -> HttpResponse:
    context = {
        "draft": draft,
        "places": Destination.objects.present().values_list("name", flat=True),
        "failed": draft.form.is_bound and (bool(draft.form.errors) or bool(draft.name_problem)),
    }
    return private(render(request, "config/edit_group.html", context))
