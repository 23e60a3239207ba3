"""The report: received, decided, waiting, sent, and why not elsewhere."""

import json

import pytest
from django.core.serializers.json import DjangoJSONEncoder

from router.models import ItemState, JobItem, Lane, Study
from router.services import failover, indexing, report, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db

CT = {"field": "Modality", "op": "equals", "value": "CT"}
MR = {"field": "Modality", "op": "equals", "value": "MR"}


@pytest.fixture
def routed(site: Site) -> Study:
    """Return a study of two objects that went to one of three destinations."""
    for name in ("pacs", "cloud", "disk"):
        factories.destination(name)
    rules = [{"name": "ct", "send": ["pacs"]}, {"name": "mr", "send": ["cloud"]}]
    factories.revision(document={"version": 1, "rules": rules})
    factories.rule("ct", send=["pacs"], when=CT, priority=1)
    factories.rule("mr", send=["cloud"], when=MR, priority=2)
    inbox = site.inbox()
    batch = [image(1, AccessionNumber="ACC9"), image(2), image(2), image(2, salt=1)]
    indexing.index(site.take(*batch, inbox=inbox))
    routing.route_batch()
    return Study.objects.get()


def test_counts_what_came(routed: Study) -> None:
    found = report.of_study(routed)
    assert (found.instances, found.series, found.quarantined, found.versions) == (2, 1, 1, 0)
    (received,) = found.received
    assert (received.objects, received.duplicates, received.quarantined) == (4, 1, 1)
    assert (received.origin, received.calling_ae, received.source) == ("dimse", "CT1", "ct-1")


def test_says_what_was_decided_and_why(routed: Study) -> None:
    (decided,) = report.of_study(routed).decided
    assert (decided.outcome, decided.instances, decided.revision) == ("routed", 2, 1)
    assert decided.destinations == {"pacs": "ct"}
    assert [(line.rule, line.result) for line in decided.rules] == [
        ("ct", "matched"),
        ("mr", "not matched"),
    ]
    assert "Modality is CT and the rule wants MR" in decided.rules[1].sentence


def test_says_what_was_sent(routed: Study) -> None:
    first = JobItem.objects.order_by("pk")[0]
    JobItem.objects.filter(pk=first.pk).update(state=ItemState.PARKED, reason="A900 refused")
    factories.attempt(first)
    (sent,) = report.of_study(routed).sent
    assert (sent.destination, sent.attempts) == ("pacs", 1)
    assert sent.states == {"Pending": 1, "Needs attention": 1}
    assert any("A900 refused" in reason for reason in sent.reasons)


def test_says_why_not_elsewhere(routed: Study) -> None:
    absent = {one.destination: one.because for one in report.of_study(routed).not_sent}
    assert set(absent) == {"cloud", "disk"}
    assert "Modality is CT and the rule wants MR" in absent["cloud"][0]
    assert absent["disk"] == ("No rule of revision 1 sends to disk.",)


def test_says_what_waits_for_quiet(site: Site) -> None:
    factories.destination("pacs")
    factories.rule("quiet", send=["pacs"], trigger="study", quiet_seconds=60)
    indexing.index(site.take(image(1)))
    routing.route_batch()
    (sentence,) = report.of_study(Study.objects.get()).waiting
    assert sentence.startswith("1 instances wait for rule quiet until the study is quiet")


def test_before_any_decision(site: Site) -> None:
    factories.destination("pacs")
    indexing.index(site.take(image(1)))
    found = report.of_study(Study.objects.get())
    assert (found.decided, found.sent) == ((), ())
    assert found.not_sent[0].because == ("Nothing has been decided yet.",)


@pytest.mark.parametrize("what", ["study", "accession", "object"])
def test_finds_a_study_by(routed: Study, what: str) -> None:
    names = {
        "study": routed.study_instance_uid,
        "accession": "ACC9",
        "object": image(1).sop_instance_uid,
    }
    assert report.find(names[what]) == [routed]


def test_finds_every_study_of_an_accession_number_and_nothing_else(site: Site) -> None:
    for number in (1, 2):
        indexing.index(site.take(image(number, study=number, AccessionNumber="A")))
    assert len(report.find("A")) == 2
    assert report.find("B") == report.find("") == []


def test_says_which_member_of_a_group_has_it_and_why_not_another(site: Site) -> None:
    places = [factories.destination(name) for name in ("a", "b", "c")]
    factories.group("pool", members=places[:2])
    given = {"version": 1, "groups": [{"name": "pool", "kind": "failover", "members": ["a", "b"]}]}
    rules = [{"name": "all", "send": ["pool"]}]
    factories.revision(document=given | {"rules": rules})
    factories.rule("all", send=["pool"])
    indexing.index(site.take(image(1)))
    routing.route_batch()
    Lane.objects.filter(destination=places[0]).update(state="stopped")
    study = Study.objects.get()
    before = report.of_study(study)
    assert before.decided[0].groups == {"pool": {"member": "a", "why": "the first member"}}
    absent = {one.destination: one.because for one in before.not_sent}
    assert absent["b"][-1] == "The group pool gave the study to a: the first member"
    assert absent["c"] == ("No rule of revision 1 sends to c.",)
    assert failover.run(5) == 1
    after = report.of_study(study)
    (has,) = after.groups
    assert (has.group, has.member) == ("pool", "b")
    assert "moved from a, which is stopped" in has.reason
    assert [one["member"] for one in has.before] == ["a"]
    assert {one.destination for one in after.sent} == {"a", "b"}
    assert {one.destination for one in after.not_sent} == {"c"}
    (cancelled,) = (one for one in after.sent if one.destination == "a")
    assert cancelled.reasons == ("b gets the study instead: a is stopped.",)


def test_is_json(routed: Study) -> None:
    text = json.dumps(report.of_study(routed).as_dict(), cls=DjangoJSONEncoder)
    again = json.loads(text)
    assert again["study_instance_uid"] == routed.study_instance_uid
    assert again["decided"][0]["destinations"] == {"pacs": "ct"}
