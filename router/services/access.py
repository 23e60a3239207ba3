"""What a view needs: marks that the deny-by-default middleware reads, and the check itself."""

from collections.abc import Callable
from typing import TypeVar

from django.http import HttpRequest, HttpResponseBase

from router.models import Permission, Scope, User
from router.services.actors import Actor, ActorKind

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


def requires(permission: Permission, *, scope: Scope | None = None) -> Callable[[View], View]:
    """Mark a view as open to users whose role lists ``permission``.

    With ``scope``, an API token of that scope may use it too, within its user's permissions.
    """

    def mark(view: View) -> View:
        view.required_permission = permission  # type: ignore[attr-defined]
        view.token_scope = scope  # type: ignore[attr-defined]
        return view

    return mark


def signed_in(view: View) -> View:
    """Mark a view as open to every user who is signed in."""
    view.signed_in = True  # type: ignore[attr-defined]
    return view


def public(view: View) -> View:
    """Mark a view as open to everybody."""
    view.public = True  # type: ignore[attr-defined]
    return view


def person(request: HttpRequest) -> User:
    """Return the signed-in user of a guarded view."""
    assert isinstance(request.user, User)  # noqa: S101 - the middleware has refused all others
    return request.user


def actor(request: HttpRequest) -> Actor:
    """Return who asks, and from where."""
    token = getattr(request, "api_token", None)
    kind = ActorKind.TOKEN if token else ActorKind.USER
    name = request.user.get_username() or "anonymous"
    return Actor(name, kind, request.META.get("REMOTE_ADDR", ""))
