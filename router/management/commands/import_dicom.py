"""``manage.py import_dicom PATH…``: files or folders through the same door as C-STORE."""

import getpass
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from router.services import importing
from router.services.actors import Actor, ActorKind
from router.spool import SpoolFull


class Command(BaseCommand):
    """Import DICOM files."""

    help = "Imports files or folders; running it again goes on where it was cut."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the paths and the AE title that rules see."""
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
        parser.add_argument("--calling-ae", default=settings.AE_TITLE)

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Import with a progress bar; exit 1 when a file was refused."""
        missing = [str(path) for path in options["paths"] if not path.exists()]
        if missing:
            raise CommandError(f"No such file or folder: {', '.join(missing)}", returncode=2)
        files = list(importing.files_below(options["paths"]))
        actor = Actor(getpass.getuser(), ActorKind.SYSTEM)
        run = importing.run(files, calling_ae=options["calling_ae"], actor=actor)
        report = importing.ImportReport()
        try:
            for _path, so_far in tqdm(run, total=len(files), unit="file", disable=None):
                report = so_far
        except SpoolFull as error:
            raise CommandError("The spool's disk is full; free space and run again.") from error
        for path, reason in report.refused:
            self.stderr.write(f"refused {path}: {reason}")
        self.stdout.write(
            f"{report.stored} imported, {report.known} already stored, "
            f"{len(report.refused)} refused"
        )
        if report.refused:
            raise CommandError("some files were refused", returncode=1)
