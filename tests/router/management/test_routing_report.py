"""``routing_report``: text for people, JSON for programs, 1 when there is no such study."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from router.models import Study
from router.services import indexing, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db


def _report(*arguments: str) -> str:
    out = io.StringIO()
    call_command("routing_report", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def routed(site: Site) -> Study:
    """Return a routed study with accession number ACC9."""
    factories.destination("pacs")
    factories.destination("cloud")
    factories.revision(document={"rules": [{"name": "all", "send": ["pacs"]}]})
    factories.rule("all", send=["pacs"])
    first = image(1, AccessionNumber="ACC9", PatientName="Secret^Name", PatientID="PID77")
    indexing.index(site.take(first, image(2)))
    routing.route_batch()
    return Study.objects.get()


def test_prints_the_way_of_a_study(routed: Study) -> None:
    text = _report(routed.study_instance_uid)
    assert text.startswith(f"Study {routed.study_instance_uid}\n")
    assert "  2 instances in 1 series, 0 quarantined, 0 further versions" in text
    assert "to pacs because of rule all" in text
    assert "  pacs: 2 pending (0 attempts)" in text
    assert "  cloud: not sent\n    No rule of revision 1 sends to cloud." in text
    assert "Secret" not in text
    assert "PID77" not in text


def test_takes_an_accession_number(routed: Study) -> None:
    assert routed.study_instance_uid in _report("ACC9")


def test_prints_json(routed: Study) -> None:
    (found,) = json.loads(_report("ACC9", "--json"))
    assert found["study_instance_uid"] == routed.study_instance_uid
    assert found["sent"][0]["destination"] == "pacs"


def test_no_such_study(site: Site) -> None:
    with pytest.raises(CommandError) as caught:
        _report("1.2.3")
    assert caught.value.returncode == 1
