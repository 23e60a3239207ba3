"""The statistics page: counts over days as bars and tables, and as CSV of exactly what is shown."""

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.http import require_safe

from router.forms import FilterForm
from router.models import CounterKind, Destination, Permission, User
from router.services import access, statistics
from router.services.access import requires
from router.services.statistics import PERIODS, USUAL_PERIOD, Wanted
from router.views.listing import as_csv, shown, wants_csv

# Any in this module: what Django's own forms take, and a row of values().

HEADS = ("From", "Counted", "Modality", "Source", "Destination", "Objects", "Bytes")


class StatisticsFilter(FilterForm):
    """Filters of the statistics: a period up to now, and what is counted."""

    period = forms.ChoiceField(
        required=False,
        label="Period",
        choices=[(str(days), "Today" if days == 1 else f"{days} days") for days in PERIODS],
        initial=str(USUAL_PERIOD),
        widget=forms.Select(attrs={"class": "select select-sm"}),
    )
    modality = forms.ChoiceField(
        required=False, label="Modality", widget=forms.Select(attrs={"class": "select select-sm"})
    )
    source = forms.ChoiceField(
        required=False, label="Source", widget=forms.Select(attrs={"class": "select select-sm"})
    )
    destination = forms.ChoiceField(
        required=False,
        label="Delivered to",
        widget=forms.Select(attrs={"class": "select select-sm"}),
    )

    def __init__(self, data: Any, *, user: User) -> None:
        given = data.copy()
        given.setdefault("period", str(USUAL_PERIOD))
        super().__init__(given, user=user)

    def offer(self) -> None:
        """Offer what occurs, and the destinations there are."""
        self.offer_origins()
        names = Destination.objects.values_list("name", flat=True)
        choices = [("", "Any"), *[(name, name) for name in names]]
        self.fields["destination"].choices = choices  # type: ignore[attr-defined]

    @property
    def active(self) -> list[tuple[str, str, str]]:
        """Return the filters in force; a period there is always."""
        return [one for one in super().active if one[0] != "period"]

    def wanted(self) -> Wanted:
        """Return what is asked for."""
        return Wanted(
            days=int(self.value("period") or USUAL_PERIOD),
            modality=self.value("modality") or "",
            source=self.value("source") or "",
            destination=self.value("destination") or "",
        )


@requires(Permission.SEE_DASHBOARD)
@require_safe
def page(request: HttpRequest) -> HttpResponseBase:
    """Show what came and went in the days asked for."""
    user = access.person(request)
    filters = StatisticsFilter(request.GET, user=user)
    wanted = filters.wanted()
    if wants_csv(request):
        return as_csv("statistics", HEADS, statistics.rows(user, wanted), _cells)
    context = {
        "filters": filters,
        "wanted": wanted,
        "statistics": statistics.read(user, wanted),
        "without_institutions": "institutions" in user.limits(),
    }
    return shown(request, "statistics/index.html", "statistics/_panels.html", context)


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["start"].isoformat(timespec="minutes"),
        CounterKind(row["kind"]).label,
        row["modality"],
        row["source"],
        row["destination"],
        row["total"],
        row["total_bytes"],
    )
