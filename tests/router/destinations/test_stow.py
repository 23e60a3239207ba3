"""The kind `stow` against an origin server: batches, answers, cuts, credentials, questions."""

import base64
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from router.destinations import KINDS, credentials
from router.destinations.base import Confirming, Context, Outgoing, Result
from router.destinations.outcomes import Outcome
from router.destinations.stow import MOST_FAILURES, StowSender
from router.destinations.stow_batches import BLOCK_BYTES, Parcel
from router.destinations.stow_presets import PRESETS
from tests.ingest.certificates import authority, signed
from tests.origins import Origin, Reply, Request, Script, Server
from tests.ports import free_port
from tests.router.destinations.objects import kept, made, real_files, stored

D = Outcome.DELIVERED


def sender(url: str, **settings: object) -> StowSender:
    form = KINDS["stow"].form({"url": url} | settings)
    assert form.is_valid(), form.errors
    found = KINDS["stow"].sender(form.cleaned_data)
    assert isinstance(found, StowSender)
    return found


def send(
    url: str, items: Sequence[Outgoing], *, context: Context | None = None, **settings: object
) -> list[Result]:
    results = list(sender(url, **settings).send(items, context or Context()))
    assert sorted(result.item_id for result in results) == [item.item_id for item in items]
    return sorted(results, key=lambda result: result.item_id)


def outcomes(results: Sequence[Result]) -> list[Outcome]:
    return [result.outcome for result in results]


def objects(folder: Path, count: int, **values: Any) -> list[Outgoing]:
    return [made(folder, item_id=number, **values) for number in range(1, count + 1)]


# --- what leaves -----------------------------------------------------------------------------
def test_real_objects_leave_byte_for_byte_in_bounded_batches(tmp_path: Path) -> None:
    items = [stored(path, tmp_path, item_id=at) for at, path in enumerate(real_files(), 1)]
    with Origin() as origin:
        results = send(origin.base, items, batch=7, batch_bytes=4 << 20)
    assert set(outcomes(results)) == {D}
    assert origin.hashes() == {item.sop_instance_uid: item.sha256 for item in items}
    assert [result.egress_sha256 for result in results] == [item.sha256 for item in items]
    assert [result.bytes_sent for result in results] == [item.size for item in items]
    assert {result.status for result in results} == {0}
    sizes = [len(request.body) for request in origin.requests]
    assert len(sizes) >= len(items) / 7
    large = max(item.size for item in items)
    assert max(sizes) <= max(4 << 20, large) + 7 * 2000
    assert {request.path for request in origin.requests} == {"/dicom-web/studies"}
    assert {request.headers["Accept"] for request in origin.requests} == {"application/dicom+json"}


def test_a_body_is_made_in_blocks_and_as_long_as_it_says(tmp_path: Path) -> None:
    parcel = Parcel(objects(tmp_path, 3, PixelData=bytes(5 << 20)))
    pieces = [len(piece) for piece in parcel.body()]
    assert sum(pieces) == parcel.size
    assert max(pieces) <= BLOCK_BYTES
    assert parcel.is_complete


def test_two_versions_of_one_instance_never_share_a_request(tmp_path: Path) -> None:
    made_ones = [made(tmp_path, item_id=at, Rows=at) for at in (1, 2)]
    items = [replace(one, sop_instance_uid="1.2.3.9") for one in made_ones]
    with Origin() as origin:
        assert outcomes(send(origin.base, items)) == [D, D]
    assert origin.stores == 2


def test_a_damaged_or_missing_object_is_left_out_and_the_others_arrive(tmp_path: Path) -> None:
    items = objects(tmp_path, 5)
    (tmp_path / "2.stored").unlink()
    items[3] = replace(items[3], sha256="0" * 64)
    with Origin() as origin:
        results = send(origin.base, items)
    assert outcomes(results) == [D, Outcome.DATA_ERROR, D, Outcome.DATA_ERROR, D]
    assert set(origin.objects) == {items[at].sop_instance_uid for at in (0, 2, 4)}


# --- what the answer says of each --------------------------------------------------------------
@pytest.mark.parametrize("xml", [False, True])
def test_failures_for_3_of_10_are_sent_again_and_nothing_else_is(tmp_path: Path, xml: bool) -> None:
    items = objects(tmp_path, 10)
    with Origin(Script(reasons={2: 0xA700, 5: 0x0110, 9: 0xA7FF}, xml=xml)) as origin:
        first = send(origin.base, items)
        again = [item for item, one in zip(items, first, strict=True) if one.outcome != D]
        assert [item.item_id for item in again] == [2, 5, 9]
        assert {one.outcome for one in first} == {D, Outcome.RETRY}
        assert first[1].status == 0xA700
        second = send(origin.base, again)
    assert outcomes(second) == [D, D, D]
    assert origin.received[10:] == [item.sop_instance_uid for item in again]


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (0xA700, Outcome.RETRY),
        (0x0110, Outcome.RETRY),
        (0xA900, Outcome.DATA_ERROR),
        (0xC122, Outcome.FEW_TRIES),
        (0x0122, Outcome.CONFIGURATION),
        (0x0124, Outcome.CONFIGURATION),
        (0xB007, Outcome.DATA_ERROR),  # a warning is no failure; it says it has failed
        (0x0000, Outcome.DATA_ERROR),
    ],
)
def test_a_failure_reason_is_judged_by_the_outcome_table(
    tmp_path: Path, reason: int, outcome: Outcome
) -> None:
    with Origin(Script(reasons={1: reason})) as origin:
        (result,) = send(origin.base, objects(tmp_path, 1))
    assert (result.outcome, result.status, result.lane) == (outcome, reason, None)


def test_a_destination_may_judge_a_reason_its_own_way(tmp_path: Path) -> None:
    with Origin(Script(reasons={1: 0xC122, 2: 0x0111})) as origin:
        overrides = {"C122": "retry", "0111": "delivered"}
        results = send(origin.base, objects(tmp_path, 2), outcomes=overrides)
    assert outcomes(results) == [Outcome.RETRY, D]
    assert len(origin.requests) == 1  # nobody was asked what it has


def test_a_warning_is_delivered_and_shown(tmp_path: Path) -> None:
    with Origin(Script(warnings={1: 0xB000})) as origin:
        first, second = send(origin.base, objects(tmp_path, 2))
    assert (first.outcome, first.status) == (Outcome.WARNING, 0xB000)
    assert first.warnings
    assert second.outcome == D


def test_what_the_answer_does_not_name_is_not_known_to_have_arrived(tmp_path: Path) -> None:
    with Origin(Script(unnamed=frozenset({2}))) as origin:
        results = send(origin.base, objects(tmp_path, 3))
    assert outcomes(results) == [D, Outcome.UNKNOWN, D]


@pytest.mark.parametrize("body", [b"", b"<html>stored</html>", b"[]", b"{}", b"\xff"])
def test_success_without_a_word_of_any_instance_is_not_success(tmp_path: Path, body: bytes) -> None:
    with Origin(Script(statuses={1: Reply(200, body)})) as origin:
        results = send(origin.base, objects(tmp_path, 2))
    assert set(outcomes(results)) == {Outcome.UNKNOWN}


def test_a_failure_that_names_no_instance_is_found_by_sending_each_alone(tmp_path: Path) -> None:
    """The second fails in the batch, and again when it is alone."""
    with Origin(Script(others=frozenset({2, 4}))) as origin:
        results = send(origin.base, objects(tmp_path, 3))
    assert outcomes(results) == [D, Outcome.FEW_TRIES, D]
    assert results[1].status == 0xC000
    assert len(origin.received) == 4


def test_a_refusal_that_names_no_one_is_found_by_sending_each_alone(tmp_path: Path) -> None:
    """Orthanc answers 400 and names only what it has stored."""
    with Origin(Script(dropped=frozenset({2, 4}))) as origin:
        results = send(origin.base, objects(tmp_path, 3))
    assert outcomes(results) == [D, Outcome.DATA_ERROR, D]


# --- an object that is there already -------------------------------------------------------------
def test_the_same_object_there_already_is_delivered(tmp_path: Path) -> None:
    (item,) = objects(tmp_path, 1)
    with Origin(Script(reasons={2: 0x0111})) as origin:
        assert outcomes(send(origin.base, [item])) == [D]
        (result,) = send(origin.base, [item])
    assert (result.outcome, result.status) == (D, 0x0111)
    assert "same bytes" in result.detail


def test_another_object_of_its_uid_there_already_is_a_conflict(tmp_path: Path) -> None:
    (item,) = objects(tmp_path, 1)
    other = replace(made(tmp_path, item_id=2, Rows=7), sop_instance_uid=item.sop_instance_uid)
    with Origin(Script(reasons={2: 0x0111})) as origin:
        assert outcomes(send(origin.base, [other])) == [D]
        (result,) = send(origin.base, [item])
    assert (result.outcome, result.status) == (Outcome.DATA_ERROR, 0x0111)
    assert "another object" in result.detail


def test_there_already_and_not_to_be_found_is_tried_again(tmp_path: Path) -> None:
    with Origin(Script(reasons={1: 0x0111})) as origin:
        (result,) = send(origin.base, objects(tmp_path, 1))
    assert result.outcome == Outcome.RETRY


# --- answers to a request as a whole -------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "outcome", "lane"),
    [
        (400, Outcome.DATA_ERROR, None),
        (409, Outcome.DATA_ERROR, None),
        (413, Outcome.DATA_ERROR, None),
        (415, Outcome.DATA_ERROR, None),
        (401, Outcome.CONFIGURATION, "configuration"),
        (403, Outcome.CONFIGURATION, "configuration"),
        (404, Outcome.CONFIGURATION, "configuration"),
        (307, Outcome.CONFIGURATION, "configuration"),
        (408, Outcome.RETRY, "transport"),
        (429, Outcome.RETRY, "transport"),
        (500, Outcome.RETRY, None),
        (503, Outcome.RETRY, "transport"),
    ],
)
def test_a_status_is_judged_by_the_outcome_table(
    tmp_path: Path, status: int, outcome: Outcome, lane: str | None
) -> None:
    with Origin(Script(statuses={1: Reply(status)})) as origin:
        (result,) = send(origin.base, objects(tmp_path, 1))
    assert (result.outcome, result.lane) == (outcome, lane)
    assert f"HTTP {status}" in result.detail


def test_a_service_that_is_full_is_left_alone_for_as_long_as_it_asks(tmp_path: Path) -> None:
    busy = Reply(429, headers={"Retry-After": "77"})
    with Origin(Script(statuses={1: busy})) as origin:
        results = send(origin.base, objects(tmp_path, 4), batch=2)
    assert outcomes(results) == [Outcome.RETRY] * 2 + [Outcome.NOT_SENT] * 2
    assert {result.pause for result in results} == {77.0}
    assert origin.stores == 1


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with Origin() as other, Origin() as origin:
        away = Reply(307, headers={"Location": f"{other.base}/studies"})
        origin.script = Script(statuses={1: away})
        send(origin.base, objects(tmp_path, 1))
    assert other.connections == 0


def test_one_object_that_spoils_a_request_is_found_and_the_others_arrive(tmp_path: Path) -> None:
    items = objects(tmp_path, 20)
    with Origin(Script(refuses_uid=frozenset({items[12].sop_instance_uid}))) as origin:
        results = send(origin.base, items)
    assert [one.item_id for one in results if one.outcome != D] == [13]
    assert results[12].outcome == Outcome.DATA_ERROR
    assert len(origin.objects) == 19


def test_a_server_that_fails_whatever_comes_is_left_alone(tmp_path: Path) -> None:
    with Origin(Script(statuses={at: Reply(500) for at in range(1, 200)})) as origin:
        results = send(origin.base, objects(tmp_path, 60), batch=10)
    assert origin.stores == MOST_FAILURES
    assert set(outcomes(results)) <= {Outcome.RETRY, Outcome.NOT_SENT}
    assert results[-1].lane == "transport"


# --- connections that fail -----------------------------------------------------------------------
def test_a_server_that_is_not_there_costs_no_attempt(tmp_path: Path) -> None:
    results = send(f"http://127.0.0.1:{free_port()}/dicom-web", objects(tmp_path, 2))
    assert {(one.outcome, one.lane) for one in results} == {(Outcome.NOT_SENT, "transport")}


def test_cut_before_the_answer_leaves_unknown_what_had_left(tmp_path: Path) -> None:
    with Origin(Script(cut_request=2)) as origin:
        results = send(origin.base, objects(tmp_path, 6), batch=2)
    assert outcomes(results) == [D, D, *[Outcome.UNKNOWN] * 2, *[Outcome.NOT_SENT] * 2]
    assert {one.lane for one in results[2:]} == {"transport"}


def test_cut_in_the_middle_of_a_batch_calls_nothing_delivered(tmp_path: Path) -> None:
    items = objects(tmp_path, 8, PixelData=bytes(4 << 20))
    with Origin(Script(cut_after=10 << 20)) as origin:
        results = send(origin.base, items)
    found = outcomes(results)
    assert set(found) == {Outcome.UNKNOWN, Outcome.RETRY, Outcome.NOT_SENT}
    assert found.count(Outcome.RETRY) == 1
    assert found == sorted(found, key=[Outcome.UNKNOWN, Outcome.RETRY, Outcome.NOT_SENT].index)
    assert origin.objects == {}


def test_we_stop_between_requests(tmp_path: Path) -> None:
    answers = iter([False, True, True])
    with Origin() as origin:
        context = Context(stop=lambda: next(answers, True))
        results = send(origin.base, objects(tmp_path, 6), batch=2, context=context)
    assert outcomes(results) == [D, D, *[Outcome.NOT_SENT] * 4]


def test_we_break_off_while_an_answer_is_awaited(tmp_path: Path) -> None:
    origin = Origin(Script(delay=5))
    with origin:
        context = Context(abort=lambda: origin.stores > 0)
        results = send(origin.base, objects(tmp_path, 2), context=context)
    assert set(outcomes(results)) == {Outcome.UNKNOWN}


def test_an_address_is_asked_before_the_first_object(tmp_path: Path) -> None:
    with Origin() as origin:
        results = send(
            origin.url + "/other", objects(tmp_path, 1), context=Context(echo_first=True)
        )
    assert outcomes(results) == [Outcome.CONFIGURATION]
    assert origin.stores == 0
    with Origin() as origin:
        send(origin.base, objects(tmp_path, 1), context=Context(echo_first=True))
    assert [request.method for request in origin.requests] == ["GET", "POST"]


# --- who we are ----------------------------------------------------------------------------------
def test_basic_and_bearer_credentials_come_from_their_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOW_PASSWORD", "p:ä")
    with Origin(Script(authorization="Basic dTpwOsOk")) as origin:
        basic: dict[str, Any] = {"username": "u", "password_env": "STOW_PASSWORD"}
        assert outcomes(send(origin.base, objects(tmp_path, 1), **basic)) == [D]
    path = tmp_path / "token"
    path.write_text("abc.def\n")
    with Origin(Script(authorization="Bearer abc.def")) as origin:
        bearer: dict[str, Any] = {"token_file": str(path)}
        assert outcomes(send(origin.base, objects(tmp_path, 1), **bearer)) == [D]


def test_a_secret_that_is_not_there_stops_the_lane(tmp_path: Path) -> None:
    with Origin() as origin:
        (result,) = send(origin.base, objects(tmp_path, 1), token_env="NO_SUCH_VARIABLE_HERE")
    assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")
    assert origin.requests == []


class Issuer:
    """A token service: gives out t1, t2, … for one client."""

    def __init__(self, *, lasts: int = 3600, status: int = 200) -> None:
        self.forms: list[dict[str, str]] = []
        self._lasts, self._status = lasts, status

    def __call__(self, request: Request) -> Reply:
        self.forms.append(request.form())
        assert request.headers["Authorization"] == "Basic YyUzQTE6cyUyRjE="  # c%3A1:s%2F1
        if self._status != 200:
            return Reply(self._status, b'{"error": "invalid_client", "error_description": "Doe"}')
        text = f'{{"access_token": "t{len(self.forms)}", "expires_in": {self._lasts}}}'
        return Reply(200, text.encode())


@pytest.fixture
def oauth(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], dict[str, Any]]:
    monkeypatch.setenv("OAUTH_SECRET", "s/1")
    monkeypatch.setattr(credentials, "TOKENS", credentials.Tokens())

    def settings(server: Server) -> dict[str, Any]:
        return {
            "oauth_url": f"{server.url}/token",
            "oauth_client": "c:1",
            "oauth_secret_env": "OAUTH_SECRET",
            "oauth_scope": "images",
        }

    return settings


Settings = Callable[[Server], dict[str, Any]]


def test_a_token_is_asked_for_once(tmp_path: Path, oauth: Settings) -> None:
    issuer = Issuer()
    with Server(issuer) as service, Origin(Script(authorization="Bearer t1")) as origin:
        for _ in range(2):
            results = send(origin.base, objects(tmp_path, 4), batch=1, **oauth(service))
            assert set(outcomes(results)) == {D}
    assert issuer.forms == [{"grant_type": "client_credentials", "scope": "images"}]


def test_a_token_is_asked_for_again_before_it_expires(tmp_path: Path, oauth: Settings) -> None:
    issuer = Issuer(lasts=0)
    with Server(issuer) as service, Origin() as origin:
        send(origin.base, objects(tmp_path, 3), batch=1, **oauth(service))
    assert [one.headers["Authorization"] for one in origin.requests] == [
        "Bearer t1", "Bearer t2", "Bearer t3"
    ]  # fmt: skip


def test_a_token_that_is_refused_is_renewed_once(tmp_path: Path, oauth: Settings) -> None:
    issuer = Issuer()
    with Server(issuer) as service, Origin(Script(authorization="Bearer t2")) as origin:
        assert outcomes(send(origin.base, objects(tmp_path, 1), **oauth(service))) == [D]
    assert len(issuer.forms) == 2
    with Server(issuer) as service, Origin(Script(authorization="Bearer no")) as origin:
        (result,) = send(origin.base, objects(tmp_path, 1), **oauth(service))
    assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")


def test_a_token_service_that_refuses_us_is_named_without_its_words(
    tmp_path: Path, oauth: Settings
) -> None:
    with Server(Issuer(status=401)) as service, Origin() as origin:
        (result,) = send(origin.base, objects(tmp_path, 1), **oauth(service))
    assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")
    assert "invalid_client" in result.detail
    assert "Doe" not in result.detail
    assert origin.requests == []


def test_a_token_service_that_is_away_is_waited_for(tmp_path: Path, oauth: Settings) -> None:
    with Server(Issuer(status=503)) as service, Origin() as origin:
        (result,) = send(origin.base, objects(tmp_path, 1), **oauth(service))
    assert (result.outcome, result.lane) == (Outcome.NOT_SENT, "transport")


def test_a_service_account_signs_for_its_token(tmp_path: Path, oauth: Settings) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def issue(request: Request) -> Reply:
        form = request.form()
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        content, _, signature = form["assertion"].rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        private.public_key().verify(raw, content.encode(), PKCS1v15(), SHA256())
        claims = json.loads(base64.urlsafe_b64decode(content.partition(".")[2] + "=="))
        assert (claims["iss"], claims["aud"]) == ("router@p.iam", f"{service.url}/token")
        assert (claims["scope"], claims["exp"] - claims["iat"]) == ("images", 3600)
        return Reply(200, b'{"access_token": "signed", "expires_in": 3600}')

    key = tmp_path / "key.json"
    mine: dict[str, Any] = {"service_key_file": str(key), "oauth_scope": "images"}
    with Server(issue) as service, Origin(Script(authorization="Bearer signed")) as origin:
        uri = f"{service.url}/token"
        content = {"client_email": "router@p.iam", "token_uri": uri, "private_key_id": "7"}
        key.write_text(json.dumps({**content, "private_key": pem}))
        assert outcomes(send(origin.base, objects(tmp_path, 1), **mine)) == [D]
        key.write_text('{"client_email": "x"}')
        (result,) = send(origin.base, objects(tmp_path, 1), **mine)
    assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")


def test_certificates_are_checked_on_both_sides(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    server, client = signed(tmp_path, "server", ca), signed(tmp_path, "client", ca)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca.certificate)
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    mine: dict[str, Any] = {"client_cert": str(client.certificate), "client_key": str(client.key)}
    with Origin(context=context) as origin:
        items = objects(tmp_path, 1)
        assert outcomes(send(origin.base, items, ca_file=str(ca.certificate), **mine)) == [D]
        nameless: dict[str, Any] = {"ca_file": str(ca.certificate)}
        for wrong in (mine, nameless):
            (result,) = send(origin.base, items, **wrong)
            assert result.lane == "transport"
            assert result.outcome != D
        (result,) = send(origin.base, items, ca_file=str(tmp_path / "none.pem"))
        assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, "configuration")
    assert len(origin.objects) == 1


# --- asking --------------------------------------------------------------------------------------
def test_verify_says_what_the_server_answers() -> None:
    with Origin() as origin:
        assert sender(origin.base).verify().ok
        assert not sender(origin.url + "/other").verify().ok
    assert not sender(origin.base).verify().ok
    assert origin.stores == 0


def test_confirms_what_the_server_lists_or_gives_back(tmp_path: Path) -> None:
    items = objects(tmp_path, 3)
    with Origin() as origin:
        assert set(outcomes(send(origin.base, items))) == {D}
        del origin.objects[items[1].sop_instance_uid]
        uids = ("1.2", "1.3", "1.2.840.10008.1.2.1")
        changed = kept(b"\x08\0\x16\0UI\0\0", tmp_path, item_id=9, uids=uids)
        with changed.open() as file:
            origin.objects[items[2].sop_instance_uid] = file.read()
        assert confirmed(origin.base, items) == ["present", "absent", "present"]
        assert confirmed(origin.base, items, confirm="read") == ["present", "absent", "different"]
    assert confirmed(origin.base, items) == ["unknown"] * 3


def confirmed(url: str, items: Sequence[Outgoing], **settings: object) -> list[str]:
    asked = sender(url, **settings)
    assert isinstance(asked, Confirming)
    return [one.state for one in asked.confirm(items, Context())]


# --- settings ------------------------------------------------------------------------------------
WEB = {"url": "http://10.1.2.3:8042/dicom-web"}


def test_fills_defaults_and_exports_what_was_given() -> None:
    given = WEB | {"username": "u", "password_env": "STOW_PASSWORD"}
    form = KINDS["stow"].form(given | {"url": "http://10.1.2.3:8042/dicom-web/"})
    assert form.is_valid(), form.errors
    assert form.export() == given


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"url": "ftp://host/x"}, "url"),
        ({"url": "http://user:pw@host/x"}, "url"),
        ({"url": "http://host/x?a=b"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://10.1.2.3/\r\nX: y"}, "url"),
        ({"username": "u"}, "password_env"),
        ({"password_env": "P"}, "username"),
        ({"username": "u", "password_env": "P", "password_file": "/p"}, "password_file"),
        ({"username": "u", "password_env": "P", "token_env": "T"}, "token_env"),
        ({"token_env": "with space"}, "token_env"),
        ({"oauth_url": "https://10.1.2.3/t", "oauth_client": "c"}, "oauth_secret_env"),
        ({"client_cert": "/c.pem"}, "client_key"),
        ({"batch": 0}, "batch"),
        ({"batch_bytes": 10}, "batch_bytes"),
        ({"service": "other"}, "service"),
        ({"service": "azure"}, "url"),
        ({"service": "google"}, "url"),
        ({"service": "aws"}, "url"),
        ({"confirm": "maybe"}, "confirm"),
    ],
)
def test_refuses(given: dict[str, object], field: str) -> None:
    form = KINDS["stow"].form(WEB | given)
    assert list(form.errors) == [field]


@pytest.mark.parametrize(
    ("service", "url"),
    [
        ("azure", "https://ws-dicom.dicom.azurehealthcareapis.com/v2"),
        ("azure", "https://ws-dicom.dicom.azurehealthcareapis.com/v2/partitions/p1"),
        ("google", PRESETS["google"].example),
        ("aws", "https://dicom-medical-imaging.eu-west-1.amazonaws.com/datastore/" + "a1" * 16),
    ],
)
def test_knows_the_addresses_of_services(service: str, url: str) -> None:
    form = KINDS["stow"].form({"url": url, "service": service, "token_env": "T"})
    assert form.is_valid(), form.errors
