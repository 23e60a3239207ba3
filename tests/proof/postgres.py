"""A PostgreSQL cluster of a test's own that it may stop and start, durable as by default."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.ports import free_port
from tests.product import HOST

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Cluster:
    """A throw-away server; PostgreSQL refuses to run as root, so root starts it as another user."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"postgres://router@{HOST}:{self.port}/postgres"
        self._folder = folder
        found = shutil.which("pg_ctl")
        self._binaries = Path(found).parent if found else BINARIES[-1]
        self._user = _server_user()

    def __enter__(self) -> Self:
        self._folder.mkdir()
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
            for parent in list(self._folder.parents)[:3]:
                if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-U", "router", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")

    def start(self) -> None:
        """Start the server and wait for it."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses={HOST}"
        self._run("pg_ctl", "-l", str(self._folder / "log"), "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; every connection ends."""
        self._run("pg_ctl", "-m", mode, "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(
            command,
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )


def _server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]
