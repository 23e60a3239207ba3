"""``manage.py create_token NAME --scope SCOPE…``: an API token; alone on the last line, once."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.destinations.fields import duration_text, seconds
from router.management import shell
from router.models import Scope
from router.services import users


class Command(BaseCommand):
    """Create an API token of a user."""

    help = "Creates an API token of a user; the last line of the output is the token."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the user, the scopes and the life."""
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--scope",
            nargs="+",
            action="extend",
            required=True,
            metavar="SCOPE",
            help=f"of: {' '.join(Scope.values)}",
        )
        parser.add_argument(
            "--expires", type=_life, default=users.DEFAULT_TOKEN_LIFE, help="default 90d"
        )

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Create the token; exit 1 when it is refused, with the reason."""
        try:
            token = users.create_token(
                options["name"],
                scopes=options["scope"],
                actor=shell.actor(),
                life=options["expires"],
            )
        except users.UserError as error:
            raise CommandError(str(error), returncode=1) from error
        life = duration_text(int(options["expires"].total_seconds()))
        self.stdout.write(
            f"token of {options['name']} for {' '.join(sorted(set(options['scope'])))}; "
            f"it expires in {life} and is shown only now:"
        )
        self.stdout.write(token)


def _life(text: str) -> timedelta:
    try:
        return timedelta(seconds=seconds(text))
    except (ValueError, OverflowError) as error:
        raise ArgumentTypeError(str(error)) from error
