"""Where we may connect to: private networks yes, this machine and what is special never (R50)."""

import ipaddress
import socket

import pytest
from pytest_django import Settings

from router.webclient import Forbidden, check_url, guard
from tests.ports import free_port
from tests.router.webclient import hostile
from tests.router.webclient.far_ends import Listener, NameServer


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def _nothing_listed(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = []


@pytest.mark.parametrize("url", hostile.addresses(8080))
def test_refuses_at_sight(url: str) -> None:
    with pytest.raises(Forbidden):
        check_url(url)


def test_there_are_more_than_sixty() -> None:
    assert len(set(hostile.addresses(1))) + len(hostile.NAMES) > 60


@pytest.mark.parametrize(
    "url",
    [
        "http://10.1.2.3/dicom-web",
        "https://172.16.0.9:8443/",
        "http://192.168.1.7:8042/dicom-web",
        "http://[fd12:3456:789a::1]:9000/",
        "http://100.64.0.9/",
        "https://8.8.8.8/",
        "http://[64:ff9b::a01:203]/",
        "https://pacs.hospital.example/path?with=query",
        "https://storage.example.:443/",
        "https://[2606:4700::1111]/",
        "HTTPS://Store.Example/a%20b",
    ],
)
def test_lets_private_and_public_addresses_be(url: str) -> None:
    check_url(url)


def test_says_what_is_wrong_and_no_secret() -> None:
    with pytest.raises(Forbidden, match="without a user name") as caught:
        check_url("http://me:hunter2@10.0.0.1/")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Forbidden, match=r"127\.0\.0\.1 is a loopback address; ROUTER_OUTBOUND"):
        check_url("http://127.0.0.1/")


@pytest.mark.parametrize(
    ("listed", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("::1", "::1"),
        ("169.254.7.0/24", "169.254.7.9"),
        ("169.254.169.254", "169.254.169.254"),
    ],
)
def test_what_is_listed_is_allowed(settings: Settings, listed: str, address: str) -> None:
    with pytest.raises(Forbidden):
        guard.check(ipaddress.ip_address(address))
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network(listed)]
    guard.check(ipaddress.ip_address(address))


def test_listing_one_network_lists_no_other(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.1/32")]
    for address in ("127.0.0.2", "::1", "169.254.169.254", "2002:7f00:2::"):
        with pytest.raises(Forbidden):
            guard.check(ipaddress.ip_address(address))


def test_every_special_address_stays_refused_in_every_form_of_ipv6() -> None:
    for _what, networks in guard.REFUSED:
        for network in networks:
            inside: list[guard.Address] = [network[0], network[-1]]
            for number in [int(one) for one in inside if one.version == 4]:
                carried = [
                    (0xFFFF << 32) | number,
                    (0xFFFF << 48) | number,
                    int(ipaddress.IPv6Address("64:ff9b::")) | number,
                    (0x2002 << 112) | (number << 80) | 7,
                    int(ipaddress.IPv6Address("2606:4700::5efe:0:0")) | number,
                ]
                inside += [ipaddress.IPv6Address(value) for value in carried]
            for one in inside:
                with pytest.raises(Forbidden):
                    guard.check(one)


def test_an_address_of_this_machine_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        own = ipaddress.ip_address(probe.getsockname()[0])
    assert guard._is_ours(own)
    assert not guard._is_ours(ipaddress.ip_address("10.99.99.99"))


def test_our_own_services_are_refused_by_host_and_port(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PUBLIC_URL = "https://10.9.9.9"
    settings.REDIS_URL = "redis://10.9.9.8"
    monkeypatch.setitem(settings.DATABASES["default"], "HOST", "10.9.9.7")
    monkeypatch.setitem(settings.DATABASES["default"], "PORT", 5433)
    for host, port in (("10.9.9.9", 443), ("10.9.9.8", 6379), ("10.9.9.7", 5433)):
        with pytest.raises(Forbidden, match="a service of ours"):
            guard.check(ipaddress.ip_address(host), port=port)
        guard.check(ipaddress.ip_address(host), port=port + 1)


def test_every_answer_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with NameServer({"store.example": [["10.1.2.3", "127.0.0.1"]]}) as names:
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        with pytest.raises(Forbidden, match=r"^store\.example leads to 127\.0\.0\.1, which"):
            guard.resolve("store.example", 80)


@pytest.mark.parametrize("name", hostile.NAMES)
def test_names_of_this_machine_reach_nobody(name: str) -> None:
    with Listener("127.0.0.1", "::1") as listener, pytest.raises((Forbidden, OSError)):
        guard.connect(name, listener.port, timeout=2, abort=never)
    assert listener.count == 0


def test_a_name_that_changes_its_answer_is_judged_by_each_connection(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.1")]
    script = {"store.example": [["127.0.0.1"], ["127.0.0.2"]]}
    with (
        NameServer(script) as names,
        Listener("127.0.0.2") as hidden,
        socket.create_server(("127.0.0.1", hidden.port)),
    ):
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        first = guard.connect("store.example", hidden.port, timeout=2, abort=never)
        assert first.getpeername()[0] == "127.0.0.1"
        first.close()
        assert names.queries == ["store.example"]  # it was asked once, and not again to connect
        with pytest.raises(Forbidden):
            guard.connect("store.example", hidden.port, timeout=2, abort=never)
    assert hidden.count == 0


def test_where_a_connection_has_led_is_looked_at_once_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = socket.create_connection(server.getsockname())
        with pytest.raises(Forbidden, match=r"store\.example leads to 127\.0\.0\.1"):
            guard._checked(made, "store.example")
    assert made.fileno() == -1  # it is closed


def test_tries_the_next_address_when_one_refuses(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.0/8")]
    with NameServer({"store.example": [["127.0.0.3", "127.0.0.1"]]}) as names:
        monkeypatch.setattr(socket, "getaddrinfo", names.resolver())
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            made = guard.connect("store.example", port, timeout=5, abort=never)
            assert made.getpeername()[0] == "127.0.0.1"
            made.close()


def test_refused_connections_and_unknown_names_are_os_errors(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.0/8")]
    with pytest.raises(ConnectionRefusedError):
        guard.connect("127.0.0.1", free_port(), timeout=5, abort=never)
    with pytest.raises(socket.gaierror):
        guard.connect("no-such-name.invalid", 80, timeout=5, abort=never)
    with pytest.raises(OSError, match="host name"):
        guard.connect("a..b", 80, timeout=5, abort=never)


@pytest.mark.parametrize(
    ("stops", "timeout", "error"), [(True, 60.0, guard.Stopped), (False, 0.3, TimeoutError)]
)
def test_connecting_ends_when_it_must(
    settings: Settings, stops: bool, timeout: float, error: type[OSError]
) -> None:
    """A listener whose queue is full lets a connection hang on loopback."""
    settings.OUTBOUND_ALLOW = [ipaddress.ip_network("127.0.0.0/8")]
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), pytest.raises(error):
            guard.connect("127.0.0.1", port, timeout=timeout, abort=lambda: stops)
