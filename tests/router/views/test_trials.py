"""Trying a destination from its page: steps, test object, rehearsal; with JavaScript or not."""

from collections.abc import Callable

import pytest
from django.test import Client

from router.destinations import KINDS
from router.models import AuditEvent
from tests import factories
from tests.sinks import Script, Sink

ClientFor = Callable[..., Client]
pytestmark = pytest.mark.django_db
CT, J2K = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.4.90"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def operator(client_for: ClientFor, roles: None) -> Client:
    return client_for("operator")


def pacs(sink: Sink) -> None:
    form = KINDS["dicom"].form(sink.settings | {"response_timeout": "2s"})
    assert form.is_valid(), form.errors
    factories.destination("pacs", settings=form.cleaned_data)


def post(client: Client, action: str, **data: str) -> str:
    got = client.post(f"/destinations/pacs/{action}/", data)
    assert got.status_code == 200
    return got.content.decode()


def test_the_page_offers_what_the_kind_can(operator: Client) -> None:
    with Sink() as sink:
        pacs(sink)
    factories.destination("disk", kind="folder", settings={"path": "/srv/out"})
    page = operator.get("/destinations/pacs/").content.decode()
    assert "Send a test object" in page
    assert "Rehearse" in page
    page = operator.get("/destinations/disk/").content.decode()
    assert "Send a test object" not in page
    assert "Rehearse" not in page


def test_verify_shows_the_steps_and_sends_nothing(operator: Client) -> None:
    with Sink() as sink:
        pacs(sink)
        page = post(operator, "verify")
        assert sink.objects == []
    assert "every step went well" in page
    assert "answered 0000: success" in page


def test_a_test_object_is_sent_when_asked_for(operator: Client) -> None:
    with Sink() as sink:
        pacs(sink)
        page = post(operator, "verify", test_object="1")
        assert len(sink.objects) == 1
    assert "patient ROUTER-TEST" in page
    [event] = AuditEvent.objects.filter(event="destination.verified")
    assert event.details == {"test_object": True}


def test_a_rehearsal_lists_what_is_refused(operator: Client) -> None:
    factories.instance(sop_class_uid=CT, transfer_syntax_uid=J2K)
    factories.instance(sop_class_uid=CT, transfer_syntax_uid=EXPLICIT)
    with Sink(Script(transfer_syntaxes=[EXPLICIT])) as sink:
        pacs(sink)
        page = post(operator, "rehearse")
        assert sink.objects == []
    assert "some would be refused" in page
    assert "JPEG 2000 Image Compression (Lossless Only)" in page
    assert AuditEvent.objects.filter(event="destination.rehearsed").exists()


def test_a_rehearsal_says_why_there_was_none(operator: Client) -> None:
    with Sink(Script(reject=(1, 1, 3))) as sink:
        pacs(sink)
        factories.instance()
        page = post(operator, "rehearse")
    assert "does not know our AE title" in page


def test_htmx_gets_the_panel_alone(operator: Client) -> None:
    with Sink() as sink:
        pacs(sink)
        got = operator.post(
            "/destinations/pacs/verify/", headers={"HX-Request": "true"}
        ).content.decode()
    assert got.lstrip().startswith('<div id="verification"')


def test_what_a_kind_cannot_do_is_said(operator: Client) -> None:
    form = KINDS["folder"].form({"path": "/srv/out"})
    assert form.is_valid()
    factories.destination("pacs", kind="folder", settings=form.cleaned_data)
    assert "cannot be rehearsed with" in post(operator, "rehearse")
    assert "gets no test object" in post(operator, "verify", test_object="1")
