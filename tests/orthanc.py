"""Orthanc as a peer: started in a folder of its own, asked over its REST API."""

import hashlib
import http.client
import json
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.product import AE_TITLE, HOST, wait_until

ORTHANC = "/usr/sbin/Orthanc"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """A running Orthanc that keeps everything in a folder of its own."""

    def __init__(
        self, folder: Path, *, router_port: int, plugins: Sequence[Path] = (), **more: object
    ) -> None:
        self.port, self.http_port = free_port(), free_port()
        self._folder = folder
        self._settings = {
            "Name": "far end",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "DicomServerEnabled": True,
            "AuthenticationEnabled": False,
            "RemoteAccessAllowed": False,
            "Plugins": [str(path) for path in plugins],
            "DicomModalities": {"router": [AE_TITLE, HOST, router_port]},
            **more,
        }

    def __enter__(self) -> "Orthanc":
        self._folder.mkdir()
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps(self._settings))
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log)
        wait_until(self._answers, seconds=30, what="Orthanc")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def get(self, path: str) -> Any:
        return json.loads(self.ask(path))

    def delete(self, path: str) -> None:
        self.ask(path, method="DELETE")

    def ask(self, path: str, data: bytes | None = None, *, method: str = "") -> bytes:
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=20)
        with closing(connection):
            connection.request(method or ("POST" if data else "GET"), path, data)
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200, f"{path}: {answer.status}"
        return body

    def changes(self, kind: str, *, since: int = 0) -> list[dict[str, Any]]:
        """The changes of a kind after a number, which `number` tells."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(f"/changes?since={since}&limit=100")
            found += [one for one in page["Changes"] if one["ChangeType"] == kind]
            since = page["Last"]
            if page["Done"]:
                return found

    def number(self) -> int:
        """The number of its newest change."""
        return int(self.get("/changes?last")["Last"])

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every stored data set by SOP Instance UID."""
        found = {}
        for one in self.get("/instances?expand"):
            data = self.ask(f"/instances/{one['ID']}/file")
            meta = 144 + int.from_bytes(data[140:144], "little")
            uid = one["MainDicomTags"]["SOPInstanceUID"]
            found[uid] = hashlib.sha256(data[meta:]).hexdigest()
        return found
