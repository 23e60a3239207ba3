"""No HTTP destination reaches what the guard refuses: by its form, its sender or its verification
(R50). A listener counts who comes."""

import ipaddress
import socket
from pathlib import Path

import pytest
from pytest_django import Settings

from router.destinations import KINDS
from router.destinations.base import Context, Outgoing, Result
from router.destinations.outcomes import Outcome
from tests.router.destinations.objects import made
from tests.router.webclient import hostile
from tests.router.webclient.far_ends import Answer, Listener, NameServer, WebServer

HARMLESS = "http://10.99.99.99:9"
USUAL: dict[str, dict[str, object]] = {
    "s3": {
        "bucket": "images",
        "access_key_env": "TARGET_SECRET",
        "secret_key_env": "TARGET_SECRET",
        "addressing": "path",
    },
    "stow": {"token_env": "TARGET_SECRET"},
    "webhook": {"secret_env": "TARGET_SECRET"},
}
FIELD = {"s3": "endpoint", "stow": "url", "webhook": "url"}
TIMES = {"connect_timeout": "2s", "response_timeout": "2s"}
NOT_THERE = {Outcome.NOT_SENT, Outcome.RETRY}

pytestmark = pytest.mark.parametrize("kind", sorted(USUAL))


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setenv("TARGET_SECRET", "hunter2hunter2hunter2")
    settings.OUTBOUND_ALLOW = []


def settled(kind: str, address: str) -> dict[str, object]:
    """Return settings as they were applied when `address` was still harmless."""
    form = KINDS[kind].form({FIELD[kind]: HARMLESS} | USUAL[kind] | TIMES)
    assert form.is_valid(), form.errors
    return dict(form.cleaned_data) | {FIELD[kind]: address}


def sent(kind: str, address: str, item: Outgoing) -> Result:
    (result,) = KINDS[kind].sender(settled(kind, address)).send([item], Context())
    return result


def test_the_form_refuses_what_is_seen_at_sight(kind: str) -> None:
    accepted = []
    for address in filter(None, hostile.addresses(8080)):
        form = KINDS[kind].form({FIELD[kind]: address} | USUAL[kind])
        if form.is_valid() or FIELD[kind] not in form.errors:
            accepted.append(address)
    assert accepted == []


def test_the_sender_reaches_none_that_was_applied_before(kind: str, tmp_path: Path) -> None:
    item = made(tmp_path)
    with Listener("127.0.0.1", "127.0.0.2", "::1") as listener:
        hosts = [*hostile.LITERALS, *hostile.NAMES]
        results = {
            host: sent(kind, f"http://{host}:{listener.port}", item).outcome for host in hosts
        }
        verified = KINDS[kind].sender(settled(kind, f"http://127.0.0.1:{listener.port}")).verify()
    assert len(hosts) > 60
    unknown = {name for name in hostile.NAMES if results[name] in NOT_THERE}
    assert {host for host in hosts if results[host] != Outcome.CONFIGURATION} == unknown
    assert not verified.ok
    assert "loopback" in verified.steps[-1].detail
    assert listener.count == 0


def test_a_name_that_leads_elsewhere_the_second_time_is_not_followed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.1")]
    with (
        WebServer(Answer(503, {"Connection": "close"}, b"")) as server,
        Listener("127.0.0.2") as hidden,
        NameServer({"target.example": [["127.0.0.1"], ["127.0.0.2"]]}) as names,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        address = f"http://target.example:{hidden.port}"
        first = sent(kind, f"http://target.example:{server.port}", made(tmp_path))
        second = sent(kind, address, made(tmp_path))
    assert (first.outcome, second.outcome) == (Outcome.RETRY, Outcome.CONFIGURATION)
    assert "127.0.0.2" in second.detail
    assert hidden.count == 0


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(
    kind: str, status: int, tmp_path: Path, settings: Settings
) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.1")]
    with Listener("127.0.0.2") as hidden:
        headers = {"Location": f"http://127.0.0.2:{hidden.port}/", "x-amz-bucket-region": "eu-9"}
        with WebServer(Answer(status, headers, b"")) as server:
            result = sent(kind, server.url, made(tmp_path))
    assert result.outcome == Outcome.CONFIGURATION
    assert server.requests
    assert hidden.count == 0


def test_details_hold_no_secret(kind: str, tmp_path: Path) -> None:
    result = sent(kind, "http://127.0.0.1:9", made(tmp_path))
    assert "hunter2" not in result.detail
    assert "ROUTER_OUTBOUND_ALLOW" in result.detail
