"""The addresses of `/api/v1/`, each with its mark of access, and how failures are told.

What no operation takes answers 404 as JSON, after the token was looked at.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from router.api import destinations, jobs, replays, studies
from router.api.endpoints import Access, Bearer, Endpoints, UnknownParameter
from router.api.jobs import Nothing
from router.models import Permission, Scope
from router.problems import problem
from router.services.replays import ReplayRefused
from router.version import VERSION

# Any in this module: django-ninja's own views and errors.

Failure = TypeVar("Failure", bound=Exception)
View = Callable[..., HttpResponseBase]

NOUNS: tuple[Endpoints, ...] = (
    replays.endpoints, jobs.endpoints, studies.endpoints, destinations.endpoints,
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
READS: Access = (Permission.SEE_DASHBOARD, Scope.API_READ)
DESCRIPTION = """What the console does, for programs. Send `Authorization: Bearer TOKEN`; a token's
rights are its scopes within its owner's permissions. Failures are problem details (RFC 9457). Lists
come in pages: pass `next` as `after`. Times are ISO 8601."""


def _marked(view: View, access: dict[str, Access]) -> View:
    view.access_by_method = access  # type: ignore[attr-defined] # what the middleware reads
    return view


api = NinjaAPI(
    title="DICOM Router",
    version=VERSION,
    description=DESCRIPTION,
    urls_namespace="api",
    auth=Bearer(),
    docs_url=None,
    docs_decorator=lambda view: _marked(view, {"GET": READS}),
)
for noun in NOUNS:
    api.add_router("", noun.router)


@api.exception_handler(Http404)
def _absent(_request: HttpRequest, _error: Http404) -> HttpResponse:
    return problem(404, "There is nothing here that this token may see.")


@api.exception_handler(ReplayRefused)
def _refused(request: HttpRequest, error: ReplayRefused) -> HttpResponse:
    """What cannot be planned is the request's fault; what cannot be moved is the replay's state."""
    return problem(422 if request.path.endswith("/replays") else 409, str(error))


@api.exception_handler(UnknownParameter)
def _unknown(_request: HttpRequest, error: UnknownParameter) -> HttpResponse:
    return problem(422, f"There is no such parameter; known here: {error}.")


@api.exception_handler(Nothing)
def _nothing(_request: HttpRequest, _error: Nothing) -> HttpResponse:
    return problem(422, "Say which items are meant: jobs, or a filter that narrows.")


@api.exception_handler(ValidationError)
def _invalid(_request: HttpRequest, error: ValidationError) -> HttpResponse:
    """Say what is wrong where; never what was given."""
    errors = [
        {"pointer": "/".join(map(str, one["loc"])), "detail": one["msg"]} for one in error.errors
    ]
    return problem(422, "The request is not what the document says.", errors=errors)


@api.exception_handler(HttpError)
def _failed(_request: HttpRequest, error: HttpError) -> HttpResponse:
    said = {400: "The body is no JSON.", 401: "A bearer token is expected."}
    return problem(error.status_code, said.get(error.status_code, "It cannot be done."))


def absent(_request: HttpRequest, **_route: Any) -> HttpResponse:
    """Answer for an address that is none."""
    return problem(404, "There is no such address; see openapi.json.")


def _routes() -> dict[str, dict[str, Access]]:
    """Who may call what, by route as Django writes it."""
    found: dict[str, dict[str, Access]] = {}
    for noun in NOUNS:
        for route, access in noun.access.items():
            found[route.lstrip("/").replace("{", "<").replace("}", ">")] = access
    return found


def _patterns() -> list[URLPattern]:
    """The addresses of the operations and the document, all marked; then whatever else."""
    routes = _routes()
    patterns: list[URLPattern] = []
    for pattern in api.urls[0]:
        assert isinstance(pattern, URLPattern)  # noqa: S101 - django-ninja makes no other
        route = str(pattern.pattern)
        if route in routes:
            _marked(pattern.callback, routes[route])
        elif route == "":
            continue  # its root, which only says that there is none
        patterns.append(pattern)
    rest = _marked(absent, dict.fromkeys(METHODS, READS))
    # django-ninja looks its root up by this name for the document.
    return [*patterns, path("", rest, name="api-root"), path("<path:rest>", rest, name="absent")]


urlpatterns = _patterns()
