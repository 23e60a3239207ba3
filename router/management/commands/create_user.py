"""``manage.py create_user NAME --role ROLE``: a person, or a `service` user of tokens only."""

import getpass
import secrets
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from router.config.document import LIMIT_KEYS
from router.management import shell
from router.services import users

TOKENS_ONLY = "service"
PASSWORD_BYTES = 15


class Command(BaseCommand):
    """Create a user."""

    help = "Creates a user; the password is asked for, read from standard input, or generated."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name, the role, limits, and where the password comes from."""
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--role", required=True)
        parser.add_argument(
            "--limit",
            action="append",
            default=[],
            type=_limit,
            metavar="KEY=VALUE",
            help=f"may be given again; KEY is one of {', '.join(LIMIT_KEYS)}",
        )
        parser.add_argument("--password-stdin", action="store_true")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Create the user; exit 1 when it is refused, with the reason."""
        users.ensure_roles()
        name, role = options["name"], options["role"]
        password, generated = self._password(role, from_stdin=options["password_stdin"])
        limit: dict[str, list[str]] = {}
        for key, value in options["limit"]:
            limit.setdefault(key, []).append(value)
        try:
            users.create_user(name, role=role, password=password, actor=shell.actor(), limit=limit)
        except users.UserError as error:
            raise CommandError(str(error), returncode=1) from error
        except ValidationError as error:
            raise CommandError(" ".join(error.messages), returncode=1) from error
        self.stdout.write(f"user {name} created with role {role}")
        if generated:
            self.stdout.write(f"password {password}")

    def _password(self, role: str, *, from_stdin: bool) -> tuple[str | None, bool]:
        """Return the password, None for a user of tokens only, and whether we made it up."""
        if role == TOKENS_ONLY:
            if from_stdin:
                raise CommandError("A service user has tokens and no password.", returncode=2)
            return None, False
        if from_stdin:
            return sys.stdin.readline().rstrip("\r\n"), False
        if sys.stdin.isatty():
            return _asked(), False
        return secrets.token_urlsafe(PASSWORD_BYTES), True


def _asked() -> str:
    first = getpass.getpass("Password: ")
    if getpass.getpass("Password again: ") != first:
        raise CommandError("The two passwords differ; nothing was created.", returncode=1)
    return first


def _limit(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if key not in LIMIT_KEYS or not equals or not value.strip():
        raise ArgumentTypeError(
            f"{text!r} is no limit; KEY=VALUE with KEY one of {', '.join(LIMIT_KEYS)} is expected"
        )
    return key, value.strip()
