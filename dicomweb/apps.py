"""PS3.18 endpoints (an app without models)."""

from django.apps import AppConfig


class DicomwebConfig(AppConfig):
    """Register the app."""

    name = "dicomweb"
    verbose_name = "DICOMweb"
