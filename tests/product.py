"""The whole product as a user runs it: `manage.py up` in a folder of its own, seen from outside.

It runs on SQLite, or, where the test run itself is on PostgreSQL (`DATABASE_URL`), on a database of
its own in that server. Nothing here imports the product: it is started, fed and asked through its
commands, its ports and its signals only.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psutil
import psycopg
import yaml
from psycopg import sql

from tests.commands import Commands
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
AE_TITLE = "DICOMROUTER"
PASSWORD = "correct horse battery staple"
READY_SECONDS = 90.0

Config = dict[str, Any]  # a configuration file as YAML would read it
_PR_SET_PDEATHSIG = 1


def wait_until(
    holds: Callable[[], object], *, seconds: float, what: str, every: float = 0.1
) -> None:
    """Wait until `holds()` is true; fail with `what` when that does not come about."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"not within {seconds:g} s: {what}"
        time.sleep(every)


class _Plain(yaml.SafeDumper):
    """YAML without anchors and aliases, which a configuration may not have."""

    def ignore_aliases(self, data: object) -> bool:
        """Write every value out."""
        return True


class Database:
    """Where one product keeps its rows: SQLite in its folder, or a database made for it."""

    def __init__(self, server: str | None = None) -> None:
        server = os.environ.get("DATABASE_URL", "") if server is None else server
        self._server = server if server.startswith("postgres") else ""
        self._name = f"product_{uuid4().hex}"
        self.url = ""
        if self._server:
            self._run("CREATE DATABASE {}")
            self.url = urlunsplit(urlsplit(self._server)._replace(path=f"/{self._name}"))

    def drop(self) -> None:
        """Remove the database, whoever is still connected."""
        if self._server:
            self._run("DROP DATABASE {} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            name = sql.Identifier(self._name)
            connection.execute(sql.SQL(statement).format(name))


class Product:
    """One installation: `with Product(folder) as product: ...` starts it and ends it in order."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.port, self.http_port = free_port(), free_port()
        self.lines: list[str] = []
        self._database = Database("") if database_url is not None else Database()
        self._environment = self._build(database_url or self._database.url, environment or {})
        self._commands = Commands(self._environment)
        self._up: subprocess.Popen[str] | None = None
        self._log_path = folder / "up.log"
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            code = self.stop() if self.is_running else 0
            if kind is None:
                assert code == 0, f"up ended with {code}\n{self.log()[-4000:]}"
        finally:
            self._commands.end()
            self._database.drop()
            shutil.rmtree(self.data_dir, ignore_errors=True)

    # --- life -------------------------------------------------------------------------------------
    @property
    def is_running(self) -> bool:
        """Whether `up` runs."""
        return self._up is not None and self._up.poll() is None

    @property
    def up(self) -> psutil.Process:
        """The process `manage.py up`."""
        assert self._up is not None
        return psutil.Process(self._up.pid)

    def start(self, *arguments: str) -> None:
        """Start `up` and wait for its `ready`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines = []
        self._commands.end()  # they read their settings as of now, too
        with self._log_path.open("a") as log:
            self._up = subprocess.Popen(
                [sys.executable, "manage.py", "up", *arguments],
                cwd=ROOT,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=_end_with_the_test,  # noqa: PLW1509 - it calls prctl and nothing else
            )
        assert self._up.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._up.stdout,), daemon=True)
        self._reader.start()
        try:
            wait_until(self._is_ready_or_ended, seconds=READY_SECONDS, what="ready")
            assert "ready" in self.lines, f"up ended\n{self.log()[-4000:]}"
        except BaseException:
            self.kill()
            raise

    def stop(self, number: int = signal.SIGTERM, *, to_group: bool = False) -> int:
        """End `up` by a signal, see `send_signal`, and return its exit code."""
        self.send_signal(number, to_group=to_group)
        return self.wait_ended()

    def send_signal(self, number: int, *, to_group: bool = False) -> None:
        """Send `up` a signal, to its whole group as a terminal does if so wanted."""
        assert self._up is not None
        if to_group:
            os.killpg(self._up.pid, number)
        else:
            self._up.send_signal(number)

    def wait_ended(self, seconds: float = 40.0) -> int:
        """Wait for the end of `up` and return its exit code."""
        assert self._up is not None
        code = self._up.wait(seconds)
        if self._reader is not None:
            self._reader.join(5)
        return code

    def kill(self) -> None:
        """Kill every process without a word, as a power cut does."""
        self._commands.end()
        if self._up is None:
            return
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait_ended()

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return `up` and all below it; with `words`, those whose command line has them all."""
        try:
            found = [self.up, *self.up.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [one for one in found if set(words) <= set(_command_line(one))]

    def log(self) -> str:
        """Return what the processes wrote to standard error."""
        return self._log_path.read_text() if self._log_path.exists() else ""

    # --- commands ---------------------------------------------------------------------------------
    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `manage.py` with `arguments` beside the product."""
        return self._commands.run(arguments, timeout=timeout)

    def command(self, *arguments: str, timeout: float = 120) -> str:
        """Run a command that must succeed and return what it printed."""
        done = self.run(*arguments, timeout=timeout)
        said = f"{arguments} exited with {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, said
        return done.stdout

    def apply(self, config: Config, *, name: str = "router.yaml") -> str:
        """Apply a configuration and return the printed plan."""
        return self.command("apply_config", str(self.write(config, name=name)))

    def write(self, config: Config | str, *, name: str = "router.yaml") -> Path:
        """Write a configuration file and return its path."""
        path = self.folder / name
        text = config if isinstance(config, str) else yaml.dump(config, Dumper=_Plain)
        path.write_text(text)
        return path

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Wait until nothing is left to do."""
        self.command("wait_idle", "--timeout", f"{seconds:g}", timeout=seconds + 60)

    def report(self, uid: str) -> list[dict[str, Any]]:
        """Return the routing reports of a study."""
        found = json.loads(self.command("routing_report", uid, "--json"))
        assert isinstance(found, list)
        return found

    def verify(self, *arguments: str) -> str:
        """Have the ledger recounted; it must close."""
        return self.command("verify_ledger", *arguments)

    def counts(self) -> dict[str, int]:
        """Return the numbers that `verify_ledger` prints."""
        rows = (line.rsplit(maxsplit=1) for line in self.verify().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    def get(self, path: str) -> str:
        """Return a page of the web process."""
        url = f"http://{HOST}:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    # --- inside -----------------------------------------------------------------------------------
    def _build(self, database_url: str, given: Mapping[str, str]) -> dict[str, str]:
        """The environment: nothing of the test run's own may leak in."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ROUTER_", "DATABASE_URL", "DJANGO_", "PYTEST_"))
        }
        kept |= {
            "ROUTER_DATA_DIR": str(self.data_dir),
            "ROUTER_DIMSE_PORT": str(self.port),
            "ROUTER_DIMSE_PROCESSES": "2",
            "ROUTER_HTTP_PORT": str(self.http_port),
            "ROUTER_ADMIN_PASSWORD": PASSWORD,
            "PYTHONUNBUFFERED": "1",
        }
        if database_url:
            kept["DATABASE_URL"] = database_url
        return {**kept, **given}

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))

    def _is_ready_or_ended(self) -> bool:
        return "ready" in self.lines or not self.is_running


def _end_with_the_test() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _command_line(process: psutil.Process) -> Sequence[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ()
