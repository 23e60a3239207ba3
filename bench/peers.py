"""The programs we are measured against, each fresh for every measurement, on loopback.

Orthanc and DCMTK as Debian ships them. At their best they run with TCP_NODELAY=1 in their
environment and the longest PDU; "as shipped" is without either.
"""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from bench import processes
from bench.processes import BenchError
from tests.ingest import certificates

STORE_SECONDS = 1200
LUA = "function OnStoredInstance(instanceId, tags, metadata, origin)\n{sends}end\n"
LUA_SEND = "  SendToModality(instanceId, '{name}')\n"


@dataclass(frozen=True)
class Tls:
    """What a receiver shows its peers, and by whose word they believe it: PEM files."""

    certificate: Path
    key: Path
    ca: Path


def make_tls(folder: Path) -> Tls:
    """Make a certificate for loopback with an authority of its own."""
    folder.mkdir(parents=True)
    ca = certificates.authority(folder)
    ours = certificates.signed(folder, "receiver", ca)
    return Tls(ours.certificate, ours.key, ca.certificate)


class Receiver(Protocol):
    """Anything that receives: started on entering, ended on leaving."""

    name: str
    port: int
    called: str
    child: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Start it; it receives when this returns."""
        ...

    def __exit__(self, *_: object) -> None:
        """End it and remove what it stored."""
        ...


class Peer:
    """What the peers have in common: a folder, a port, a child."""

    name = ""
    called = "ANY"

    def __init__(self, folder: Path, *, as_shipped: bool = False) -> None:
        self.folder = folder
        self.as_shipped = as_shipped
        self.port = processes.free_port()
        self.child: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        extra = {} if self.as_shipped else {"TCP_NODELAY": "1"}
        log = self.folder.with_suffix(".log")
        self.child = processes.start(self.command(), extra=extra, log=log, cwd=self.folder)
        try:
            processes.wait_port(self.port, self.child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        processes.end(self.child)
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self) -> list[str]:
        """Return the command line."""
        raise NotImplementedError


class Storescp(Peer):
    """DCMTK's storescp: a file an object, no index, no flush."""

    name = "storescp"

    def command(self) -> list[str]:
        best = [] if self.as_shipped else ["+B", "--max-pdu", "131072"]
        options = [*best, "--fork", "--output-directory", str(self.folder)]
        return [_program("storescp"), *options, str(self.port)]


class Orthanc(Peer):
    """Orthanc with SQLite and its own storage, taking everything, forwarding by Lua if told so."""

    name = "Orthanc"
    called = "ORTHANC"

    def __init__(
        self,
        folder: Path,
        *,
        as_shipped: bool = False,
        sinks: Sequence[int] = (),
        lua: bool = False,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(folder, as_shipped=as_shipped)
        self.http_port = processes.free_port()
        self._sinks = {f"sink{n}": ["SINK", "127.0.0.1", port] for n, port in enumerate(sinks)}
        self._lua = lua
        self._tls = tls

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            processes.wait_port(self.http_port, self.child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def command(self) -> list[str]:
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self._configuration()))
        return [_program("Orthanc"), str(path)]

    def store(self) -> None:
        """Send everything that is stored to the first sink; returns when it has arrived."""
        studies = self._get("/studies")
        body = {"Resources": studies, "Synchronous": True, "Permissive": False}
        answer = self._ask("/modalities/sink0/store", json.dumps(body).encode())
        if answer["FailedInstancesCount"]:
            raise BenchError(f"Orthanc did not send {answer['FailedInstancesCount']} objects")

    def _configuration(self) -> dict[str, object]:
        scripts = []
        if self._lua:
            sends = "".join(LUA_SEND.format(name=name) for name in self._sinks)
            scripts = [str(self.folder / "route.lua")]
            Path(scripts[0]).write_text(LUA.format(sends=sends))
        longest = {} if self.as_shipped else {"MaximumPduLength": 131072}
        return {
            "Name": "bench",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.called,
            "DicomPort": self.port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": self._sinks,
            "LuaScripts": scripts,
            "Plugins": [],
            **longest,
            **self._secured(),
        }

    def _secured(self) -> dict[str, object]:
        """The same as ours: TLS for everyone, no certificate asked of the sender."""
        if self._tls is None:
            return {}
        return {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(self._tls.certificate),
            "DicomTlsPrivateKey": str(self._tls.key),
            "DicomTlsTrustedCertificates": str(self._tls.ca),
            "DicomTlsRemoteCertificateRequired": False,
        }

    def _get(self, path: str) -> Any:  # Any: JSON
        return self._ask(path, None)

    def _ask(self, path: str, body: bytes | None) -> Any:  # Any: JSON
        address = f"http://127.0.0.1:{self.http_port}{path}"
        request = urllib.request.Request(address, data=body)
        with urllib.request.urlopen(request, timeout=STORE_SECONDS) as answer:  # noqa: S310
            return json.load(answer)


def installed(name: str) -> bool:
    """Tell whether a peer is there to be measured against."""
    return _where(name) is not None


def version(name: str) -> str:
    """Return the first line in which a peer names its version."""
    if not installed(name):
        return "not installed"
    done = subprocess.run(
        [_program(name), "--version"], capture_output=True, text=True, check=False, timeout=20
    )
    lines = [line.strip("$ ") for line in done.stdout.splitlines() if line.strip()]
    return lines[0] if lines else "unknown"


def _where(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _program(name: str) -> str:
    found = _where(name)
    if found is None:
        raise BenchError(f"{name} is not installed")
    return found
