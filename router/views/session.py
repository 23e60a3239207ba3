"""Signing in and out, the password, the theme; each sign-in, refusal and sign-out is audited."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout, update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from router.forms import LoginForm
from router.models import AuditOutcome, User
from router.services import access, audit
from router.services.access import public, signed_in
from router.services.actors import Actor
from router.views.frame import THEME_COOKIE, THEMES
from router.views.listing import private

YEAR = 365 * 24 * 3600


@public
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Show the form, or sign a person in and go where they wanted to go."""
    target = _target(request)
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(target)
        return private(render(request, "registration/login.html", _blank(request, target)))
    form = LoginForm(request, data=request.POST)
    if not form.is_valid():
        _record_refusal(request)
        context = {"form": form, "next": target}
        return private(render(request, "registration/login.html", context, status=200))
    login(request, form.get_user())
    audit.record("login.success", actor=access.actor(request), code="authentication")
    return redirect(target)


def _blank(request: HttpRequest, target: str) -> dict[str, object]:
    return {"form": LoginForm(request), "next": target}


def _record_refusal(request: HttpRequest) -> None:
    # A name nobody has may be a password typed into the wrong field: it is not written down.
    typed = request.POST.get("username", "")
    known = User.objects.filter(username=typed).exists()
    audit.record(
        "login.failure",
        actor=Actor(typed if known else "(unknown name)", address=_address(request)),
        code="authentication",
        outcome=AuditOutcome.MINOR_FAILURE,
    )


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))


def _target(request: HttpRequest) -> str:
    """Return the address asked for, if it is one of ours."""
    asked = request.POST.get("next") or request.GET.get("next") or ""
    ours = url_has_allowed_host_and_scheme(
        asked, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return asked if ours else settings.LOGIN_REDIRECT_URL


@public
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    if request.user.is_authenticated:
        audit.record("logout", actor=access.actor(request), code="authentication")
    logout(request)
    return redirect(settings.LOGOUT_REDIRECT_URL)


@signed_in
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def password(request: HttpRequest) -> HttpResponse:
    """Change one's own password."""
    person = access.person(request)
    form = PasswordChangeForm(person, data=request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        update_session_auth_hash(request, person)
        audit.record(
            "user.password_changed",
            actor=access.actor(request),
            code="security",
            target=f"user {person.get_username()}",
        )
        messages.success(request, "Your password is changed. Other sessions of yours have ended.")
        return redirect("/")
    return private(render(request, "registration/password.html", {"form": form}))


@public
@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remember light, dark or the system's choice, in a cookie."""
    chosen = request.POST.get("theme", "system")
    response: HttpResponseRedirect = redirect(_target(request))
    response.set_cookie(
        THEME_COOKIE,
        chosen if chosen in THEMES else "system",
        max_age=YEAR,
        samesite="Lax",
        secure=request.is_secure(),
        httponly=True,
    )
    return response
