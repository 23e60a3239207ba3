"""Operations with who may call them, and what all answers share: pages and times.

The marks are read by the middleware, which refuses before anything here runs.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from ninja import Field, Router, Schema
from ninja.security import HttpBearer
from pydantic import AfterValidator

from router.models import ApiToken, Permission, Scope, User

# Any in this module: what django-ninja takes and gives back.

Operation = TypeVar("Operation", bound=Callable[..., Any])
Row = TypeVar("Row", bound=Model)
Out = TypeVar("Out")

USUAL_PAGE = 50
MOST_PAGE = 500

Access = tuple[Permission, Scope]


def _in_utc(moment: datetime) -> datetime:
    """Return a moment in UTC, of which one without a time zone is.

    Raises:
        ValueError: there is no such moment in UTC.
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("A moment of the years 1 to 9999 in UTC is expected.") from error


Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""A row id."""
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Text that a database takes."""
Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A moment; one without a time zone is of UTC."""


class UnknownParameter(Exception):
    """An address asks for something that the operation does not know; the text names what it does.

    To leave it out would answer another question than was asked.
    """


class Bearer(HttpBearer):
    """The token that the middleware has let through: for the document, and as a second look."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken | None:
        """Return the token of the request, or None where nobody has checked one."""
        found = getattr(request, "api_token", None)
        return found if isinstance(found, ApiToken) else None


class Endpoints:
    """The operations on one noun: a router, and by route and method who may call what."""

    def __init__(self, tag: str) -> None:
        self.router = Router(tags=[tag])
        self.access: dict[str, dict[str, Access]] = {}

    def reads(
        self, route: str, permission: Permission, **how: Any
    ) -> Callable[[Operation], Operation]:
        """Mark a function as what GET does, for tokens with ``api:read``."""
        return self._operation("GET", route, (permission, Scope.API_READ), how)

    def asks(
        self, route: str, permission: Permission, **how: Any
    ) -> Callable[[Operation], Operation]:
        """Mark a function as what POST does that changes nothing, for tokens with ``api:read``."""
        return self._operation("POST", route, (permission, Scope.API_READ), how)

    def changes(
        self, route: str, permission: Permission, **how: Any
    ) -> Callable[[Operation], Operation]:
        """Mark a function as what POST does, for tokens with ``api:write``."""
        return self._operation("POST", route, (permission, Scope.API_WRITE), how)

    def _operation(
        self, method: str, route: str, access: Access, how: Mapping[str, Any]
    ) -> Callable[[Operation], Operation]:
        def mark(function: Operation) -> Operation:
            self.access.setdefault(route, {})[method] = access
            self.router.add_api_operation(
                route, [method], _strict(function), operation_id=function.__name__, **how
            )
            return function

        return mark


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse parameters of the address that are not those of the function's query."""
    hint = get_type_hints(function, include_extras=True).get("query")
    parts = get_args(hint)  # of a body there are none
    known = set(parts[0].model_fields) if parts else set()

    @wraps(function)
    def asked(request: HttpRequest, *arguments: Any, **named: Any) -> Any:
        if set(request.GET) - known:
            raise UnknownParameter(", ".join(sorted(known)) or "none")
        return function(request, *arguments, **named)

    return asked


class PageQuery(Schema):
    """Which page of a list."""

    after: Id | None = Field(None, description="The `next` of the page before.")
    limit: int = Field(USUAL_PAGE, ge=1, le=MOST_PAGE)


class Page(Schema, Generic[Out]):
    """One page of a list, newest first; `next` is null on the last one."""

    items: list[Out]
    next: int | None = Field(None, description="What the next page comes after.")


def cut(rows: QuerySet[Row], page: PageQuery) -> tuple[list[Row], int | None]:
    """Cut one page out of `rows`, newest first, by row id: what comes meanwhile moves nothing."""
    ordered = rows.order_by("-pk")
    if page.after is not None:
        ordered = ordered.filter(pk__lt=page.after)
    found = list(ordered[: page.limit + 1])
    if len(found) <= page.limit:
        return found, None
    return found[: page.limit], int(found[page.limit - 1].pk)


def user_of(request: HttpRequest) -> User:
    """Return the owner of the token."""
    assert isinstance(request.user, User)  # noqa: S101 - the middleware has refused all others
    return request.user
