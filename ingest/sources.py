"""Who may associate with us and for what: the Sources, as the receiver sees them.

They are read from the file that the configuration service writes whenever it applies a revision,
so that the receiver starts and judges without the database. It refuses to write that file.

Of several sources that match, one that names the AE title exactly comes before patterns, then the
file's order decides.

The file also lists our `dicom` destinations: each may associate to report on the commitments that
we asked it for, under the AE title by which we call ourselves there, and for nothing else.
"""

import ipaddress
import json
import logging
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from router.spool import Duplicates

log = logging.getLogger(__name__)

EVERY_SERVICE = frozenset({"echo", "store", "find", "move", "get", "commit"})
DEFAULT_SERVICES = ("echo", "store")
REPORTING = "commit"
_DUPLICATES: dict[str, Duplicates] = {
    "quarantine": "quarantine",
    "versions": "versions",
    "refuse": "refuse",
}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Source:
    """One enabled source. No `hosts` means any address."""

    name: str
    ae_title: str
    hosts: tuple[Network, ...]
    services: frozenset[str]
    duplicates: Duplicates

    @property
    def is_pattern(self) -> bool:
        return "*" in self.ae_title or "?" in self.ae_title

    def matches(self, ae_title: str, address: Address) -> bool:
        if self.hosts and not any(address in network for network in self.hosts):
            return False
        return _pattern(self.ae_title).fullmatch(ae_title) is not None


@dataclass(frozen=True, slots=True)
class Peer:
    """A destination of ours: what it calls itself, where it lies, and how we call ourselves there
    (`calling_ae`, empty for our own AE title)."""

    ae_title: str
    host: str
    calling_ae: str

    def lies_at(self, address: Address) -> bool:
        """Tell whether a caller's address is its; a name is resolved, which may take a while."""
        return address in _resolved(self.host)


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller that may associate. `source` is None while no source is listed, and for a peer that
    comes as a destination of ours only (`is_reporter`)."""

    source: str | None
    services: frozenset[str]
    duplicates: Duplicates
    is_reporter: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4) and our word for its reason."""

    result: int
    origin: int
    diagnostic: int
    reason: str


CALLED_AE_UNKNOWN = Rejection(1, 1, 7, reason="called_ae_not_recognized")
CALLER_UNKNOWN = Rejection(1, 1, 3, reason="calling_ae_not_recognized")
LIMIT_EXCEEDED = Rejection(2, 3, 2, reason="local_limit_exceeded")
SourcesState = Literal["absent", "listed", "unreadable"]


@dataclass(frozen=True, slots=True)
class SourceList:
    """One revision of the file. `has_rows` counts disabled ones too: they are listed as well."""

    state: SourcesState
    sources: tuple[Source, ...] = ()
    revision: int = 0
    has_rows: bool = False
    peers: tuple[Peer, ...] = ()

    def admit(self, ae_title: str, host: str) -> Admission | None:
        """What the caller may do, or None when it is unknown (`contract.md`, Sources)."""
        address = _address(host)
        if self.state == "unreadable":
            return None
        if not self.has_rows:
            return Admission(None, EVERY_SERVICE, "quarantine") if address.is_loopback else None
        found = [source for source in self.sources if source.matches(ae_title, address)]
        if not found:
            return None
        source = min(found, key=lambda source: source.is_pattern)
        return Admission(source.name, source.services, source.duplicates)

    def admit_reporter(self, calling_ae: str, host: str, *, called_as: str) -> Admission | None:
        """What a destination of ours may do that calls us; None when the caller is none.

        `called_as` is '' when we were called by our own AE title, which is always right.
        """
        address = _address(host)
        for peer in self.peers:
            named = peer.ae_title == calling_ae and called_as in ("", peer.calling_ae)
            if named and peer.lies_at(address):
                return Admission(None, frozenset({REPORTING}), "quarantine", is_reporter=True)
        return None


class Sources:
    """The current list: looked at again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._list = SourceList("absent")

    def current(self) -> SourceList:
        """The list of the file as it is now. One stat a call; the file is read when it changed.

        A file that cannot be read leaves the last good list in place; with none, nobody is known.
        """
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._seen:
                self._seen = stamp
                self._list = self._read()
            return self._list

    def _read(self) -> SourceList:
        try:
            return parse(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return SourceList("absent")
        except (OSError, ValueError) as error:
            log.error("sources.unreadable", extra={"error": str(error)})
            return self._list if self._list.state == "listed" else SourceList("unreadable")


def parse(text: str) -> SourceList:
    """The list in a `sources.json`. Raises ValueError for anything it does not understand."""
    try:
        data = json.loads(text)
        rows = list(data["sources"])
        sources = tuple(_source(row) for row in rows if row.get("enabled", True))
        revision = int(data.get("revision", 0))
        peers = tuple(_peer(row) for row in data.get("peers") or ())
        return SourceList("listed", sources, revision=revision, has_rows=bool(rows), peers=peers)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of sources: {error!r}") from error


def _source(row: dict[str, Any]) -> Source:  # Any: decoded JSON, checked here
    services = frozenset(row.get("services") or DEFAULT_SERVICES)
    if not services <= EVERY_SERVICE:
        raise ValueError(f"unknown services {sorted(services - EVERY_SERVICE)}")
    return Source(
        name=str(row["name"]),
        ae_title=str(row["ae_title"]).strip(" "),
        hosts=tuple(ipaddress.ip_network(host, strict=False) for host in row.get("hosts") or ()),
        services=services,
        duplicates=_DUPLICATES[row.get("duplicates", "quarantine")],
    )


def _peer(row: dict[str, Any]) -> Peer:  # Any: as above
    return Peer(
        ae_title=str(row["ae_title"]).strip(" "),
        host=str(row["host"]),
        calling_ae=str(row.get("calling_ae") or "").strip(" "),
    )


def _resolved(host: str) -> frozenset[Address]:
    """The addresses of a host; none when its name is not known now."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        log.warning("peer.unresolved", extra={"host": host, "error": str(error)})
        return frozenset()
    return frozenset(_address(str(where[0])) for *_, where in found)


def _pattern(ae_title: str) -> re.Pattern[str]:
    """`*` any run, `?` any one character, all else itself; case counts (PS3.5 6.2, AE)."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(c, re.escape(c)) for c in ae_title), re.DOTALL)


def _address(host: str) -> Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
