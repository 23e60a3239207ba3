"""The domain app: every model and migration of the product."""

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from router import logs, secrets


class RouterConfig(AppConfig):
    """Configure logging once settings are known, and say how stored secrets are read."""

    name = "router"
    verbose_name = "DICOM Router"

    def ready(self) -> None:
        """Install the log format of this process and the way to stored secrets.

        Raises:
            ImproperlyConfigured: ROUTER_KEYS holds no usable keys.
        """
        logs.configure(settings.LOG_FORMAT)
        from router.services import secrets as stored  # models are known from here on

        try:
            secrets.key_ids()
        except secrets.KeyRingError as error:
            raise ImproperlyConfigured(f"{error}.") from error
        secrets.install(stored.reveal)
