"""Where we may connect to over HTTP (R50): which addresses, and a connection to a checked one.

Private networks are allowed, since the servers of a hospital live there. Refused, unless
`ROUTER_OUTBOUND_ALLOW` lists them: this machine itself, link-local and metadata addresses,
multicast, and what is reserved, in every form in which IPv6 can carry an IPv4 address. A name is
resolved once for each connection, every answer is checked, and the connection is made to a checked
address, never to the name. Knows nothing of HTTP.
"""

import ipaddress
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Sockaddr = tuple[str, int] | tuple[str, int, int, int]

TICK = 0.25
"""Longest time in seconds that a wait lasts before the stop flag is looked at again."""
LISTED = "ROUTER_OUTBOUND_ALLOW does not list it"
PORTS = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432, "redis": 6379}

_REFUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "a metadata address",
        (
            *("169.254.169.254/32", "169.254.170.2/32", "100.100.100.200/32", "168.63.129.16/32"),
            *("192.0.0.192/32", "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"),
            "fd00:c1::a9fe:a9fe/128",
        ),
    ),
    ("an unspecified address", ("0.0.0.0/8", "::/128")),
    ("a loopback address", ("127.0.0.0/8", "::1/128")),
    ("a link-local address", ("169.254.0.0/16", "fe80::/10", "fec0::/10")),
    ("a multicast address", ("224.0.0.0/4", "ff00::/8")),
    (
        "a reserved address",
        (
            *("192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
            *("100::/64", "2001::/32", "2001:db8::/32", "3fff::/20", "5f00::/16"),
            "64:ff9b:1::/48",
        ),
    ),
)
REFUSED: tuple[tuple[str, tuple[Network, ...]], ...] = tuple(
    (what, tuple(ipaddress.ip_network(text) for text in texts)) for what, texts in _REFUSED
)
"""What an address may not be, by the special-purpose registries of IANA (RFC 6890) and by the
clouds' documents; Teredo (2001::/32) and local NAT64 (64:ff9b:1::/48) hide where they lead."""

CARRIERS: tuple[tuple[IPv6Network, int], ...] = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped (RFC 4291 2.5.5.2)
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated (RFC 2765)
    (IPv6Network("::/96"), 0),  # IPv4-compatible (RFC 4291 2.5.5.1)
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64 (RFC 6052)
    (IPv6Network("2002::/16"), 80),  # 6to4 (RFC 3056)
)
"""Networks whose addresses lead to an IPv4 address, and how many bits stand behind it."""
ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""The third quarter of an address that leads to the IPv4 address in the fourth (RFC 5214)."""


class Forbidden(Exception):
    """An address that we do not connect to. The sentence names it and no secret, and has no full
    stop at its end."""


class Stopped(OSError):
    """We were told to stop while a connection was being made."""


def check_url(url: str) -> None:
    """Look at the text of an address, without asking anybody what its name stands for.

    Raises:
        Forbidden: it is no http or https address of a host, holds credentials, or names an address
            that is refused at sight.
    """
    if not url.isascii() or not url.isprintable() or set(url) & set(" \\"):
        raise Forbidden("an address of printable ASCII without blanks or backslashes is expected")
    parts = _split(url)
    if parts.scheme not in {"http", "https"}:
        raise Forbidden(f"an address that begins with http:// or https:// is expected, not {url!r}")
    if "@" in parts.netloc:
        raise Forbidden("an address without a user name or password in it is expected")
    if not parts.hostname:
        raise Forbidden("an address with a host is expected")
    check_host(parts.hostname)


def check_host(host: str) -> None:
    """Look at a host: a literal address must be allowed, and written in the usual way.

    Raises:
        Forbidden: it is not.
    """
    if "%" in host:
        raise Forbidden(f"{host} holds a zone or an escape; a plain host is expected")
    literal = _literal(host)
    if literal is not None:
        check(literal)
    elif _is_spelled_oddly(host):
        raise Forbidden(f"{host} is a number; an IPv4 address is written like 10.1.2.3")


def check(address: Address, *, port: int | None = None, name: str = "") -> None:
    """Look at one address, `name` being what led to it.

    Raises:
        Forbidden: it is refused and not listed.
    """
    shown = f"{name} leads to {address}, which" if name else str(address)
    for form in forms(address):
        if any(form in network for network in settings.OUTBOUND_ALLOW):
            continue
        for what, networks in REFUSED:
            if any(form in network for network in networks):
                raise Forbidden(f"{shown} is {what}; {LISTED}")
        if _is_ours(form):
            raise Forbidden(f"{shown} is an address of this machine; {LISTED}")
        if port is not None and _is_our_service(form, port):
            raise Forbidden(f"{shown} is where a service of ours listens; {LISTED}")


def forms(address: Address) -> Sequence[Address]:
    """Return the addresses that `address` may lead to: itself, or the IPv4 address it carries too.

    What is only another spelling of an IPv4 address is not counted as itself.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    number = int(address)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    carried: list[Address] = [
        IPv4Address((number >> behind) & 0xFFFFFFFF)
        for network, behind in CARRIERS
        if address in network and number > 1
    ]
    if (number >> 32) & 0xFFFFFFFF in ISATAP:
        carried.append(IPv4Address(number & 0xFFFFFFFF))
    return (IPv6Address(number), *carried)


def resolve(host: str, port: int) -> list[Sockaddr]:
    """Return every address that `host` stands for now; all of them may be connected to.

    Raises:
        Forbidden: one of them may not.
        OSError: the name cannot be resolved (socket.gaierror).
    """
    check_host(host)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "this is no host name") from error
    found: list[Sockaddr] = []
    for _family, _type, _protocol, _name, sockaddr in answers:
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        check(address, port=port, name="" if str(address) == host else host)
        if sockaddr not in found:
            found.append(sockaddr)  # type: ignore[arg-type]  # typeshed: any address family
    return found


def connect(
    host: str, port: int, *, timeout: float | None, abort: Callable[[], bool]
) -> socket.socket:
    """Connect to the first address of `host` that accepts; the socket blocks.

    Raises:
        Forbidden: the host leads, or the connection has led, where we may not go.
        TimeoutError: no connection came about in time.
        OSError: nobody accepts, or the name cannot be resolved. Stopped: we are to stop.
    """
    end = time.monotonic() + (60.0 if timeout is None else timeout)
    addresses = resolve(host, port)
    failure: OSError = OSError("the name has no address")
    for count, sockaddr in enumerate(addresses):
        share = max(0.0, end - time.monotonic()) / (len(addresses) - count)
        try:
            connection = _connected(sockaddr, time.monotonic() + share, abort)
        except Stopped:
            raise
        except OSError as error:
            failure = error
            continue
        return _checked(connection, host)
    raise failure


def _connected(sockaddr: Sockaddr, end: float, abort: Callable[[], bool]) -> socket.socket:
    family = socket.AF_INET if len(sockaddr) == 2 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        connection.connect_ex(sockaddr)
        _await_connection(connection, end, abort)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(True)  # noqa: FBT003
    except BaseException:
        connection.close()
        raise
    return connection


def _await_connection(connection: socket.socket, end: float, abort: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    while not poll.poll(1000 * max(0.0, min(TICK, end - time.monotonic()))):
        if abort():
            raise Stopped("we were told to stop")
        if time.monotonic() >= end:
            raise TimeoutError("no connection came about in time")
    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _checked(connection: socket.socket, host: str) -> socket.socket:
    """Look at the far end of a connection once more: it counts where it is, not what was asked."""
    try:
        sockaddr = connection.getpeername()
        peer = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        check(peer, port=int(sockaddr[1]), name="" if str(peer) == host else host)
    except BaseException:
        connection.close()
        raise
    return connection


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.port == 0:
            raise Forbidden("a port from 1 to 65535 is expected")
    except ValueError as error:
        raise Forbidden("an address like https://host:443/path is expected") from error
    return parts


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_spelled_oddly(host: str) -> bool:
    """Whether the system would take it for an IPv4 address, though it is not written as one."""
    try:
        socket.inet_aton(host.rstrip("."))
    except (OSError, UnicodeError):
        return False
    return True


def _is_ours(address: Address) -> bool:
    """Whether an interface of this machine has it: then it is where we would come from, too.

    Nothing is sent: a datagram socket that is connected only chooses its own address.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(str(probe.getsockname()[0]).partition("%")[0]) == address
    except OSError:
        return False  # there is no way to it at all


def _is_our_service(address: Address, port: int) -> bool:
    return any(
        port == own and address in _addresses(host) for host, own in _services() if port == own
    )


def _services() -> Iterator[tuple[str, int]]:
    """Yield host and port of what we run on: our own pages, the database, the broker."""
    for url in (settings.PUBLIC_URL, settings.REDIS_URL):
        parts = urlsplit(url)
        if parts.hostname:
            yield parts.hostname, parts.port or PORTS.get(parts.scheme, 0)
    database = settings.DATABASES["default"]
    if database.get("HOST"):
        yield str(database["HOST"]), int(database.get("PORT") or PORTS["postgres"])


def _addresses(host: str) -> set[Address]:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers}
