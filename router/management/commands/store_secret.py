"""``manage.py store_secret NAME``: one line of standard input, kept encrypted under a name."""

import sys
from argparse import ArgumentParser
from getpass import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.management import shell
from router.services import secrets


class Command(BaseCommand):
    """Store a secret."""

    help = "Keeps a line of standard input encrypted; a destination names it as password_stored."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name."""
        parser.add_argument("name", metavar="NAME")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Store it; exit 1 when it is refused, with the reason."""
        value = getpass("Value: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
        try:
            is_new = secrets.put(options["name"], value, actor=shell.actor())
        except secrets.SecretError as error:
            raise CommandError(str(error), returncode=1) from error
        self.stdout.write(f"{options['name']} is {'stored' if is_new else 'replaced'}")
