"""Make, change and remove a destination on pages: the kind's form, the plan, then applying it.

Nothing changes before the plan was seen and pressed; where the configuration changed in between,
the plan is shown anew. A typed secret is stored under a name of its own and never shown again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from router.config.entry import NAME
from router.config.findings import ConfigError
from router.destinations import KINDS
from router.destinations.base import Kind
from router.destinations.form import DestinationForm
from router.models import Destination, Permission, Secret
from router.services import access, editing, secrets, users
from router.services.access import requires
from router.views import applying
from router.views import destination_fields as fields
from router.views.listing import private

GET_AND_POST = ["GET", "HEAD", "POST"]
TAKEN = "There is a destination of this name already; choose another, or change that one."


@dataclass
class Draft:
    """A destination as it is on the page, before anything is applied."""

    kind: Kind
    name: str
    form: DestinationForm
    is_new: bool
    enabled: bool = True
    problems: tuple[str, ...] = ()
    name_problem: str = ""

    @property
    def entry(self) -> dict[str, object]:
        """What the configuration file would say of it, without the name."""
        own: dict[str, object] = {"kind": self.kind.name}
        if not self.enabled:
            own["enabled"] = False
        return own | self.form.export()


@requires(Permission.ACTIVATE)
@sensitive_post_parameters()
@require_http_methods(GET_AND_POST)
def new(request: HttpRequest) -> HttpResponse:
    """Choose a kind, fill in its form, see the plan, apply it."""
    kind = KINDS.get(request.GET.get("kind", ""))
    if kind is None:
        return private(render(request, "config/choose_kind.html", {"kinds": KINDS.values()}))
    if request.method == "POST":
        return _posted(request, kind, name=request.POST.get("name", "").strip(), is_new=True)
    return _form(request, Draft(kind, "", fields.blank(kind, {}), is_new=True))


@requires(Permission.ACTIVATE)
@sensitive_post_parameters()
@require_http_methods(GET_AND_POST)
def edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change the settings of a destination, or whether it takes work."""
    row = _row(name)
    kind = KINDS[row.kind]
    if request.method == "POST":
        return _posted(request, kind, name=name, is_new=False)
    settings = row.version.settings if row.version else {}
    return _form(
        request, Draft(kind, name, fields.blank(kind, settings), is_new=False, enabled=row.enabled)
    )


@requires(Permission.ACTIVATE)
@require_http_methods(GET_AND_POST)
def remove(request: HttpRequest, name: str) -> HttpResponse:
    """Ask, then take a destination out of the configuration; the ledger keeps it."""
    _row(name)
    context: dict[str, object] = {"name": name}
    try:
        plan = editing.planned(name, None)
    except ConfigError as error:
        return private(
            render(
                request,
                "config/remove_destination.html",
                context | {"problems": applying.words(error)},
            )
        )
    if request.method == "POST" and request.POST.get("base") == str(plan.base):
        return _apply(request, plan, name=name, done=f"{name} is removed")
    return private(render(request, "config/remove_destination.html", context | {"plan": plan}))


def _row(name: str) -> Destination:
    return get_object_or_404(Destination.objects.present().select_related("version"), name=name)


def _posted(request: HttpRequest, kind: Kind, *, name: str, is_new: bool) -> HttpResponse:
    draft = _draft(request, kind, name=name, is_new=is_new)
    if draft.name_problem or not draft.form.is_valid() or request.POST.get("step") == "back":
        return _form(request, draft)
    try:
        plan = editing.planned(name, draft.entry)
    except ConfigError as error:
        _place(draft, error)
        return _form(request, draft)
    if request.POST.get("step") == "apply" and request.POST.get("base") == str(plan.base):
        return _apply(request, plan, name=name, done=f"{name} is applied")
    context = {"draft": draft, "plan": plan, "values": _values(draft)}
    context["overtaken"] = request.POST.get("step") == "apply"
    return private(render(request, "config/plan.html", context))


def _place(draft: Draft, error: ConfigError) -> None:
    """Put each finding at its field; above the form what is of no field."""
    elsewhere = []
    for one in error.findings:
        key = one.path.rpartition(".")[2]
        if key in draft.form.fields:
            draft.form.add_error(key, f"{one.message[:1].upper()}{one.message[1:]}.")
        else:
            elsewhere.append(one)
    draft.problems = applying.words(ConfigError(elsewhere))


def _draft(request: HttpRequest, kind: Kind, *, name: str, is_new: bool) -> Draft:
    given = {key: str(value) for key, value in request.POST.items()}
    draft = Draft(kind, name, fields.bound(kind, given), is_new, given.get("enabled") == "true")
    draft.name_problem = _name_problem(name) if is_new else ""
    typed = fields.typed_secrets(kind, given)
    return _with_secrets(request, draft, typed) if typed and not draft.name_problem else draft


def _name_problem(name: str) -> str:
    if not NAME.match(name):
        return applying.NO_NAME
    return TAKEN if Destination.objects.present().filter(name=name).exists() else ""


def _with_secrets(request: HttpRequest, draft: Draft, typed: Mapping[str, str]) -> Draft:
    """Store what was typed under new names, once all else of the form is right."""
    if not users.holds(access.person(request), Permission.MANAGE_SECRETS):
        draft.problems = ("Storing a secret needs the permission to write secrets.",)
        draft.form = _refused(draft.form, "Not stored: ask someone who may write secrets.", typed)
        return draft
    taken = Secret.objects.values_list("name", flat=True)
    names = {one: fields.free_name(draft.name, one, taken=taken) for one in typed}
    named: dict[str, object] = {**draft.form.data}
    for one, name in names.items():
        named |= {f"{one}_env": "", f"{one}_file": "", f"{one}_stored": name}
    form = fields.bound(draft.kind, named)
    if not form.is_valid():
        form.data = draft.form.data  # nothing is stored yet, so no name of it is shown
    else:
        try:
            for one, name in names.items():
                secrets.put(name, typed[one], actor=access.actor(request))
        except secrets.SecretError as error:
            form = _refused(draft.form, str(error), typed)
    draft.form = form
    return draft


def _refused(form: DestinationForm, message: str, typed: Mapping[str, str]) -> DestinationForm:
    form.is_valid()
    for one in typed:
        form.add_error(f"{one}_stored", message)
    return form


def _values(draft: Draft) -> list[tuple[str, str]]:
    """Return the form as hidden fields; secrets are names by now."""
    given = draft.form.data
    shown = {
        key: fields.as_text(key, field, given[key])
        for key, field in draft.form.fields.items()
        if given.get(key) not in (None, "")
    }
    own = {"name": draft.name, "enabled": "true" if draft.enabled else "false"}
    return [*own.items(), *((key, str(value)) for key, value in shown.items())]


def _form(request: HttpRequest, draft: Draft) -> HttpResponse:
    context = {
        "draft": draft,
        "sections": fields.sections(draft.kind, draft.form),
        "may_store": users.holds(access.person(request), Permission.MANAGE_SECRETS),
        "failed": draft.form.is_bound and (bool(draft.form.errors) or bool(draft.name_problem)),
    }
    return private(render(request, "config/edit_destination.html", context))


def _apply(request: HttpRequest, plan: editing.Plan, *, name: str, done: str) -> HttpResponse:
    applying.apply(request, plan, done=done)
    stays = Destination.objects.present().filter(name=name).exists()
    return redirect("destination", name) if stays else redirect("destinations")
