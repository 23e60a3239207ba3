"""The kind `webhook` against a receiver that checks signatures with a library of its own."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from router.destinations import KINDS, payload
from router.destinations.base import Context, Outgoing, Result
from router.destinations.outcomes import Outcome
from router.destinations.webhook import WebhookSender
from router.dicom.errors import RuleError
from tests.origins import Reply, Request, Server
from tests.ports import free_port
from tests.router.destinations.objects import RECEIVED, made

D = Outcome.DELIVERED
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()


class Receiver(Server):
    """Takes what is signed with `secrets` and answers as told, at last for ever."""

    def __init__(self, *replies: Reply, secrets: Sequence[str] = (SECRET,)) -> None:
        super().__init__(self._take)
        self.events: list[dict[str, Any]] = []
        self._replies, self._checks = list(replies), [Webhook(secret) for secret in secrets]

    def _take(self, request: Request) -> Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            for check in self._checks:
                self.events.append(check.verify(request.body, headers))
        except WebhookVerificationError:
            return Reply(400)
        return self._replies.pop(0) if self._replies else Reply(204)

    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.requests]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("OTHER_SECRET", OTHER)


def sender(url: str, **settings: object) -> WebhookSender:
    form = KINDS["webhook"].form({"url": url, "secret_env": "HOOK_SECRET"} | settings)
    assert form.is_valid(), form.errors
    found = KINDS["webhook"].sender(form.cleaned_data)
    assert isinstance(found, WebhookSender)
    return found


def send(
    url: str, items: Sequence[Outgoing], *, context: Context | None = None, **settings: object
) -> list[Result]:
    results = list(sender(url, **settings).send(items, context or Context()))
    assert sorted(result.item_id for result in results) == [item.item_id for item in items]
    return sorted(results, key=lambda result: result.item_id)


def objects(folder: Path, count: int, *, series: int = 1, **values: Any) -> list[Outgoing]:
    """A study of `count` objects in `series` series, as one claim holds it."""
    found = []
    for number in range(1, count + 1):
        item = made(folder, item_id=number, AccessionNumber="A1", **values)
        uid = f"1.2.3.{number % series}"
        facts = {"study_id": 5, "study_instance_uid": "1.2.3", "series_instance_uid": uid}
        found.append(replace(item, group="7 2026-11-20", modality="CT", **facts))  # type: ignore[arg-type]
    return found


# --- what is told ----------------------------------------------------------------------------
def test_a_study_is_told_once_whole_and_without_its_patient(tmp_path: Path) -> None:
    items = objects(tmp_path, 5, series=2, PatientName="DOE^JANE", PatientID="P-77")
    items[2] = replace(items[2], received_at=RECEIVED - timedelta(hours=1))
    with Receiver() as receiver:
        results = send(receiver.url + "/hook", items)
    assert {result.outcome for result in results} == {D}
    (event,) = receiver.events
    root = project.PUBLIC_URL
    assert event == {
        "type": "study.sent",
        "id": receiver.ids()[0],
        "study_instance_uid": "1.2.3",
        "accession_number": "A1",
        "study_date": "20260102",
        "source": "ct-1",
        "received_at": "2026-11-20T11:00:00+00:00",
        "instances": 5,
        "bytes": sum(item.size for item in items),
        "modalities": ["CT"],
        "series": [
            {"series_instance_uid": "1.2.3.1", "modality": "CT", "instances": 3},
            {"series_instance_uid": "1.2.3.0", "modality": "CT", "instances": 2},
        ],
        "links": {
            "study": f"{root}/studies/5/",
            "viewer": f"{root}/ohif/viewer?StudyInstanceUIDs=1.2.3",
            "dicomweb": f"{root}/dicom-web/studies/1.2.3",
        },
    }
    body = receiver.requests[0].body
    assert b"DOE" not in body
    assert b"P-77" not in body


def test_each_series_may_be_told_by_itself(tmp_path: Path) -> None:
    template = {"uid": "{SeriesInstanceUID}", "n": "{instances}", "what": "{event}"}
    with Receiver() as receiver:
        send(receiver.url, objects(tmp_path, 5, series=2), per="series", payload=template)
    assert receiver.events == [
        {"uid": "1.2.3.1", "n": 3, "what": "series.sent"},
        {"uid": "1.2.3.0", "n": 2, "what": "series.sent"},
    ]
    assert len(set(receiver.ids())) == 2


def test_a_patient_is_named_only_where_the_template_says_so(tmp_path: Path) -> None:
    template = {"who": "{PatientName} ({PatientID})", "missing": "{PatientSize}", "x": ["{{1}}", 2]}
    items = objects(tmp_path, 1, PatientName="DOE^JANE", PatientID="P-77")
    with Receiver() as receiver:
        send(receiver.url, items, payload=template)
    assert receiver.events == [{"who": "DOE^JANE (P-77)", "missing": None, "x": ["{1}", 2]}]


def test_the_id_is_the_same_at_each_try_and_another_for_another_event(tmp_path: Path) -> None:
    items = objects(tmp_path, 3)
    later = [replace(item, group="7 2026-11-21") for item in items]
    with Receiver(Reply(503)) as receiver:
        first = send(receiver.url, items)
        assert {(one.outcome, one.lane) for one in first} == {(Outcome.RETRY, "transport")}
        assert {one.outcome for one in send(receiver.url, items)} == {D}
        send(receiver.url, later)
    first_id, again, other = receiver.ids()
    assert first_id == again != other
    assert receiver.requests[0].body == receiver.requests[1].body


def test_two_secrets_are_live_while_they_change(tmp_path: Path) -> None:
    both: dict[str, Any] = {"secret_env": "OTHER_SECRET", "previous_secret_env": "HOOK_SECRET"}
    for secrets in ([SECRET], [OTHER], [SECRET, OTHER]):
        with Receiver(secrets=secrets) as receiver:
            assert {one.outcome for one in send(receiver.url, objects(tmp_path, 1), **both)} == {D}
    with Receiver(secrets=[SECRET]) as receiver:
        wrong = send(receiver.url, objects(tmp_path, 1), secret_env="OTHER_SECRET")
    assert wrong[0].outcome == Outcome.DATA_ERROR


def test_a_secret_that_is_not_there_or_too_short_stops_the_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT", "short")
    monkeypatch.setenv("NO_BASE64", "whsec_*")
    with Receiver() as receiver:
        for name in ("SHORT", "NO_BASE64", "NO_SUCH_VARIABLE_HERE"):
            (result,) = send(receiver.url, objects(tmp_path, 1), secret_env=name)
            assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")
    assert receiver.requests == []


# --- what is answered --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "outcome", "lane"),
    [
        (200, D, None),
        (202, D, None),
        (301, Outcome.CONFIGURATION, "configuration"),
        (400, Outcome.DATA_ERROR, None),
        (401, Outcome.CONFIGURATION, "configuration"),
        (404, Outcome.CONFIGURATION, "configuration"),
        (410, Outcome.CONFIGURATION, "configuration"),
        (429, Outcome.RETRY, "transport"),
        (500, Outcome.RETRY, None),
        (504, Outcome.RETRY, "transport"),
    ],
)
def test_all_of_an_event_shares_its_answer(
    tmp_path: Path, status: int, outcome: Outcome, lane: str | None
) -> None:
    with Receiver(Reply(status, b"DOE^JANE")) as receiver:
        results = send(receiver.url, objects(tmp_path, 3))
    assert {(one.outcome, one.lane) for one in results} == {(outcome, lane)}
    assert not any("DOE" in one.detail for one in results)


def test_a_destination_may_judge_a_status_its_own_way(tmp_path: Path) -> None:
    with Receiver(Reply(409)) as receiver:
        results = send(receiver.url, objects(tmp_path, 1), outcomes={"0409": "delivered"})
    assert results[0].outcome == D


def test_cut_before_the_answer_is_not_known_to_have_arrived(tmp_path: Path) -> None:
    with Receiver(Reply(cut=True)) as receiver:
        results = send(receiver.url, objects(tmp_path, 2))
        assert {one.outcome for one in results} == {Outcome.UNKNOWN}
        again = send(receiver.url, objects(tmp_path, 2))
    assert {one.outcome for one in again} == {D}
    assert len(set(receiver.ids())) == 1


def test_a_receiver_that_is_not_there_costs_no_attempt(tmp_path: Path) -> None:
    results = send(f"http://127.0.0.1:{free_port()}/", objects(tmp_path, 2))
    assert {(one.outcome, one.lane) for one in results} == {(Outcome.NOT_SENT, "transport")}


def test_a_ping_goes_before_the_first_event_of_an_address(tmp_path: Path) -> None:
    with Receiver() as receiver:
        send(receiver.url, objects(tmp_path, 1), context=Context(echo_first=True))
    assert [event["type"] for event in receiver.events] == ["ping", "study.sent"]
    with Receiver(Reply(404)) as receiver:
        (result,) = send(receiver.url, objects(tmp_path, 1), context=Context(echo_first=True))
    assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")
    assert [event["type"] for event in receiver.events] == ["ping"]


def test_verify_sends_a_signed_ping() -> None:
    with Receiver() as receiver:
        assert sender(receiver.url).verify().ok
        assert not sender(receiver.url, secret_env="OTHER_SECRET").verify().ok
    assert [event["type"] for event in receiver.events] == ["ping"]


# --- settings ------------------------------------------------------------------------------------
HOOK = {"url": "http://10.1.2.3:9999/hook", "secret_env": "RIS_SECRET"}


@pytest.mark.parametrize("more", [{}, {"payload": {"id": "{event_id}"}, "per": "series"}])
def test_fills_defaults_and_exports_what_was_given(more: Mapping[str, object]) -> None:
    given = {**HOOK, **more}
    form = KINDS["webhook"].form(given)
    assert form.is_valid(), form.errors
    assert json.loads(json.dumps(form.cleaned_data)) == form.cleaned_data
    assert form.export() == given
    assert KINDS["webhook"].form(form.cleaned_data).is_valid()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"secret_env": None}, "secret_env"),
        ({"secret_file": "/s"}, "secret_file"),
        ({"per": "instance"}, "per"),
        ({"payload": {}}, "payload"),
        ({"payload": ["{event}"]}, "payload"),
        ({"payload": "{event}"}, "payload"),
        ({"payload": {"a": "{NoSuchKeyword}"}}, "payload"),
        ({"payload": {"a": {"b": ["{"]}}}, "payload"),
        ({"payload": {"a": "x" * 20_000}}, "payload"),
        ({"payload": {1: "a"}}, "payload"),
    ],
)
def test_refuses(given: dict[str, object], field: str) -> None:
    form = KINDS["webhook"].form(HOOK | given)
    assert list(form.errors) == [field]


def test_says_where_a_template_is_wrong_and_what_is_expected() -> None:
    with pytest.raises(RuleError) as caught:
        payload.parse('{"links": {"page": "{studyurl}"}}')
    assert "links.page" in str(caught.value)
    assert "study_url" in str(caught.value)
