"""What is told of proofs: on the page of a study, of a destination, of jobs, and in figures."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from router.models import (
    Commitment,
    Destination,
    Instance,
    ItemState,
    JobItem,
    Lane,
    Proof,
    ProofAttempt,
    ProofState,
    Study,
)
from router.services import clock, metrics, overview, proof_story
from tests import factories
from tests.deliveries import cleaned

ClientFor = Callable[..., Client]
P = ProofState
pytestmark = pytest.mark.django_db
# Any in this module: field values of a model, whose types the model itself checks.


@pytest.fixture
def pacs(roles: None) -> Destination:
    peer: dict[str, object] = {"host": "10.0.0.9", "port": 104, "ae_title": "PACS"}
    return factories.destination("pacs", settings=cleaned({**peer, "proof": "committed"}))


@pytest.fixture
def study() -> Study:
    return factories.study()


def delivered(study: Study, to: Destination, state: ProofState | None, **fields: Any) -> JobItem:
    """An object that was delivered, in a state of its proof."""
    job = factories.job(study, destination=to)
    done: dict[str, Any] = {"state": ItemState.DELIVERED, "finished_at": clock.now()}
    item = factories.item(job, **done | fields)
    if state is not None:
        Proof.objects.create(item=item, destination=to, study=study, state=state, delivery=0)
    return item


def said(item: JobItem, outcome: str, **fields: Any) -> None:
    usual = {"fence": 1, "delivery": 0, "grade": "committed", "outcome": outcome}
    now = clock.now()
    ProofAttempt.objects.create(item=item, started_at=now, ended_at=now, **usual | fields)


def commitment(to: Destination, **fields: Any) -> Commitment:
    now = clock.now()
    usual = {"transaction_uid": factories.uid(), "references_count": 1, "requested_at": now}
    version = to.version
    return Commitment.objects.create(
        **{"destination": to, "version": version, "until": now, **usual, **fields}
    )


@pytest.fixture
def story(study: Study, pacs: Destination) -> dict[str, JobItem]:
    """One object in each state, and one that was denied and mended; two proven by one request."""
    items = {state.value: delivered(study, pacs, state) for state in ProofState}
    first, second = items["proven"], delivered(study, pacs, P.PROVEN)
    request = commitment(pacs, transaction_uid="2.25.7")
    for item in (first, second):
        JobItem.objects.filter(pk=item.pk).update(proof="committed")
        said(item, "proven", detail="pacs has committed to keep it.", commitment=request)
    said(first, "failed", fence=2, detail="It was denied before.", status=0x0112)
    said(items["failed"], "failed", detail="pacs does not commit to keep it (0112).")
    JobItem.objects.filter(pk=items["failed"].pk).update(proof="", state=ItemState.PENDING)
    late = Proof.objects.filter(pk=items["unconfirmed"].pk)
    late.update(reason="pacs did not report in time.", due_at=clock.now() + timedelta(hours=1))
    return items


def test_a_study_tells_grade_time_and_evidence(story: dict[str, JobItem], study: Study) -> None:
    lines = proof_story.of_study(study, factories.user())
    told = {(line.kind, line.word, line.objects, line.sentence) for line in lines}
    assert told == {
        ("proven", "committed", 2, "pacs has committed to keep it."),
        ("mended", "sent again", 1, "It was denied before."),
        ("failed", "proof failed", 1, "pacs does not commit to keep it (0112)."),
        ("open", "not proven yet", 1, "pacs was not asked yet."),
        ("open", "being asked", 1, "pacs was not asked yet."),
        ("open", "commitment awaited", 1, "pacs was not asked yet."),
        ("unconfirmed", "unconfirmed", 1, "pacs did not report in time."),
    }
    assert proof_story.mood(lines) == "bad"
    proven = next(line for line in lines if line.kind == "proven")
    assert proven.transaction_uid == "2.25.7"
    assert proven.at is not None
    assert all(line.destination == "pacs" for line in lines)


def test_a_success_is_told_where_it_is_enough(study: Study, roles: None) -> None:
    disk = factories.destination("disk", kind="folder", settings={})
    delivered(study, disk, None)
    (line,) = proof_story.of_study(study, factories.user())
    assert (line.word, line.objects) == ("accepted", 1)
    assert "no more is needed" in line.sentence
    assert proof_story.mood([line]) == "ok"
    assert proof_story.mood([]) == "none"


def test_a_destination_tells_how_many_are_where(
    story: dict[str, JobItem], pacs: Destination
) -> None:
    waiting = commitment(pacs, state="accepted")
    standing = proof_story.of_destination(factories.user(), pacs)
    assert (standing.grade, standing.proven, standing.unproven) == ("committed", 2, 3)
    assert (standing.awaited, standing.unconfirmed, standing.failed) == (1, 1, 1)
    assert standing.oldest_request == waiting.requested_at
    limited = factories.user(limit={"sources": ["elsewhere"]})
    other = proof_story.of_destination(limited, pacs)
    assert (other.proven, other.unproven, other.unconfirmed, other.failed) == (0, 0, 0, 0)


def test_pages_show_it(story: dict[str, JobItem], study: Study, client_for: ClientFor) -> None:
    client = client_for("administrator")
    page = client.get("/destinations/pacs/").content.decode()
    assert "needs <strong>committed</strong>" in page
    assert "proof=unconfirmed&amp;destination=pacs" in page
    page = client.get(f"/studies/{study.pk}/").content.decode()
    assert "pacs has committed to keep it." in page
    assert "2.25.7" in page
    assert "pacs did not report in time." in page
    assert "timeline-mark-bad" in page
    job = story["unconfirmed"].job_id
    page = client.get(f"/jobs/{job}/").content.decode()
    assert "state-unconfirmed" in page
    assert "pacs did not report in time." in page
    assert "does not say whether it has 1 object" in client.get("/").content.decode()


@pytest.mark.parametrize(
    ("asked", "states"),
    [
        ("proven", {"proven"}),
        ("open", {"waiting", "asking", "awaited"}),
        ("unconfirmed", {"unconfirmed"}),
        ("failed", {"failed"}),
    ],
)
def test_jobs_are_found_by_their_proof(
    story: dict[str, JobItem], client_for: ClientFor, asked: str, states: set[str]
) -> None:
    response = client_for("operator").get(f"/jobs/?proof={asked}")
    jobs = {job.pk for job, _states in response.context["rows"]}
    found = {state for state, item in story.items() if item.job_id in jobs}
    assert found == states


def test_the_list_of_items_has_proof_and_hashes(
    story: dict[str, JobItem], client_for: ClientFor
) -> None:
    JobItem.objects.update(egress_sha256="e" * 64)
    answer = client_for("operator").get("/jobs/?format=csv&proof=unconfirmed")
    lines = b"".join(answer.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert "Unconfirmed,pacs did not report in time." in lines[1]
    assert f"{story['unconfirmed'].instance.sha256},{'e' * 64}" in lines[1]


def test_figures_tell_what_is_open(story: dict[str, JobItem]) -> None:
    told = metrics.render().decode()
    assert 'router_proofs{destination="pacs",state="unconfirmed"} 1.0' in told
    assert 'router_proofs{destination="pacs",state="failed"} 1.0' in told
    assert 'state="proven"' not in told


def test_a_far_end_that_stays_silent_needs_attention(study: Study, pacs: Destination) -> None:
    delivered(study, pacs, P.WAITING)
    user = factories.user()
    assert proof_story.unconfirmed(user) == []
    Lane.objects.update(proof_failures=4, proof_reason="pacs cannot be reached.")
    assert proof_story.unconfirmed(user) == [("pacs", "pacs cannot be reached.", 1)]
    kinds = [(one.kind, one.count, one.destination) for one in overview.attention(user)]
    assert ("unconfirmed", 1, "pacs") in kinds


def test_enough_and_short_are_each_others_contrary(study: Study, roles: None) -> None:
    needs: list[dict[str, Any]] = [{}, {"proof": "accepted"}, {"proof": "verified"}]
    for number, settings in enumerate([*needs, {"proof": "committed"}]):
        place = factories.destination(f"p{number}", settings=settings)
        for grade in ("", "accepted", "verified", "committed"):
            delivered(study, place, None, proof=grade)
    enough = JobItem.objects.delivered().of_enough_grade()
    short = JobItem.objects.delivered().short_of_grade()
    assert {*enough} | {*short} == {*JobItem.objects.all()}
    assert not {*enough} & {*short}
    found = sorted(enough.values_list("destination__name", "proof"))
    assert found == [
        *[("p0", "accepted"), ("p0", "committed"), ("p0", "verified")],
        *[("p1", "accepted"), ("p1", "committed"), ("p1", "verified")],
        *[("p2", "committed"), ("p2", "verified"), ("p3", "committed")],
    ]


def test_only_what_is_safe_everywhere_may_be_cleaned_up(study: Study, roles: None) -> None:
    """Of two destinations one needs more than the other."""
    disk = factories.destination("disk", settings={})
    pacs = factories.destination("pacs", settings={"proof": "verified"})
    instance = factories.instance(factories.series(study))

    def chosen(to: Destination, **fields: Any) -> JobItem:
        return factories.item(factories.job(study, destination=to), instance=instance, **fields)

    def may_go() -> bool:
        return Instance.objects.all().proven().filter(pk=instance.pk).exists()

    mark = factories.mark(instance)
    first = chosen(disk, state=ItemState.DELIVERED)
    assert not may_go(), "nothing is decided yet"
    mark.decision = factories.decision(study)
    mark.save(update_fields=["decision"])
    assert may_go()
    second = chosen(pacs, state=ItemState.DELIVERED)
    assert not may_go()
    JobItem.objects.filter(pk=second.pk).update(proof="verified")
    assert may_go()
    third = chosen(factories.destination("late"), state=ItemState.WAITING)
    assert not may_go()
    for state in ItemState:
        JobItem.objects.filter(pk=third.pk).update(state=state, proof="accepted")
        safe = {ItemState.DELIVERED, ItemState.DELIVERED_WITH_WARNING, ItemState.CANCELLED}
        assert may_go() == (state in safe), state
    JobItem.objects.filter(pk__in=[first.pk, second.pk, third.pk]).update(state="cancelled")
    assert not may_go(), "nobody has it"
