"""Jobs: list them, and retry, hold, release or cancel their items."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from django.http import Http404, HttpRequest
from ninja import Field, Query, Schema

from router.api.endpoints import Endpoints, Id, Moment, Page, PageQuery, Text, cut, user_of
from router.models import Cause, ItemState, Job, JobItem, Permission
from router.models.jobs import JobItemQuerySet
from router.services import access, jobs, timeline
from router.services.visibility import visible_items, visible_jobs

endpoints = Endpoints("Jobs")
Verb = Literal["retry", "hold", "release", "cancel"]
VERBS: dict[str, Callable[..., int]] = {
    "retry": jobs.retry,
    "hold": jobs.hold,
    "release": jobs.release,
    "cancel": jobs.cancel,
}


class ItemFilter(Schema, extra="forbid"):
    """Which items; what is not given does not narrow."""

    study_instance_uid: Text = Field("", max_length=64)
    destination: Text = Field("", max_length=64)
    rule: Text = Field("", max_length=64)
    state: ItemState | None = None
    cause: Cause | None = None
    replay: Id | None = None
    created_before: Moment | None = None

    def items(self, items: JobItemQuerySet) -> JobItemQuerySet:
        """Return those of `items` that are meant."""
        columns = {
            "job__study__study_instance_uid": self.study_instance_uid,
            "destination__name": self.destination,
            "job__rule": self.rule,
            "state": self.state,
            "cause": self.cause,
            "job__replay": self.replay,
            "created_at__lt": self.created_before,
        }
        return items.filter(**{column: value for column, value in columns.items() if value})


class JobQuery(PageQuery, ItemFilter, extra="forbid"):
    """Which jobs: those of which an item is meant."""


class JobOut(Schema):
    """One study for one destination, from one cause, with its items by state."""

    id: int
    study_instance_uid: str
    accession_number: str
    destination: str
    cause: Cause
    rule: str
    replay: int | None
    created_at: datetime
    states: dict[str, int]


class Chosen(Schema, extra="forbid"):
    """Which items are meant: those of `jobs`, and of these what `filter` leaves. One is needed."""

    jobs: list[Id] = Field([], max_length=1000)
    filter: ItemFilter | None = None


class Changed(Schema):
    """How many items changed in fact; the others were in a state that the verb does not touch."""

    changed: int


class Nothing(Exception):
    """Neither jobs nor a filter say what is meant."""


@endpoints.reads("/jobs", Permission.SEE_STUDIES_MASKED, response=Page[JobOut])
def list_jobs(request: HttpRequest, query: Query[JobQuery]) -> dict[str, object]:
    """List the jobs whose items match, the newest first."""
    user = user_of(request)
    found = visible_jobs(user)
    if query.dict(exclude={"after", "limit"}, exclude_defaults=True):
        found = found.filter(pk__in=query.items(visible_items(user)).order_by().values("job"))
    rows, following = cut(found.select_related("study", "destination"), query)
    states = timeline.states_of(rows, user)
    return {"items": [_job(one, states.get(one.pk, ())) for one in rows], "next": following}


@endpoints.reads("/jobs/{int:pk}", Permission.SEE_STUDIES_MASKED, response=JobOut)
def get_job(request: HttpRequest, pk: int) -> dict[str, object]:
    """Show one job."""
    user = user_of(request)
    row = visible_jobs(user).select_related("study", "destination").filter(pk=pk).first()
    if row is None:
        raise Http404
    return _job(row, timeline.states_of([row], user).get(pk, ()))


@endpoints.changes("/jobs/{verb}", Permission.MANAGE_JOBS, response=Changed)
def change_jobs(request: HttpRequest, verb: Verb, chosen: Chosen) -> dict[str, int]:
    """Retry what is parked or waits, hold what is not being sent, release what is held, or cancel
    what was not sent; the count that comes back is the count that changed."""
    if not chosen.jobs and not (chosen.filter and chosen.filter.dict(exclude_defaults=True)):
        raise Nothing
    items = visible_items(user_of(request))
    if chosen.jobs:
        items = items.filter(job__in=chosen.jobs)
    if chosen.filter:
        items = items.filter(pk__in=chosen.filter.items(JobItem.objects.all()).values("pk"))
    return {"changed": VERBS[verb](items, actor=access.actor(request))}


def _job(row: Job, states: tuple[tuple[str, int], ...]) -> dict[str, object]:
    return {
        "id": row.pk,
        "study_instance_uid": row.study.study_instance_uid,
        "accession_number": row.study.accession_number,
        "destination": row.destination.name,
        "cause": row.cause,
        "rule": row.rule,
        "replay": row.replay_id,
        "created_at": row.created_at,
        "states": dict(states),
    }
