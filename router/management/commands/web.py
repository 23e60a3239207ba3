"""``manage.py web``: the console and DICOMweb over HTTP (gunicorn, threads)."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.core.wsgi import get_wsgi_application
from gunicorn.app.base import BaseApplication

from router import lifeline
from router.services import durability

WORKERS = 2
THREADS = 8


class _Server(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """gunicorn with our settings; reads no file and no command line."""

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        options = {
            "bind": f"{settings.HTTP_BIND}:{settings.HTTP_PORT}",
            "workers": WORKERS,
            "threads": THREADS,
            "worker_class": "gthread",
            "graceful_timeout": 20,
            "timeout": 120,
            "keepalive": 65,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "warning",
            "proc_name": "router-web",
            "post_fork": lambda arbiter, _worker: lifeline.end_with(arbiter.pid),
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:  # Any: a WSGI application
        """Return the application."""
        return get_wsgi_application()


class Command(BaseCommand):
    """Run the web server."""

    help = "Serves the console, the API and DICOMweb."

    def handle(self, *_args: Any, **_options: Any) -> None:  # Any: Django's signature
        """Run until SIGTERM; requests under way finish within 20 s."""
        durability.refuse_unsafe_database()
        _Server().run()
