"""Hostile text of objects: kept as it came, and encoded wherever it is shown (R33)."""

import csv
import logging
from collections.abc import Callable, Iterable
from html import escape
from io import StringIO

import pytest
from django.http import StreamingHttpResponse
from django.test import Client

from tests import factories
from tests.ingest.conftest import StartReceiver, running, start_receiver  # noqa: F401
from tests.receivers import Running, make_object
from tests.senders import RawObject, send_raw

CANARIES = ("<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "{{7*7}}", "${jndi:ldap://x}")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cells_of(response: object) -> list[str]:
    assert isinstance(response, StreamingHttpResponse)
    content = response.streaming_content
    assert isinstance(content, Iterable)
    return [cell for row in csv.reader(StringIO(b"".join(content).decode())) for cell in row]


@pytest.mark.django_db
@pytest.mark.parametrize("text", CANARIES)
def test_a_name_is_encoded_on_pages_and_in_exports(
    client_for: Callable[..., Client], text: str
) -> None:
    study = factories.study(patient_name=text, study_description=text)
    client = client_for("operator")
    for address in ("/studies/", f"/studies/{study.pk}/"):
        page = client.get(address).content.decode()
        assert escape(text) in page
        assert text == escape(text) or text not in page
    cells = cells_of(client.get("/studies/?format=csv"))
    assert any(text in cell for cell in cells)
    assert not [cell for cell in cells if cell.lstrip().startswith(FORMULA)]


@pytest.mark.parametrize("text", CANARIES)
def test_a_name_is_stored_as_it_came_and_not_logged(
    running: Running,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    name = text.encode().ljust(len(text) + len(text) % 2)
    thing = make_object()
    at = thing.data.index(b"\x20\x00\x0d\x00")
    element = b"\x10\x00\x10\x00PN" + len(name).to_bytes(2, "little") + name
    item = RawObject(
        thing.data[:at] + element + thing.data[at:],
        thing.sop_class_uid,
        thing.sop_instance_uid,
        thing.transfer_syntax,
    )
    with caplog.at_level(logging.DEBUG):
        assert [sent.status for sent in send_raw("127.0.0.1", running.port, [item])] == [0]
        running.intake.wait_closed()
    assert [running.data(one) for one in running.intake.objects] == [item.data]
    assert text not in caplog.text
