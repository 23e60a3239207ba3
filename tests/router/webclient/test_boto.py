"""Clients of S3 stores: by the guard only, with the keys they are given, never redirected."""

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)
from pytest_django import Settings

from router.webclient import Forbidden, Keys, Timeouts, boto_client
from tests.ports import free_port
from tests.router.webclient import hostile
from tests.router.webclient.far_ends import (
    Answer,
    Files,
    Listener,
    NameServer,
    WebServer,
    tls_server,
)

TIMES = Timeouts(connect=2, write=2, read=2)
KEYS = Keys("AKIDEXAMPLE", "hunter2hunter2")


def store(endpoint: str, **given: Any) -> Any:
    """Return a client as the s3 kind makes one."""
    usual: dict[str, Any] = {
        "keys": KEYS,
        "region": "eu-central-1",
        "timeout": TIMES,
        "options": {"s3": {"addressing_style": "path"}},
    }
    return boto_client("s3", endpoint=endpoint, **{**usual, **given})


@pytest.fixture
def _loopback_listed(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.1")]


def test_reaches_nothing_hostile(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = []
    with Listener("127.0.0.1", "127.0.0.2", "::1") as listener:
        urls = [url for url in hostile.addresses(listener.port) if url]
        urls += [f"http://{name}:{listener.port}/" for name in hostile.NAMES]
        reached = [url for url in urls if not _is_refused(url)]
    assert len(urls) > 60
    assert reached == []
    assert listener.count == 0


def _is_refused(url: str) -> bool:
    try:
        store(url).head_bucket(Bucket="images")
    except Forbidden:
        return True
    except EndpointConnectionError:  # a system that does not know the name
        return "localhost" in url.lower()
    return False


def test_a_name_that_leads_to_this_machine_reaches_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OUTBOUND_ALLOW = []
    script = {"store.example": [["127.0.0.1"]], "images.store.example": [["10.1.2.3", "::1"]]}
    with Listener("127.0.0.1", "::1") as listener, NameServer(script) as names:
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        endpoint = f"http://store.example:{listener.port}"
        with pytest.raises(Forbidden, match="which is a loopback address"):
            store(endpoint).head_bucket(Bucket="images")
        client = store(endpoint, options={"s3": {"addressing_style": "virtual"}})
        with pytest.raises(BotoCoreError, match="which is a loopback address"):
            client.put_object(Bucket="images", Key="one", Body=b"x")
    assert names.queries == ["store.example", "images.store.example"]
    assert listener.count == 0


@pytest.mark.usefixtures("_loopback_listed")
def test_a_name_that_leads_elsewhere_the_second_time_is_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = {"store.example": [["127.0.0.1"], ["127.0.0.2"]]}
    closing = Answer(headers={"Connection": "close"}, body=b"")
    with (
        WebServer(closing) as server,
        Listener("127.0.0.2") as hidden,
        NameServer(script) as names,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        client = store(f"http://store.example:{server.port}")
        client.head_bucket(Bucket="images")
        with pytest.raises(Forbidden):
            client.head_bucket(Bucket="images")
    assert (len(server.requests), hidden.count) == (1, 0)


@pytest.mark.usefixtures("_loopback_listed")
@pytest.mark.parametrize(
    ("status", "code"),
    [(301, "PermanentRedirect"), (307, "TemporaryRedirect"), (400, "AuthorizationHeaderMalformed")],
)
def test_follows_no_redirect_and_goes_to_no_other_region(status: int, code: str) -> None:
    with Listener("127.0.0.2") as hidden:
        location = f"http://127.0.0.2:{hidden.port}/images/one"
        body = f"<Error><Code>{code}</Code><Region>us-west-2</Region></Error>".encode()
        headers = {"Location": location, "x-amz-bucket-region": "us-west-2"}
        with WebServer(Answer(status, headers, body)) as server:
            client = store(server.url)
            with pytest.raises(ClientError) as caught:
                client.put_object(Bucket="images", Key="one", Body=b"x")
            with pytest.raises(ClientError):
                client.head_object(Bucket="images", Key="one")
    assert caught.value.response["Error"]["Code"] == code
    assert len(server.requests) == 2
    assert all("/eu-central-1/" in asked[2]["Authorization"] for asked in server.requests)
    assert hidden.count == 0


@pytest.mark.usefixtures("_loopback_listed")
def test_uses_the_keys_it_is_given_and_nothing_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / "config"
    profile.write_text("[profile other]\naws_access_key_id = AKIDOTHER\nregion = other-1\n")
    with Listener("127.0.0.1") as elsewhere, WebServer(Answer(body=b"")) as server:
        other = f"http://127.0.0.1:{elsewhere.port}"
        for name in ("http_proxy", "HTTP_PROXY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, other)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", other)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
        monkeypatch.setenv("AWS_PROFILE", "other")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
        store(server.url).put_object(Bucket="images", Key="one", Body=b"x")
        with pytest.raises(ValueError, match="access key and its secret"):
            store(server.url, keys=Keys("", ""))
    assert elsewhere.count == 0
    assert "Credential=AKIDEXAMPLE/" in server.requests[0][2]["Authorization"]


def test_keys_are_not_shown() -> None:
    assert "hunter2" not in repr(KEYS)


@pytest.mark.usefixtures("_loopback_listed")
def test_trouble_has_the_names_that_botocore_gives_it() -> None:
    with pytest.raises(EndpointConnectionError):
        store(f"http://127.0.0.1:{free_port()}").head_bucket(Bucket="images")
    with pytest.raises(EndpointConnectionError):
        store("http://no-such-name.invalid").head_bucket(Bucket="images")
    with WebServer() as server:
        server.hold.clear()
        with pytest.raises(ReadTimeoutError):
            store(server.url, timeout=Timeouts(read=0.4)).head_bucket(Bucket="images")
    assert len(server.requests) == 1  # nothing is tried twice


@pytest.mark.usefixtures("_loopback_listed")
def test_puts_a_body_and_keeps_its_connection() -> None:
    body = bytes(range(256)) * 4096
    with WebServer(Answer(headers={"ETag": '"x"'}, body=b"")) as server:
        client = store(server.url)
        for name in ("one", "two"):
            client.put_object(Bucket="images", Key=name, Body=body, ContentLength=len(body))
    assert len(server.connections) == 1
    assert [asked[1] for asked in server.requests] == ["/images/one", "/images/two"]
    assert all(body in asked[3] for asked in server.requests)


@pytest.mark.usefixtures("_loopback_listed")
def test_trusts_the_authority_that_is_named_and_shows_our_certificate(files: Files) -> None:
    with tls_server(files, asks=True) as server:
        server.answer.body = b""
        store(server.url, verify=files.ca, certificate=files.pair).head_bucket(Bucket="images")
        with pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            store(server.url, certificate=files.pair).head_bucket(Bucket="images")
        with pytest.raises(BotoCoreError):
            store(server.url, verify=files.ca).head_bucket(Bucket="images")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("_loopback_listed")
def test_refuses_a_certificate_of_another_name(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        NameServer({"store.example": [["127.0.0.1"]]}) as names,
        tls_server(files) as server,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        client = store(f"https://store.example:{server.port}", verify=files.ca)
        with pytest.raises(SSLError, match=r"store\.example"):
            client.head_bucket(Bucket="images")
    assert server.requests == []
