"""DCMTK's storescp as a peer: every object a file, byte for byte; it is killed and comes back."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.ports import free_port
from tests.product import HOST, Config, wait_until

STORESCP = "/usr/bin/storescp"


class Storescp:
    """A storage SCP in processes of its own, one for each association."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Storescp":
        self.folder.mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Listen, until killed."""
        options = ["--fork", "+B", "--max-pdu", "131072", "-aet", self.title]
        command = [STORESCP, *options, "--output-directory", str(self.folder), str(self.port)]
        with (self.folder.parent / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_until(self._listens, seconds=10, what=f"{self.name} listens")

    def kill(self) -> None:
        """SIGKILL for it and for every association that it serves."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    @property
    def title(self) -> str:
        """Its AE title."""
        return self.name.upper()

    def destination(self, **settings: object) -> Config:
        """The destination that leads here."""
        where = {"host": HOST, "port": self.port, "ae_title": self.title}
        return {"name": self.name, "kind": "dicom", **where, **settings}

    def files(self) -> dict[str, Path]:
        """Return what came, by SOP Instance UID; the last one may not be whole after a kill."""
        return {path.name.partition(".")[2]: path for path in self.folder.iterdir()}

    def _listens(self) -> bool:
        found = Path("/proc/net/tcp").read_text().split()
        return any(entry.endswith(f":{self.port:04X}") for entry in found)
