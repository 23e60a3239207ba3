"""The DICOM network, inbound (an app without models)."""

from django.apps import AppConfig


class IngestConfig(AppConfig):
    """Register the app and its command."""

    name = "ingest"
    verbose_name = "Ingest"
