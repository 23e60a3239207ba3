"""Triage: failures by what they have in common, and verbs that count what they changed."""

from typing import Any  # field values of a model

import pytest

from router.models import AuditEvent, Cause, Destination, ItemState, Job, JobItem
from router.services import reckoning, triage
from router.services.actors import Actor
from tests import factories

S = ItemState
ANN = Actor("ann", address="10.0.0.9")
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> Destination:
    return factories.destination("pacs")


def _failed(destination: Destination, count: int = 1, **fields: Any) -> list[JobItem]:
    of_instance = {k: fields.pop(k) for k in list(fields) if k.endswith("_uid")}
    job = factories.job(destination=destination)
    series = factories.series(job.study)
    usual = {"state": S.PARKED, "status": 0xA900, "reason": "It does not match."}
    return [
        factories.item(job, instance=factories.instance(series, **of_instance), **usual | fields)
        for _ in range(count)
    ]


def _sizes(items: list[triage.Group]) -> list[tuple[str, str, int | None, int, int]]:
    return [(g.key.destination, g.nature, g.key.status, g.count, g.studies) for g in items]


def test_groups_by_destination_cause_class_and_syntax(pacs: Destination) -> None:
    other = factories.destination("other")
    _failed(pacs, 3)
    _failed(pacs, 2)
    _failed(pacs, 4, sop_class_uid=MR_IMAGE_STORAGE)
    _failed(pacs, 2, transfer_syntax_uid=JPEG_BASELINE)
    _failed(pacs, 1, status=0x0122)
    _failed(other, 6)
    found, more = triage.groups(JobItem.objects.all())
    assert more == 0
    assert _sizes(found) == [
        ("other", "object", 0xA900, 6, 1),
        ("pacs", "object", 0xA900, 5, 2),
        ("pacs", "object", 0xA900, 4, 1),
        ("pacs", "object", 0xA900, 2, 1),
        ("pacs", "agreement", 0x0122, 1, 1),
    ]
    assert [group.sop_class for group in found[1:3]] == ["CT Image Storage", "MR Image Storage"]
    for group in found:
        assert group.key.of(JobItem.objects.all()).count() == group.count


def test_without_a_status_the_sentence_is_the_cause(pacs: Destination) -> None:
    _failed(pacs, 3, state=S.WAITING, tries=2, status=None, reason="No answer.")
    _failed(pacs, 2, status=None, reason="The stored object is missing.")
    _failed(pacs, 1, state=S.HELD, status=None, reason="The address has changed.")
    found, _more = triage.groups(JobItem.objects.all())
    assert [(g.nature, g.key.seen, g.count) for g in found] == [
        ("connection", "No answer.", 3),
        ("object", "The stored object is missing.", 2),
        ("held", "The address has changed.", 1),
    ]


def test_one_status_is_one_cause_however_it_is_worded(pacs: Destination) -> None:
    _failed(pacs, 1, reason="It names (0010,0010).")
    _failed(pacs, 1, reason="It names (0008,0018).")
    ((group,), _more) = triage.groups(JobItem.objects.all())
    assert group.count == group.key.of(JobItem.objects.all()).count() == 2


def test_an_override_of_the_destination_says_what_is_at_fault() -> None:
    settings = {"outcomes": {"A9xx": "retry"}}
    _failed(factories.destination("odd", settings=settings), state=S.WAITING, tries=1)
    ((group,), _more) = triage.groups(JobItem.objects.all())
    assert group.nature == "passing"


@pytest.mark.parametrize(
    ("state", "tries", "is_failure"),
    [(S.PENDING, 3, False), (S.LEASED, 1, False), (S.WAITING, 0, False), (S.WAITING, 1, True),
     (S.DELIVERED, 1, False), (S.CANCELLED, 1, False), (S.PARKED, 0, True), (S.HELD, 0, True)],
)  # fmt: skip
def test_what_is_an_open_failure(
    pacs: Destination, state: ItemState, tries: int, is_failure: bool
) -> None:
    _failed(pacs, state=state, tries=tries)
    assert triage.failures(JobItem.objects.all()).exists() is is_failure


def test_says_how_many_groups_are_not_shown(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triage, "MOST_GROUPS", 2)
    for status in (0xA900, 0xA901, 0xA902, 0xA903, 0xA904):
        _failed(pacs, status=status)
    found, more = triage.groups(JobItem.objects.all())
    assert (len(found), more) == (2, 3)


def test_excludes_with_the_reason_kept_and_audited(pacs: Destination) -> None:
    items = _failed(pacs, 3)
    _failed(pacs, status=0x0122)
    ((group, _other), _more) = triage.groups(JobItem.objects.all())
    mine = group.key.of(JobItem.objects.all())
    assert triage.exclude(mine, reason="Reports are not for the PACS.", actor=ANN) == 3
    rows = JobItem.objects.filter(pk__in=[item.pk for item in items])
    wanted = "Excluded by ann: Reports are not for the PACS."
    assert set(rows.values_list("state", "reason")) == {(S.CANCELLED, wanted)}
    event = AuditEvent.objects.get()
    assert (event.event, event.target, event.actor) == (
        "items.excluded", "destination pacs", "ann"
    )  # fmt: skip
    assert event.details == {"count": 3, "reason": "Reports are not for the PACS."}
    assert JobItem.objects.filter(state=S.PARKED).count() == 1


def test_sends_elsewhere_what_is_not_there_yet(pacs: Destination) -> None:
    other = factories.destination("other", endpoint=7)
    items = _failed(pacs, 4, transform="x")
    there = factories.job(items[0].job.study, destination=other)
    factories.item(there, instance=items[0].instance, transform="x", state=S.DELIVERED)
    factories.item(there, instance=items[1].instance, transform="x", state=S.CANCELLED)
    factories.item(there, instance=items[2].instance, transform="y", state=S.DELIVERED)
    mine = JobItem.objects.filter(destination=pacs)
    done = triage.readdress(mine, other, reason="It is full.", actor=ANN)
    assert done == triage.Readdressed(moved=3, there=1)
    assert set(mine.values_list("state", "reason")) == {
        (S.CANCELLED, "Sent to other instead by ann: It is full.")
    }
    job = Job.objects.get(cause=Cause.MANUAL)
    assert (job.study, job.destination) == (items[0].job.study, other)
    fresh = job.items.order_by("instance_id")
    assert [one.instance_id for one in fresh] == [item.instance_id for item in items[1:]]
    assert {(one.state, one.transform, one.endpoint, one.decision) for one in fresh} == {
        (S.PENDING, "x", 7, None)
    }
    event = AuditEvent.objects.get()
    assert (event.event, event.target) == ("items.readdressed", "destination pacs to other")
    assert event.details == {"count": 3, "there": 1, "reason": "It is full."}
    pairs = [gap for gap in reckoning.reckon().gaps if gap[0] == "pairs"]
    assert pairs == []


def test_what_moved_on_meanwhile_is_left_alone(pacs: Destination) -> None:
    other = factories.destination("other")
    (item,) = _failed(pacs, state=S.DELIVERED)
    everything = JobItem.objects.filter(destination=pacs)
    done = triage.readdress(everything, other, reason="x", actor=ANN)
    assert (done.moved, done.there) == (0, 0)
    assert triage.exclude(everything, reason="x", actor=ANN) == 0
    item.refresh_from_db()
    assert item.state == S.DELIVERED
    assert not AuditEvent.objects.exists()
    assert not Job.objects.filter(destination=other).exists()


def test_moves_more_than_go_at_once(pacs: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triage, "AT_ONCE", 2)
    other = factories.destination("other")
    _failed(pacs, 5)
    done = triage.readdress(JobItem.objects.all(), other, reason="x", actor=ANN)
    assert (done.moved, JobItem.objects.filter(destination=other).count()) == (5, 5)
    assert Job.objects.filter(destination=other).count() == 1
    details = AuditEvent.objects.order_by("pk").values_list("details", flat=True)
    assert [one["count"] for one in details] == [2, 2, 1]
