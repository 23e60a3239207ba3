"""HTTP for senders: nothing hostile is reached, bytes stream, waiting ends when it must."""

import ipaddress
import itertools
import socket
import threading
from pathlib import Path

import httpx
import pytest
from pytest_django import Settings

from router import webclient
from router.webclient import Forbidden, Timeouts
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


@pytest.fixture
def _loopback_listed(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.1")]


def test_reaches_nothing_hostile(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = []
    with (
        Listener("127.0.0.1", "127.0.0.2", "::1") as listener,
        webclient.client(timeout=TIMES) as client,
    ):
        urls = hostile.addresses(listener.port)
        urls += [f"http://{name}:{listener.port}/" for name in hostile.NAMES]
        reached = [url for url in urls if not _is_refused(client, url)]
    assert len(urls) > 60
    assert reached == []
    assert listener.count == 0


def _is_refused(client: httpx.Client, url: str) -> bool:
    """Whether the guard refused it, so that nothing was sent."""
    try:
        client.get(url)
    except Forbidden:
        return True
    except httpx.ConnectError as error:  # a system that does not know the name
        return "localhost" in url.lower() and "name" in str(error).lower()
    return False


@pytest.mark.usefixtures("_loopback_listed")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_follows_no_redirect(status: int) -> None:
    with Listener("127.0.0.2") as hidden:
        answer = Answer(status, {"Location": f"http://127.0.0.2:{hidden.port}/"})
        with WebServer(answer) as server, webclient.client(timeout=TIMES) as client:
            assert client.get(server.url).status_code == status
    assert hidden.count == 0


@pytest.mark.usefixtures("_loopback_listed")
def test_a_name_that_leads_elsewhere_the_second_time_is_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WebServer() as server, Listener("127.0.0.2") as hidden:
        url = f"http://store.example:{server.port}/"
        script = {"store.example": [["127.0.0.1"], ["127.0.0.2"]]}
        with NameServer(script) as names, webclient.client(timeout=TIMES) as client:
            monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
            assert client.get(url, headers={"Connection": "close"}).text == "well"
            assert names.queries == ["store.example"]
            with pytest.raises(Forbidden, match=r"127\.0\.0\.2"):
                client.get(url)
    assert (len(server.requests), hidden.count) == (1, 0)
    assert server.requests[0][2]["Host"] == f"store.example:{server.port}"


@pytest.mark.usefixtures("_loopback_listed")
def test_uses_no_proxy_and_no_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Listener("127.0.0.1") as proxy, WebServer() as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with webclient.client(timeout=TIMES) as client:
            assert client.get(server.url).text == "well"
    assert proxy.count == 0
    assert "Authorization" not in server.requests[0][2]


@pytest.mark.usefixtures("_loopback_listed")
def test_keeps_a_connection_for_what_follows() -> None:
    with WebServer() as server, webclient.client(timeout=TIMES) as client:
        for _ in range(3):
            assert client.get(server.url).status_code == 200
        assert len(server.connections) == 1


@pytest.mark.usefixtures("_loopback_listed")
def test_streams_a_body_and_tells_of_its_bytes() -> None:
    told: list[int] = []
    block, count = bytes(range(256)) * 4096, 12
    with (
        WebServer() as server,
        webclient.client(timeout=TIMES, progress=told.append) as client,
    ):
        size = {"Content-Length": str(len(block) * count)}
        answer = client.post(server.url, content=itertools.repeat(block, count), headers=size)
    assert answer.status_code == 200
    assert server.requests[0][3] == block * count
    assert sum(told) > len(block) * count


@pytest.mark.usefixtures("_loopback_listed")
def test_ends_while_an_answer_is_awaited_when_told_to_stop() -> None:
    stop = threading.Event()
    with WebServer() as server:
        server.hold.clear()
        with webclient.client(timeout=Timeouts(read=60), abort=stop.is_set) as client:
            threading.Timer(0.5, stop.set).start()
            with pytest.raises(httpx.ReadError, match="told to stop"):
                client.get(server.url)


@pytest.mark.usefixtures("_loopback_listed")
def test_what_progress_raises_ends_the_sending() -> None:
    class LostError(Exception):
        pass

    def lost(_moved: int) -> None:
        raise LostError

    with (
        WebServer() as server,
        webclient.client(timeout=TIMES, progress=lost) as client,
        pytest.raises(LostError),
    ):
        client.get(server.url)


@pytest.mark.usefixtures("_loopback_listed")
def test_waits_no_longer_than_it_was_told() -> None:
    with WebServer() as server:
        server.hold.clear()
        with (
            webclient.client(timeout=Timeouts(read=0.4)) as client,
            pytest.raises(httpx.ReadTimeout),
        ):
            client.get(server.url)


@pytest.mark.usefixtures("_loopback_listed")
def test_a_far_end_that_takes_no_bytes_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with (
            webclient.client(timeout=Timeouts(write=0.4)) as client,
            pytest.raises(httpx.WriteTimeout),
        ):
            client.post(url, content=itertools.repeat(bytes(1 << 20), 64))


@pytest.mark.usefixtures("_loopback_listed")
def test_nobody_there_is_a_connect_error() -> None:
    with webclient.client(timeout=TIMES) as client, pytest.raises(httpx.ConnectError):
        client.get(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.usefixtures("_loopback_listed")
class TestTls:
    """Certificates and names are checked, and ours is shown where it is asked for."""

    def test_trusts_the_authority_that_is_named(self, files: Files) -> None:
        with (
            tls_server(files) as server,
            webclient.client(timeout=TIMES, verify=files.ca) as client,
        ):
            assert client.get(server.url).text == "well"

    def test_shows_our_certificate(self, files: Files) -> None:
        with tls_server(files, asks=True) as server:
            with (
                webclient.client(timeout=TIMES, verify=files.ca) as client,
                pytest.raises(httpx.TransportError),
            ):
                client.get(server.url)
            with webclient.client(timeout=TIMES, verify=files.ca, certificate=files.pair) as client:
                assert client.get(server.url).text == "well"

    def test_refuses_who_is_not_trusted(self, files: Files) -> None:
        with (
            tls_server(files) as server,
            webclient.client(timeout=TIMES) as client,
            pytest.raises(httpx.ConnectError, match="not trusted"),
        ):
            client.get(server.url)
        assert server.requests == []

    def test_refuses_another_name(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        with (
            NameServer({"other.example": [["127.0.0.1"]]}) as names,
            tls_server(files) as server,
            webclient.client(timeout=TIMES, verify=files.ca) as client,
        ):
            monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
            with pytest.raises(httpx.ConnectError, match="not trusted"):
                client.get(f"https://other.example:{server.port}/")
        assert server.requests == []

    def test_a_file_that_holds_no_certificate_is_said(self, tmp_path: Path) -> None:
        wrong = tmp_path / "ca.pem"
        wrong.write_text("no certificate")
        with pytest.raises(OSError, match=r"(?i)certificate|no start line|PEM"):
            webclient.client(timeout=TIMES, verify=wrong)
        with pytest.raises(FileNotFoundError):
            webclient.client(timeout=TIMES, verify=tmp_path / "none.pem")
