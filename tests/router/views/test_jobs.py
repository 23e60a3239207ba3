"""Jobs: what many items undergo at once, counted honestly; and quarantine and lanes."""

from collections.abc import Callable

import pytest
from django.test import Client

from router.models import Instance, ItemState, JobItem, Lane, Priority, Study
from tests import factories

ClientFor = Callable[..., Client]


@pytest.fixture
def items(roles: None) -> list[JobItem]:
    """Make one item of each state, each in a job of its own for one destination."""
    pacs = factories.destination("pacs")
    return [
        factories.item(factories.job(destination=pacs), state=state) for state in ItemState.values
    ]


def states(items: list[JobItem]) -> dict[str, str]:
    return {
        item.state: JobItem.objects.values_list("state", flat=True).get(pk=item.pk)
        for item in items
    }


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("retry", {"parked": "pending", "waiting": "pending"}),
        ("hold", {"pending": "held", "waiting": "held"}),
        ("release", {"held": "pending"}),
        ("cancel", dict.fromkeys(["pending", "waiting", "held", "parked"], "cancelled")),
    ],
)
def test_action_touches_only_the_states_it_names(
    client_for: ClientFor, items: list[JobItem], action: str, changed: dict[str, str]
) -> None:
    client = client_for("operator")

    asked = client.get(f"/jobs/confirm/?action={action}&all=1")
    done = client.post("/jobs/apply/", {"action": action, "all": "1"}, follow=True)

    assert asked.context["count"] == len(changed)
    assert asked.context["untouched"] == len(items) - len(changed)
    assert states(items) == {state: changed.get(state, state) for state in ItemState.values}
    noun = "object is" if len(changed) == 1 else "objects are"
    assert f"{len(changed)} {noun}" in done.content.decode()


@pytest.mark.django_db
def test_a_job_is_made_urgent_and_found_by_that(
    client_for: ClientFor, items: list[JobItem]
) -> None:
    client = client_for("operator")
    unfinished = sum(
        item.state in {"pending", "waiting", "leased", "parked", "held"} for item in items
    )

    asked = client.get("/jobs/confirm/?action=urgent&all=1").content.decode()
    done = client.post("/jobs/apply/", {"action": "urgent", "all": "1"}, follow=True)

    assert f"Make {unfinished} objects urgent for pacs?" in asked
    assert f"{unfinished} objects are urgent now." in done.content.decode()
    assert JobItem.objects.filter(priority=Priority.URGENT).count() == unfinished
    assert "state-urgent" in client.get("/jobs/").content.decode()
    found = client.get("/jobs/?priority=1").context["rows"]
    assert len(found) == unfinished
    assert not client.get("/jobs/?priority=3").context["rows"]


@pytest.mark.django_db
def test_only_ticked_jobs_are_touched(client_for: ClientFor, items: list[JobItem]) -> None:
    parked = next(item for item in items if item.state == ItemState.PARKED)
    other = factories.item(state=ItemState.PARKED)

    client_for("operator").post("/jobs/apply/", {"action": "retry", "job": [parked.job_id]})

    assert JobItem.objects.get(pk=parked.pk).state == ItemState.PENDING
    assert JobItem.objects.get(pk=other.pk).state == ItemState.PARKED


@pytest.mark.django_db
def test_nothing_ticked_touches_nothing(client_for: ClientFor, items: list[JobItem]) -> None:
    client = client_for("operator")

    assert "No job was ticked" in client.get("/jobs/confirm/?action=retry").content.decode()
    done = client.post("/jobs/apply/", {"action": "retry"}, follow=True)

    assert "Nothing was changed" in done.content.decode()
    assert states(items) == {state: state for state in ItemState.values}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "data",
    [{"action": "explode", "all": "1"}, {"action": "cancel", "all": "1", "destination": "nowhere"}],
)
def test_unknown_action_or_filter_is_refused(
    client_for: ClientFor, items: list[JobItem], data: dict[str, str]
) -> None:
    assert client_for("operator").post("/jobs/apply/", data).status_code == 404
    assert states(items) == {state: state for state in ItemState.values}


@pytest.mark.django_db
def test_filters_choose_the_jobs_shown(client_for: ClientFor, items: list[JobItem]) -> None:
    client = client_for("operator")
    held = next(item for item in items if item.state == ItemState.HELD)

    listing = client.get("/jobs/?state=held&destination=pacs").context["listing"]

    assert [job.pk for job in listing.rows] == [held.job_id]


@pytest.mark.django_db
def test_dashboard_retries_one_cause(client_for: ClientFor, story: Study) -> None:
    client = client_for("operator")
    page = client.get("/")
    cause = next(one for one in page.context["attention"] if one.kind == "parked")

    client.post(
        "/jobs/apply/",
        {
            "action": "retry",
            "all": "1",
            "state": "parked",
            "next": "/",
            "destination": cause.destination,
            "reason": cause.reason,
        },
    )

    assert "Retry 36" in page.content.decode()
    assert not JobItem.objects.filter(state=ItemState.PARKED).exists()


@pytest.mark.django_db
def test_releases_and_discards_what_is_in_quarantine(client_for: ClientFor, story: Study) -> None:
    client = client_for("operator")
    first, second = Instance.objects.quarantined().order_by("pk")

    client.post(f"/quarantine/{first.pk}/release/")
    assert (
        "Its bytes are deleted" in client.get(f"/quarantine/{second.pk}/discard/").content.decode()
    )
    client.post(f"/quarantine/{second.pk}/discard/")
    again = client.post(f"/quarantine/{second.pk}/release/", follow=True)

    assert Instance.objects.get(pk=first.pk).state == "version"
    assert Instance.objects.get(pk=second.pk).state == "purged"
    assert "Nothing was changed" in again.content.decode()


@pytest.mark.django_db
def test_resumes_and_pauses_a_lane(client_for: ClientFor, story: Study) -> None:
    client = client_for("operator")

    client.post("/destinations/pacs-2/resume/")
    client.post("/destinations/archive/pause/")

    found = dict(Lane.objects.values_list("destination__name", "state"))
    assert (found["pacs-2"], found["archive"]) == ("open", "paused")


@pytest.mark.django_db
def test_drains_a_lane(client_for: ClientFor, story: Study) -> None:
    client = client_for("operator")

    done = client.post("/destinations/archive/drain/", follow=True).content.decode()

    assert "archive is drained" in done
    assert "state-draining" in done
    again = client.post("/destinations/archive/drain/", follow=True).content.decode()
    assert "Nothing was changed" in again


@pytest.mark.django_db
def test_verification_shows_its_steps(client_for: ClientFor, tmp_path: object) -> None:
    settings = {"path": str(tmp_path), "layout": "{SOPInstanceUID}.dcm", "mode": "0640"}
    factories.destination("disk", kind="folder", settings=settings)
    client = client_for("operator")

    page = client.post("/destinations/disk/verify/").content.decode()
    fragment = client.post(
        "/destinations/disk/verify/", headers={"HX-Request": "true"}
    ).content.decode()

    assert "every step went well" in page
    assert fragment.strip().startswith('<div id="verification"')


@pytest.mark.django_db
def test_settings_hide_secrets(client_for: ClientFor) -> None:
    settings = {"url": "http://x", "password": "hunter2", "password_env": "PACS_PASSWORD"}
    factories.destination("web", kind="dicom", settings=settings)

    page = client_for("operator").get("/destinations/web/").content.decode()

    assert "hunter2" not in page
    assert "PACS_PASSWORD" in page
