"""``manage.py verify_ledger``: recount files, database and deliveries; exit 1 with the gaps."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.services import reckoning


class Command(BaseCommand):
    """Recount the ledger."""

    help = "Recounts files (with --deep their hashes), database and deliveries; exit 1 with gaps."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the depth."""
        parser.add_argument("--deep", action="store_true", help="hash every stored object")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Print the counts, then the gaps by kind."""
        found = reckoning.reckon(deep=options["deep"])
        for kind, count in found.counts.items():
            self.stdout.write(f"{kind:32} {count:>12}")
        for kind, what in found.gaps:
            self.stdout.write(f"GAP {kind}: {what}")
        if found.gaps:
            raise CommandError(f"{len(found.gaps)} gaps", returncode=1)
        self.stdout.write("the balance closes")
