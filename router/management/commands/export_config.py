"""``manage.py export_config [FILE]``: the configuration in force, as `apply_config` takes it."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.services import config

STDOUT = "-"


class Command(BaseCommand):
    """Export the configuration."""

    help = "Writes the configuration in force as YAML; applying that is no change."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the file to write."""
        parser.add_argument("file", nargs="?", default=STDOUT, metavar="FILE")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Write to the file, or to standard output."""
        text, name = config.export(), options["file"]
        if name == STDOUT:
            self.stdout.write(text, ending="")
            return
        try:
            Path(name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{name}: {error.strerror}", returncode=2) from error
