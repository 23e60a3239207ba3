"""`manage.py receiver`: the DICOM listener (PS3.7, PS3.8), one process per two cores by default."""

from django.core.management.base import BaseCommand, CommandError

from ingest import receiver


class Command(BaseCommand):
    """Serve DICOM until SIGTERM; ends within 30 s."""

    help = "Receives DICOM objects (C-ECHO, C-STORE) until it is told to stop."

    def handle(self, *_: object, **__: object) -> None:
        try:
            code = receiver.run(self._announce)
        except OSError as error:
            raise CommandError(f"The DICOM port cannot be opened: {error}") from error
        if code:
            raise SystemExit(code)

    def _announce(self, where: str) -> None:
        self.stdout.write(f"receiver ready {where}")
        self.stdout.flush()
