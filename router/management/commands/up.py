"""``manage.py up``: everything in the foreground, what ``make run`` uses.

Migrates, creates the roles and the first administrator, starts web, receiver and worker, prints
where they are, then ``ready``. A process that dies is started again. SIGTERM or Ctrl-C ends all.
"""

import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from router.config import schema
from router.management import demo, processes
from router.models import Destination
from router.services import config, heartbeats, users
from router.services.actors import SYSTEM

ROLES = ("web", "receiver", "worker")
READY_SECONDS = 60.0
RESTARTS = 5
RESTART_WINDOW = 30.0


class Command(BaseCommand):
    """Run the whole product."""

    help = "Runs web, receiver and worker in the foreground."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the demo's switch."""
        parser.add_argument("--demo", action="store_true", help="with made-up studies and a PACS")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Prepare, start, watch, stop."""
        stop = processes.StopRequest()
        login = prepare()
        commands = {role: [role] for role in ROLES}
        if options["demo"]:
            commands["demo_pacs"] = ["demo_pacs", str(self._demo_port())]
        children = {role: processes.start(command) for role, command in commands.items()}
        try:
            if self._await_ready(children, stop):
                self._say(login)
                if options["demo"]:
                    thread = threading.Thread(target=demo.send_studies, args=(stop.wait,))
                    thread.daemon = True
                    thread.start()
                self._watch(children, commands, stop=stop)
        finally:
            connection.close()
            processes.stop(list(children.values()))

    def _demo_port(self) -> int:
        """Apply the demo's configuration, once; return the port of its PACS."""
        if Destination.objects.present().exclude(name__startswith="demo-").exists():
            raise CommandError("This data directory has a configuration; the demo needs its own.")
        pacs = Destination.objects.filter(name="demo-pacs").select_related("version").first()
        if pacs is not None and pacs.version is not None:
            return int(pacs.version.settings["port"])
        port = demo.free_port()
        document = schema.load(demo.configuration(port))
        config.apply(document, actor=SYSTEM, reason="demo")
        return port

    def _await_ready(
        self, children: dict[str, subprocess.Popen[bytes]], stop: processes.StopRequest
    ) -> bool:
        limit = time.monotonic() + READY_SECONDS
        while not stop.requested:
            for role, child in children.items():
                if child.poll() is not None:
                    raise CommandError(f"{role} ended at start with exit code {child.returncode}.")
            if _web_answers() and _receiver_listens() and heartbeats.is_alive("worker"):
                return True
            if time.monotonic() > limit:
                raise CommandError("Not ready after 60 s; see the messages above.")
            stop.wait(0.1)
        return False

    def _say(self, login: tuple[str, str] | None) -> None:
        lines = [
            f"console {settings.PUBLIC_URL}/",
            f"dicomweb {settings.PUBLIC_URL}/dicom-web",
            f"dicom {settings.AE_TITLE}@{settings.DIMSE_BIND}:{settings.DIMSE_PORT}",
        ]
        if login is not None:
            name, password = login
            given = bool(settings.ADMIN_PASSWORD)
            lines.append(f"login {name} {'(the password you gave)' if given else password}")
        for line in [*lines, "ready"]:
            self.stdout.write(line)
        self.stdout.flush()

    def _watch(
        self,
        children: dict[str, subprocess.Popen[bytes]],
        commands: dict[str, list[str]],
        *,
        stop: processes.StopRequest,
    ) -> None:
        """Start again what dies; give up when one dies five times in half a minute."""
        deaths: list[float] = []
        while not stop.wait(0.5):
            for role, child in children.items():
                if child.poll() is None:
                    continue
                now = time.monotonic()
                deaths = [*(t for t in deaths if now - t < RESTART_WINDOW), now]
                self.stderr.write(f"{role} ended with exit code {child.returncode}; starting anew")
                if len(deaths) > RESTARTS:
                    raise CommandError(f"{role} keeps ending; giving up.")
                processes.kill_group(child)
                children[role] = processes.start(commands[role])


def prepare() -> tuple[str, str] | None:
    """Bring the database and the data directory to where the processes can start.

    Returns:
        Name and password of the first administrator when one was created.
    """
    call_command("migrate", verbosity=0, interactive=False)
    users.ensure_roles()
    config.ensure_revision()
    config.publish_sources()
    return users.ensure_administrator()


def _web_answers() -> bool:
    host = "127.0.0.1" if settings.HTTP_BIND in {"0.0.0.0", "::"} else settings.HTTP_BIND  # noqa: S104
    try:
        with urllib.request.urlopen(f"http://{host}:{settings.HTTP_PORT}/healthz", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _receiver_listens() -> bool:
    host = "127.0.0.1" if settings.DIMSE_BIND in {"0.0.0.0", "::"} else settings.DIMSE_BIND  # noqa: S104
    try:
        with socket.create_connection((host, settings.DIMSE_PORT), timeout=2):
            return True
    except OSError:
        return False
