"""``manage.py rotate_keys [--new-key]``: every stored secret under the newest key, while in use."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router import secrets as ring
from router.management import shell
from router.services import secrets


class Command(BaseCommand):
    """Wrap stored secrets anew."""

    help = (
        "Wraps every stored secret that is under an older key of ROUTER_KEYS anew under the newest,"
        " in batches, while everything runs. Exit 1 when one does not open."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take whether to make a key first, and how much to do at once."""
        parser.add_argument(
            "--new-key",
            action="store_true",
            help="first put a new key before the others, where they lie in a file",
        )
        parser.add_argument("--batch", type=_batch, default=secrets.BATCH, help="default 100")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Wrap anew, and say what is left."""
        try:
            if options["new_key"]:
                self.stdout.write(f"new key {ring.add_key()}")
            done = secrets.rotate(actor=shell.actor(), batch=options["batch"])
        except ring.KeyRingError as error:
            raise CommandError(f"{error}.", returncode=1) from error
        self.stdout.write(f"{done.count} secrets wrapped anew under key {done.key_id}")
        if done.unreadable:
            lines = "\n".join(f"{name}: {why}" for name, why in done.unreadable)
            raise CommandError(f"these do not open; store them again:\n{lines}", returncode=1)
        for key_id in ring.key_ids()[1:]:
            self.stdout.write(f"key {key_id} is needed only for older backups")


def _batch(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to 10000")
    return int(text)
