"""The client's address, and permission: denied unless a view says who may."""

import hashlib
import ipaddress
from collections.abc import Callable, Mapping

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import add_never_cache_headers

from router.models import ApiToken, User
from router.problems import problem
from router.services import clock, users

GetResponse = Callable[[HttpRequest], HttpResponseBase]
PROGRAM_PREFIXES = ("/dicom-web", "/api/", "/metrics", "/wado")


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _trusted(address: str) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in settings.TRUSTED_PROXIES)


def address_of(request: HttpRequest) -> str:
    """Return the peer's address, after the trusted proxies were taken off."""
    return str(request.META.get("REMOTE_ADDR", ""))


def client_address(get_response: GetResponse) -> GetResponse:
    """Believe forwarded headers only from ``ROUTER_TRUSTED_PROXIES``; drop them otherwise."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if _trusted(request.META.get("REMOTE_ADDR", "")):
            hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
            for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
                if _parsed(hop) is None:
                    break  # no address: what lies behind it cannot be believed either
                request.META["REMOTE_ADDR"] = hop
                if not _trusted(hop):
                    break
        else:
            request.META.pop("HTTP_X_FORWARDED_PROTO", None)
        request.META.pop("HTTP_X_FORWARDED_FOR", None)
        return get_response(request)

    return middleware


class RequirePermission:
    """Let a request through only where the view's mark allows this user or token."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Pass on; the decision needs the resolved view. What a token got is kept by no cache."""
        response = self.get_response(request)
        if hasattr(request, "api_token"):
            add_never_cache_headers(response)
        return response

    def process_view(
        self, request: HttpRequest, view: Callable[..., HttpResponseBase], *_arguments: object
    ) -> HttpResponseBase | None:
        """Refuse with 401, 403 or a redirect to the login page."""
        if getattr(view, "public", False):
            return None
        for_programs = getattr(view, "access_by_method", None)
        if for_programs is not None:
            return self._program(request, for_programs)
        program = request.path.startswith(PROGRAM_PREFIXES)
        scope = getattr(view, "token_scope", None)
        if "Authorization" in request.headers and scope is not None:
            return self._token(request, view, scope)
        if not request.user.is_authenticated:
            if program:
                return problem(401, "Authentication is required.")
            return redirect_to_login(request.get_full_path())
        if getattr(view, "signed_in", False):
            return None
        permission = getattr(view, "required_permission", None)
        if isinstance(request.user, User) and permission and users.holds(request.user, permission):
            return None
        if program:
            return problem(403, "This account lacks the permission.")
        raise PermissionDenied

    def _program(
        self, request: HttpRequest, access: Mapping[str, tuple[str, str]]
    ) -> HttpResponseBase | None:
        """A view for programs takes tokens only: a cookie of a person opens nothing here (R43)."""
        if "Authorization" not in request.headers:
            return problem(401, "A bearer token is expected.")
        method = request.method or ""
        if method in access:
            return self._admit(request, *access[method])
        if _find_token(request.headers["Authorization"]) is None:
            return problem(401, "The token is unknown, expired or revoked.")
        answer = problem(405, f"{method} is not among what can be done here.")
        answer["Allow"] = ", ".join(access)
        return answer

    def _token(
        self, request: HttpRequest, view: Callable[..., HttpResponseBase], scope: str
    ) -> HttpResponseBase | None:
        return self._admit(request, str(getattr(view, "required_permission", None)), scope)

    def _admit(self, request: HttpRequest, permission: str, scope: str) -> HttpResponseBase | None:
        """Let a token through that has the scope, within its owner's permissions."""
        token = _find_token(request.headers["Authorization"])
        if token is None:
            return problem(401, "The token is unknown, expired or revoked.")
        if not users.token_may(token, permission, scope):
            return problem(403, "The token lacks the scope or its owner the permission.")
        users.note_use(token)
        request.user = token.user
        request.api_token = token  # type: ignore[attr-defined]
        return None


def _find_token(header: str) -> ApiToken | None:
    kind, _, value = header.partition(" ")
    if kind.lower() != "bearer" or not value.strip():
        return None
    digest = hashlib.sha256(value.strip().encode()).hexdigest()
    usable = ApiToken.objects.select_related("user__role").usable(clock.now())
    return usable.filter(digest=digest).first()
