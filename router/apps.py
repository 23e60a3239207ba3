"""The domain app: every model and migration of the product."""

from django.apps import AppConfig
from django.conf import settings

from router import logs


class RouterConfig(AppConfig):
    """Configure logging once settings are known."""

    name = "router"
    verbose_name = "DICOM Router"

    def ready(self) -> None:
        """Install the log format of this process."""
        logs.configure(settings.LOG_FORMAT)
