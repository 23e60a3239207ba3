"""A PostgreSQL server of one's own, durable as shipped, that can be stopped, killed and frozen."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import psycopg

from tests.ports import free_port
from tests.product import HOST, wait_until


def binaries() -> Path:
    """The folder of initdb and pg_ctl. Raises FileNotFoundError when PostgreSQL is not there."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise FileNotFoundError("PostgreSQL is not installed; deploy/install-debian-packages test")
    return Path(on_path).parent


class PostgreSQL:
    """`with PostgreSQL(folder) as server:`; `server.url` names its maintenance database."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = {**os.environ, **(environment or {})}
        self.data = folder / "pgdata"
        self.port = free_port()
        self.url = f"postgres://router@{HOST}:{self.port}/postgres"
        self._as = _unprivileged()

    def __enter__(self) -> Self:
        self.create()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AssertionError):
            self.resume()
            self.stop("immediate")
        for data in self.folder.glob("pgdata*"):
            shutil.rmtree(data, ignore_errors=True)

    def create(self) -> None:
        """Make the cluster, with everything durable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, *self.folder.parents[:-2]):
            folder.chmod(folder.stat().st_mode | 0o011)
        self._make(self.data)
        self._run("initdb", "-D", str(self.data), "-U", "router", "-A", "trust", "-E", "UTF8")

    def _make(self, data: Path) -> None:
        data.mkdir(mode=0o700)
        if self._as:
            os.chown(data, *self._as)

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._start(self.data, self.port)

    def _start(self, data: Path, port: int) -> None:
        options = f"-p {port} -k {data} -c listen_addresses={HOST} -c max_connections=120"
        log = str(data / "log.txt")
        self._run("pg_ctl", "-D", str(data), "-l", log, "-w", "-t", "60", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop in order (`fast`) or at once (`immediate`)."""
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """Kill every process of the server."""
        end_all(self.processes())

    def fail_over(self, seconds: float, work: Callable[[], None]) -> None:
        """Die under `work`; a standby that has every commit takes the port after `seconds`."""
        standby, port = self.folder / f"pgdata{time.monotonic_ns()}", free_port()
        self._make(standby)
        copy = ("-h", HOST, "-p", str(self.port), "-U", "router", "-X", "stream", "-c", "fast")
        self._run("pg_basebackup", *copy, "-R", "-D", str(standby))
        self._start(standby, port)
        with psycopg.connect(self.url, autocommit=True) as primary:
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.execute("SELECT pg_reload_conf()")
            wait_until(lambda: _is_synchronous(primary), seconds=30, what="a synchronous standby")
        work()
        self.kill()
        time.sleep(seconds)
        self._run("pg_ctl", "-D", str(standby), "-w", "promote")
        self._run("pg_ctl", "-D", str(standby), "-m", "fast", "-w", "stop")
        shutil.rmtree(self.data, ignore_errors=True)
        self.data = standby
        self.start()

    def said(self, words: str) -> bool:
        """Whether the server's log has some words."""
        return words in (self.data / "log.txt").read_text(errors="replace")

    def freeze(self) -> None:
        """Stop every process where it is (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let frozen processes go on."""
        self._signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """The postmaster and its children; none when it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            leader = psutil.Process(pid)
            return [leader, *leader.children(recursive=True)]
        except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
            return []

    def _signal(self, number: int) -> None:
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(binaries() / program), *arguments]
        if self._as:
            user, group = map(str, self._as)
            command = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", *command]
        log = self.folder / "commands.log"
        with log.open("a") as output:
            code = subprocess.call(
                command,
                cwd="/",
                stdout=output,
                stderr=output,
                timeout=120,
                env=self._environment,
            )
        assert code == 0, f"{program} ended with {code}: {log.read_text()[-2000:]}"


def _is_synchronous(primary: psycopg.Connection[tuple[object, ...]]) -> bool:
    row = primary.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
    return row.fetchone() == (1,)


def end_all(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and wait for their end."""
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(processes, timeout=20)


def _unprivileged() -> tuple[int, int] | None:
    """Whom the server runs as when we are root, which it refuses to be."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return user.pw_uid, user.pw_gid
    raise FileNotFoundError("neither user postgres nor nobody")
