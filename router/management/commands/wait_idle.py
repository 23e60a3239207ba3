"""``manage.py wait_idle``: return when inbox, marks and due items are empty."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.services import reckoning


class Command(BaseCommand):
    """Wait until nothing is left to do now."""

    help = "Returns 0 when inbox, marks and due items are empty, 1 when time ran out."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the time limit."""
        parser.add_argument("--timeout", type=float, default=60.0, help="seconds (default 60)")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Poll five times a second."""
        limit = time.monotonic() + options["timeout"]
        while True:
            left = reckoning.unfinished()
            if not left:
                self.stdout.write("idle")
                return
            if time.monotonic() > limit:
                what = ", ".join(f"{count} {kind}" for kind, count in left.items())
                raise CommandError(f"not idle: {what}", returncode=1)
            time.sleep(0.2)
