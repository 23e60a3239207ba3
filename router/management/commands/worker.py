"""``manage.py worker``: the django-q2 cluster under a watchdog.

The watchdog starts the cluster as a child, rings the sweep, and rings a canary: when no worker has
answered for 90 s and no lease advances, the whole process group is ended and started anew. On
SIGTERM drains see the stop file between items; what they held is finished or given back.
"""

import logging
import os
import subprocess
import tempfile
import time
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, close_old_connections, connection

from router import doorbell, lifeline, stopping
from router.management import cluster, processes
from router.services import durability, heartbeats, upkeep

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
CANARY_SECONDS = 10.0
DEAF_AFTER = timedelta(seconds=90)


class Command(BaseCommand):
    """Run the delivery and routing workers."""

    help = "Runs the django-q2 cluster under its watchdog."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the child's mark, which only the watchdog gives."""
        parser.add_argument("--cluster", action="store_true", help="Run the cluster itself.")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Run until SIGTERM."""
        durability.refuse_unsafe_database()
        if options["cluster"]:
            lifeline.end_forks_with_this()
            cluster.Cluster().start()
            return
        with tempfile.TemporaryDirectory(prefix="router-worker-") as folder:
            Watchdog(Path(folder) / "stop").run()


class Watchdog:
    """One cluster, kept alive."""

    def __init__(self, stop_file: Path) -> None:
        self._stop = processes.StopRequest()
        self._stop_file = stop_file
        self._child: subprocess.Popen[bytes] | None = None
        self._started = self._canary_at = 0.0
        self._was_away = False

    def run(self) -> None:
        """Watch until asked to stop."""
        log.info("worker.started", extra={"workers": settings.WORKERS, "pid": os.getpid()})
        while not self._stop.requested:
            try:
                self._watch()
            except DatabaseError as error:
                log.warning("worker.database_away", extra={"error": type(error).__name__})
                self._was_away = True
                connection.close()
            self._stop.wait(SWEEP_SECONDS)
        self._end()

    def _watch(self) -> None:
        close_old_connections()
        if self._was_away:
            doorbell.forget_all()  # a task that met no database has left its bell rung
            self._was_away = False
        if self._child is None or self._child.poll() is not None or self._is_deaf():
            self._restart()
        doorbell.ring("sweep")
        upkeep.keep_from_silence()
        if time.monotonic() >= self._canary_at:
            self._canary_at = time.monotonic() + CANARY_SECONDS
            doorbell.ring("canary")
            upkeep.forget_old_heartbeats()
            upkeep.forget_failed_tasks()
            upkeep.forget_ended_workers()
        upkeep.checkpoint()

    def _is_deaf(self) -> bool:
        """Tell whether no worker has answered, or moved a lease, for 90 s."""
        if time.monotonic() - self._started < DEAF_AFTER.total_seconds():
            return False
        return not heartbeats.is_alive("worker", within=DEAF_AFTER) and not upkeep.leases_advance()

    def _restart(self) -> None:
        """End what is left of the cluster and start a new one; queued rings hold no truth."""
        if self._child is not None:
            log.error("worker.restarted", extra={"exit": self._child.poll()})
            processes.kill_group(self._child)
        doorbell.forget_all()
        self._started = time.monotonic()
        self._canary_at = 0.0
        extra = {stopping.VARIABLE: str(self._stop_file)}
        self._child = processes.start(["worker", "--cluster"], extra=extra)

    def _end(self) -> None:
        stopping.request(self._stop_file)
        if self._child is not None:
            processes.stop([self._child], seconds=25.0)
        log.info("worker.stopped")
