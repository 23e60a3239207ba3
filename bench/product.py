"""The whole product under measurement: `manage.py up` on a data directory and ports of its own.

A `Driver` beside it, a process with the product's settings, applies configuration, pauses and
resumes lanes and counts rows through the product's own services, so that no start of an
interpreter is in any measured time. Each measurement has a fresh copy of a migrated installation.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from bench import processes, routing
from bench.peers import Tls
from bench.processes import BenchError

READY_SECONDS = 90.0
PASSWORD = "bench-of-loopback"  # noqa: S105 - lives as long as a measurement, on loopback
DISCARD = 9


class Installation:
    """Makes fresh data directories and databases from one that is migrated already."""

    def __init__(self, folder: Path, database: str | None) -> None:
        self.folder = folder
        self.server = database
        self._number = 0
        self._template = self.environment("template")
        self._databases: list[str] = []
        if database:
            self._create("template")
        self._run("migrate", "--verbosity", "0")

    def fresh(self) -> dict[str, str]:
        """Return the environment of a new installation."""
        self._number += 1
        name = f"ours{self._number}"
        env = self.environment(name)
        shutil.copytree(self._template["ROUTER_DATA_DIR"], env["ROUTER_DATA_DIR"])
        if self.server:
            self._create(name, template="template")
        return env

    def remove(self, env: Mapping[str, str]) -> None:
        """Remove an installation that was given out."""
        folder = Path(env["ROUTER_DATA_DIR"])
        shutil.rmtree(folder, ignore_errors=True)
        if self.server:
            self._drop(folder.name)

    def close(self) -> None:
        """Remove everything that is left."""
        for name in [*reversed(self._databases)]:
            self._drop(name)

    def environment(self, name: str) -> dict[str, str]:
        """Return the settings of an installation by name."""
        env = {
            "ROUTER_DATA_DIR": str(self.folder / name),
            "ROUTER_DIMSE_PORT": str(processes.free_port()),
            "ROUTER_HTTP_PORT": str(processes.free_port()),
            "ROUTER_ADMIN_PASSWORD": PASSWORD,
            "DJANGO_SETTINGS_MODULE": "router.settings",
        }
        if self.server:
            env["DATABASE_URL"] = urlunsplit(
                urlsplit(self.server)._replace(path=f"/{self._database(name)}")
            )
        return env

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=processes.ROOT,
            env=processes.environment(self._template),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            raise BenchError(f"manage.py {' '.join(arguments)}: {done.stderr[-2000:]}")

    def _database(self, name: str) -> str:
        return f"bench_{self.folder.name}_{name}".lower().replace("-", "_")

    def _create(self, name: str, *, template: str | None = None) -> None:
        copied = f' TEMPLATE "{self._database(template)}"' if template else ""
        self._on_server(f'CREATE DATABASE "{self._database(name)}"{copied}')
        self._databases.append(name)

    def _drop(self, name: str) -> None:
        self._on_server(f'DROP DATABASE IF EXISTS "{self._database(name)}" WITH (FORCE)')
        if name in self._databases:
            self._databases.remove(name)

    def _on_server(self, statement: str) -> None:
        import psycopg

        assert self.server is not None
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement.encode())


class Driver:
    """A process with the product's settings that does what it is asked, one line each way."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "bench.driver"]
        self.child = processes.start(command, extra=env, log=log, piped=True)

    def ask(self, verb: str, *, seconds: float = 300.0, **values: object) -> Any:  # Any: JSON
        """Have something done; return the answer.

        Raises:
            BenchError: it failed; the log has the traceback.
        """
        assert self.child.stdin is not None
        line = json.dumps({"verb": verb, **values})
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()
        return json.loads(processes.read_line(self.child, seconds))

    def end(self) -> None:
        """End it."""
        processes.end(self.child)


class Product:
    """The product as a receiver, fresh: `with Product(installation, sinks=[…]) as ours:`."""

    name = "ours"
    called = "DICOMROUTER"

    def __init__(
        self,
        installation: Installation,
        *,
        sinks: tuple[int, ...] = (),
        held: bool = False,
        tls: Tls | None = None,
    ) -> None:
        self._installation = installation
        self._tls = tls
        self._sinks, self._held = sinks or (DISCARD,), held or not sinks
        self.child: subprocess.Popen[bytes]
        self.driver: Driver

    def __enter__(self) -> Self:
        self.env = self._installation.fresh()
        if self._tls:
            self.env |= {
                "ROUTER_DIMSE_TLS_PORT": str(processes.free_port()),
                "ROUTER_DIMSE_TLS_CERT": str(self._tls.certificate),
                "ROUTER_DIMSE_TLS_KEY": str(self._tls.key),
            }
        self.port = int(self.env["ROUTER_DIMSE_TLS_PORT" if self._tls else "ROUTER_DIMSE_PORT"])
        log = Path(self.env["ROUTER_DATA_DIR"]).with_suffix(".log")
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove)
            self.driver = Driver(self.env, log)
            stack.callback(self.driver.end)
            self.driver.ask("apply", text=routing.document(self._sinks))
            for number in range(len(self._sinks) if self._held else 0):
                self.driver.ask("pause", name=f"sink{number}")
            self._words = log.with_suffix(".up.log")
            command = [sys.executable, "manage.py", "up"]
            self.child = processes.start(command, extra=self.env, log=self._words)
            stack.callback(lambda: processes.end(self.child))
            processes.wait_until(self._is_ready, READY_SECONDS, "the product to be ready")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_idle(self, seconds: float = 600.0) -> float:
        """Wait until nothing is left to do; return when that was."""
        processes.wait_until(
            lambda: not self.driver.ask("unfinished"), seconds, "the product to be idle", pause=0.02
        )
        return float(self.driver.ask("now"))

    def wait_delivered(self, count: int, seconds: float = 600.0) -> float:
        """Wait until so many items are delivered in the ledger; return when that was seen."""
        processes.wait_until(
            lambda: self.driver.ask("delivered") >= count, seconds, f"{count} deliveries"
        )
        return float(self.driver.ask("now"))

    def _is_ready(self) -> bool:
        if self.child.poll() is not None:
            raise BenchError(f"manage.py up ended with {self.child.returncode}: {self._words}")
        return "ready" in self._words.read_text().splitlines()

    def _remove(self) -> None:
        self._installation.remove(self.env)
