"""``manage.py verify_destination NAME``: try a destination step by step, or rehearse with it."""

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from pydicom.uid import UID

from router.destinations.base import Verification
from router.management import shell
from router.models import Destination
from router.services import trials
from router.services.trials import Rehearsal

VERDICTS = {"as_is": "ok", "turned": "ok", "refused": "REFUSED", "excluded": "excluded"}


class Command(BaseCommand):
    """Try a destination."""

    help = "Tries a destination: connection, echo, contexts; exit 1 when a step fails."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the destination and what to try."""
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--test-object", action="store_true", help="store a synthetic object there as well"
        )
        parser.add_argument(
            "--rehearse",
            action="store_true",
            help="propose every SOP class and transfer syntax seen lately, list what is refused",
        )
        parser.add_argument("--rule", default="", help="with --rehearse: what this rule chose")
        parser.add_argument("--days", type=int, default=trials.DAYS, help="how far back (30)")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Try, print each step, exit 1 when one failed."""
        if not 1 <= options["days"] <= 3650:
            raise CommandError("--days is a number from 1 to 3650.", returncode=2)
        present = Destination.objects.present().select_related("version")
        row = present.filter(name=options["name"]).first()
        if row is None:
            raise CommandError(f"No destination is called {options['name']}.", returncode=2)
        try:
            is_fine = self._try(row, options)
        except trials.CannotTry as error:
            raise CommandError(str(error), returncode=2) from error
        if not is_fine:
            raise SystemExit(1)

    def _try(self, row: Destination, options: dict[str, Any]) -> bool:  # Any: parsed arguments
        with_object = options["test_object"]
        verification = trials.verify(row, actor=shell.actor(), with_object=with_object)
        self._print(_steps(verification))
        if not options["rehearse"] or not verification.ok:
            return verification.ok
        rehearsal = trials.rehearse(
            row, actor=shell.actor(), rule=options["rule"], days=options["days"]
        )
        self._print(_trials(rehearsal))
        return rehearsal.rehearsed.ok

    def _print(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.stdout.write(line)


def _steps(verification: Verification) -> Iterator[str]:
    for step in verification.steps:
        yield f"{'ok' if step.ok else 'FAILED':<9}{step.name}: {step.detail}"


def _trials(rehearsal: Rehearsal) -> Iterator[str]:
    yield f"{rehearsal.scope}:"
    if rehearsal.rehearsed.problem:
        yield f"FAILED   {rehearsal.rehearsed.problem}"
    elif not rehearsal.rehearsed.trials:
        yield "  nothing was seen"
    for trial in rehearsal.rehearsed.trials:
        offer = trial.offer
        what = f"{UID(offer.sop_class_uid).name}, {UID(offer.transfer_syntax).name}"
        count = f"{offer.objects} objects in {offer.studies} studies"
        yield f"{VERDICTS[trial.verdict]:<9}{what} ({count}): {trial.detail}"
