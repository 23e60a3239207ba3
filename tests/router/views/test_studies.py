"""The study list and page: search, filters, pages, masks, limits, CSV, fragments."""

import csv
import re
from collections.abc import Callable, Iterable
from io import StringIO

import pytest
from django.http import StreamingHttpResponse
from django.test import Client

from router.models import AuditEvent, Lane, Study
from router.services import failover, groups
from tests import factories
from tests.browser.seed import outcome

ClientFor = Callable[..., Client]
HTMX = {"HX-Request": "true"}


def rows_of(response: object) -> list[list[str]]:
    assert isinstance(response, StreamingHttpResponse)
    content = response.streaming_content
    assert isinstance(content, Iterable)
    text = b"".join(content).decode()
    return list(csv.reader(StringIO(text)))


def listed(client: Client, address: str) -> list[int]:
    return [row.pk for row in client.get(address).context["listing"].rows]


@pytest.mark.django_db
def test_fragment_is_one_element_of_the_page(client_for: ClientFor, story: Study) -> None:
    client = client_for("operator")
    for where, root in (
        ("/studies/", "studies-table"),
        ("/jobs/", "jobs-table"),
        ("/", "dashboard-panels"),
        (f"/studies/{story.pk}/", "study-timeline"),
        ("/quarantine/", "quarantine-table"),
        ("/system/", "system-panels"),
    ):
        page = client.get(where).content.decode()
        fragment = client.get(where, headers=HTMX).content.decode().strip()
        assert page.count(f'id="{root}"') == 1
        assert re.match(rf'<(div|section) id="{root}"', fragment), where
        assert "<html" not in fragment


@pytest.mark.django_db
def test_pages_are_kept_by_no_cache_and_run_nothing_inline(
    client_for: ClientFor, story: Study
) -> None:
    got = client_for("operator").get(f"/studies/{story.pk}/")
    page = got.content.decode()

    assert "no-store" in got["Cache-Control"]
    assert "script-src 'self'" in got["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|<style", page)


@pytest.mark.django_db
def test_search_keeps_the_words_out_of_the_address(client_for: ClientFor) -> None:
    client = client_for("operator")
    ann = factories.study(patient_name="Miller^Ann")
    bob = factories.study(patient_name="Miller^Bob")
    factories.study(patient_name="Other^Eve")

    got = client.post("/studies/search/", {"q": "miller"})

    assert "miller" not in got["Location"].lower()
    assert sorted(listed(client, got["Location"])) == [ann.pk, bob.pk]
    only = client.post("/studies/search/", {"q": "Miller, Ann"})
    assert only["Location"] == f"/studies/{ann.pk}/"


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["accession_number", "patient_id", "study_instance_uid"])
def test_search_finds_identifiers(client_for: ClientFor, field: str) -> None:
    wanted, _other = factories.study(), factories.study()

    got = client_for("operator").post("/studies/search/", {"q": f" {getattr(wanted, field)} "})

    assert got["Location"] == f"/studies/{wanted.pk}/"


@pytest.mark.django_db
def test_masked_readers_see_no_patient_and_cannot_ask_for_one(client_for: ClientFor) -> None:
    study = factories.study(patient_name="Miller^Ann", patient_id="PID-77", accession_number="A9")
    reason = outcome("vip", "not matched", "PatientName", "Miller^Ann", "Doe^Jane")
    factories.decision(study, explanation=[reason])
    factories.job(study)
    client = client_for("auditor")

    pages = ["/studies/", f"/studies/{study.pk}/", "/jobs/"]
    text = "".join(client.get(page).content.decode() for page in pages)
    text += str(rows_of(client.get("/studies/?format=csv")))

    assert "Miller" not in text
    assert "MILLER" not in text
    assert "PID-77" not in text
    assert "19601231" not in text
    assert "1960-12-31" not in text
    assert listed(client, client.post("/studies/search/", {"q": "miller"})["Location"]) == []
    assert client.post("/studies/search/", {"q": "A9"})["Location"] == f"/studies/{study.pk}/"
    assert client.get("/studies/?sort=name").context["listing"].sort == "-received"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("limit", "value"),
    [("sources", "ct-1"), ("modalities", "CT"), ("institutions", "General")],
)
def test_what_lies_outside_the_limit_is_absent(
    client_for: ClientFor, limit: str, value: str
) -> None:
    mine = factories.study(source="ct-1", institution_name="General")
    factories.series(mine, modality="CT")
    foreign = factories.study(source="mr-1", institution_name="Other")
    series = factories.series(foreign, modality="MR")
    item = factories.item(factories.job(foreign), instance=factories.instance(series))
    job = item.job
    apart = factories.instance(series, state="quarantined")
    client = client_for("operator", **{limit: [value]})

    assert listed(client, "/studies/") == [mine.pk]
    assert client.get(f"/studies/{mine.pk}/").status_code == 200
    assert client.get(f"/studies/{foreign.pk}/").status_code == 404
    assert client.get(f"/jobs/{job.pk}/").status_code == 404
    assert listed(client, "/jobs/") == []
    assert client.post(f"/quarantine/{apart.pk}/release/").status_code == 404
    assert client.get(f"/quarantine/{apart.pk}/discard/").status_code == 404
    assert foreign.study_instance_uid not in str(rows_of(client.get("/studies/?format=csv")))
    client.post("/jobs/apply/", {"action": "cancel", "all": "1"})
    assert job.items.get().state == "pending"


@pytest.mark.django_db
@pytest.mark.parametrize("sort", ["received", "-received", "name", "-date", "objects", "-objects"])
def test_pages_by_keyset_show_every_study_once(client_for: ClientFor, sort: str) -> None:
    for number in range(120):
        factories.study(instances_count=number % 3 + 1)
    client = client_for("operator")
    seen: list[int] = []
    after = ""
    while True:
        listing = client.get(f"/studies/?sort={sort}&after={after}").context["listing"]
        seen += [row.pk for row in listing.rows]
        if not listing.next:
            break
        after = listing.next

    assert len(seen) == 120
    assert len(set(seen)) == 120


@pytest.mark.django_db
def test_csv_holds_exactly_what_is_filtered_and_no_formula(client_for: ClientFor) -> None:
    factories.study(source="ct-1")
    factories.source("mr-1")
    wanted = factories.study(
        source="mr-1", study_description='=HYPERLINK("http://x")', accession_number=" +1"
    )

    rows = rows_of(client_for("operator").get("/studies/?source=mr-1&format=csv"))

    assert [row[-1] for row in rows[1:]] == [wanted.study_instance_uid]
    assert rows[1][4] == '\'=HYPERLINK("http://x")'
    assert rows[1][2] == "' +1"
    assert AuditEvent.objects.filter(event="export").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    "junk",
    [
        "after=x",
        "after=999999",
        "sort=password",
        "date_from=soon",
        "modality=ZZ",
        "search=nope",
        "show=1;drop",
    ],
)
def test_junk_in_the_address_breaks_nothing(client_for: ClientFor, junk: str) -> None:
    factories.study()

    assert client_for("operator").get(f"/studies/?{junk}").status_code == 200


@pytest.mark.django_db
def test_study_page_tells_the_story(client_for: ClientFor, story: Study) -> None:
    page = client_for("operator").get(f"/studies/{story.pk}/").content.decode()

    assert "OKAFOR, Ngozi" in page
    assert "because Modality is CT and the rule wants MR" in page
    assert "by rule ct-to-pacs: matched, because Modality is CT" in page
    assert "A-ASSOCIATE-RJ 1/1/3" in page
    assert "<title>Study" in page


@pytest.mark.django_db
def test_shows_which_member_of_a_group_has_the_study(client_for: ClientFor, story: Study) -> None:
    places = [factories.destination(name) for name in ("first", "second")]
    factories.group("pair", members=places)
    revision = factories.revision(
        document={"version": 1, "groups": [{"name": "pair", "members": ["first", "second"]}]}
    )
    one = groups.assigned([(story.pk, "pair")])[story.pk, "pair"]
    factories.decision(
        story,
        revision=revision,
        destinations={"first": "all"},
        groups={"pair": {"member": "first", "why": one.reason}},
    )
    factories.item(factories.job(story, destination=places[0], assignment=one))
    client = client_for("operator")
    why = client.get(f"/studies/{story.pk}/?why=second").content.decode()
    assert "Not chosen for second. The group pair gave the study to first: the first member." in why
    Lane.objects.filter(destination=places[0]).update(state="paused")
    assert failover.run(5) == 1

    page = client.get(f"/studies/{story.pk}/").content.decode()

    assert "first was given the study: the first member." in page
    assert "Of pair, <strong>second</strong> has the study now: moved from first" in page
    assert "Before it was first: the first member." in page
    assert "second gets the study instead: first is paused." in page
    again = client.get(f"/studies/{story.pk}/?why=second").content.decode()
    assert "It was chosen for second." in again


@pytest.mark.django_db
def test_says_why_not(client_for: ClientFor, story: Study) -> None:
    client = client_for("operator")
    headers = HTMX | {"HX-Target": "study-why"}

    fragment = client.get(f"/studies/{story.pk}/?why=research", headers=headers).content.decode()
    page = client.get(f"/studies/{story.pk}/?why=pacs-2").content.decode()

    assert "Not chosen for research" in fragment
    assert "Modality is CT and the rule wants MR" in fragment
    assert "It was chosen for pacs-2" in page


@pytest.mark.django_db
def test_newer_counts_what_came_since(client_for: ClientFor) -> None:
    study = factories.study()
    client = client_for("operator")
    since = study.first_received_at.isoformat()

    assert "1 newer" in client.get("/studies/newer/", {"since": since}).content.decode()
    since = study.last_received_at.isoformat()
    assert "newer:" not in client.get("/studies/newer/", {"since": since}).content.decode()
    assert client.get("/studies/newer/?since=junk").status_code == 200


@pytest.mark.django_db
def test_fresh_system_teaches_the_first_command(client_for: ClientFor) -> None:
    for where in ("/", "/studies/"):
        page = client_for("operator").get(where).content.decode()
        assert "storescu -aec DICOMROUTER 127.0.0.1 11112" in page
