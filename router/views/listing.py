"""What all lists share: keyset pages, sorting, page or fragment, and CSV of what is filtered.

The cursor is the row id of the last row seen, never a value, so no address holds patient data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers, patch_vary_headers

from router.services import spreadsheet

Row = TypeVar("Row", bound=Model)
Line = TypeVar("Line")

PAGE = 50


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """One page of a list: its rows, the sort in force, and the cursor of the next page."""

    rows: list[Row]
    sort: str
    after: str
    next: str

    @property
    def is_first(self) -> bool:
        """Tell whether this is the first page."""
        return not self.after


def page(
    rows: QuerySet[Row],
    request: HttpRequest,
    *,
    sorts: Mapping[str, str],
    default: str,
    size: int = PAGE,
) -> Listing[Row]:
    """Cut one page out of ``rows`` by the ``sort`` and ``after`` of the address.

    Args:
        rows: everything that is filtered.
        request: its query says which sort and after which row.
        sorts: name in the address → column; ``-name`` turns it round.
        default: the sort when none, or an unknown one, is asked for.
        size: rows a page.
    """
    asked = request.GET.get("sort", "")
    sort = asked if asked.lstrip("-") in sorts else default
    column = sorts[sort.lstrip("-")]
    sign = "-" if sort.startswith("-") else ""
    after = request.GET.get("after", "")
    ordered = rows.order_by(*dict.fromkeys([f"{sign}{column}", f"{sign}pk"]))
    found = list(_beyond(ordered, after, column, descending=bool(sign))[: size + 1])
    following = str(found[size - 1].pk) if len(found) > size else ""
    return Listing(found[:size], sort, after if after.isdigit() else "", following)


def _beyond(rows: QuerySet[Row], after: str, column: str, *, descending: bool) -> QuerySet[Row]:
    if not after.isdigit():
        return rows
    last = rows.model._default_manager.filter(pk=int(after)).values_list(column, flat=True)[:1]
    if not last:
        return rows
    way = "lt" if descending else "gt"
    step = Q(**{f"pk__{way}": int(after)})
    if column in {"pk", "id"}:
        return rows.filter(step)
    return rows.filter(Q(**{f"{column}__{way}": last[0]}) | Q(**{column: last[0]}) & step)


def shown(
    request: HttpRequest, whole: str, fragment: str, context: Mapping[str, object]
) -> HttpResponse:
    """Render the page, or only its fragment when htmx asks; neither is kept by a cache."""
    response = render(request, fragment if _wants_fragment(request) else whole, dict(context))
    return private(response)


def _wants_fragment(request: HttpRequest) -> bool:
    asked = getattr(request, "htmx", None)
    return asked is not None and bool(asked) and not asked.boosted


def private(response: HttpResponse) -> HttpResponse:
    """Keep a response out of every cache."""
    add_never_cache_headers(response)
    patch_vary_headers(response, ["HX-Request"])
    return response


def wants_csv(request: HttpRequest) -> bool:
    """Tell whether the address asks for CSV."""
    return request.GET.get("format") == "csv"


def as_csv(
    name: str, heads: Sequence[str], rows: Iterable[Line], cells: Callable[[Line], Sequence[object]]
) -> StreamingHttpResponse:
    """Answer with a CSV file of all ``rows``, each cell safe for a spreadsheet."""
    lines = spreadsheet.lines(heads, rows, cells)
    response = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    add_never_cache_headers(response)
    return response
