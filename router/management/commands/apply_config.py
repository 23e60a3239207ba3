"""``manage.py apply_config FILE``: make the configuration equal to a file, whole or not at all."""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.config import plan, schema
from router.config.findings import ConfigError
from router.config.tree import MAX_BYTES
from router.management import shell
from router.services import config

STDIN = "-"


class Command(BaseCommand):
    """Apply a configuration file."""

    help = "Makes sources, destinations, rules and roles equal to a YAML file; prints the plan."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the file and whether to only look."""
        parser.add_argument("file", metavar="FILE", help=f"a YAML file, {STDIN} for standard input")
        parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
        parser.add_argument("--reason", default="", help="why, for the history")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Read, check, apply; exit 1 with every finding when the file is wrong."""
        name = options["file"]
        try:
            document = schema.load(_read(name))
            applied = config.apply(
                document,
                actor=shell.actor(),
                reason=options["reason"],
                dry_run=options["dry_run"],
            )
        except ConfigError as error:
            for finding in error.findings:
                self.stderr.write(f"{name}: {finding}")
            raise SystemExit(1) from error
        except (config.ConfigBusyError, config.PublishError) as error:
            raise CommandError(str(error), returncode=1) from error
        self._say(applied, dry_run=options["dry_run"])

    def _say(self, applied: config.Applied, *, dry_run: bool) -> None:
        self.stdout.write(plan.text(applied.changes))
        if applied.revision is not None:
            self.stdout.write(f"applied as revision {applied.revision.number}")
        elif applied.changes and dry_run:
            self.stdout.write("dry run: nothing was changed")


def _read(name: str) -> bytes:
    """Return the bytes of the file, no more than the reader needs to refuse it for its size."""
    most = MAX_BYTES + 1
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(most)
        with Path(name).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}", returncode=2) from error
