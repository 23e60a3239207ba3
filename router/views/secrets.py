"""Stored secrets: what names there are and who uses them; values go in and never come out."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from router.forms import SecretForm
from router.models import Permission
from router.services import access, secrets
from router.services.access import requires
from router.views.listing import private


@requires(Permission.MANAGE_SECRETS)
@sensitive_post_parameters("value")
@require_http_methods(["GET", "HEAD", "POST"])
def stored(request: HttpRequest) -> HttpResponse:
    """List the stored secrets, or put one in."""
    form = SecretForm(request.POST or None, initial={"name": request.GET.get("name", "")})
    if request.method == "POST" and form.is_valid():
        name, value = form.cleaned_data["name"], form.cleaned_data["value"]
        is_new = secrets.put(name, value, actor=access.actor(request))
        done = "is stored" if is_new else "is replaced; it is used from now on"
        messages.success(request, f"The secret {name} {done}.")
        return redirect("secrets")
    context = {"form": form, "secrets": secrets.known()}
    return private(render(request, "secrets/index.html", context))


@requires(Permission.MANAGE_SECRETS)
@require_POST
def remove(request: HttpRequest, name: str) -> HttpResponse:
    """Forget a secret that no destination names."""
    try:
        secrets.remove(name, actor=access.actor(request))
    except secrets.SecretError as error:
        messages.warning(request, f"Nothing was changed. {error}")
    else:
        messages.success(request, f"The secret {name} is removed.")
    return redirect("secrets")
