"""Structured logs: one event a line, JSON in production, readable in development.

Refuses to carry patients: callers log UIDs and counts, never names, ids or dates of birth.
Control, escape and bidirectional characters of received text are replaced before they are written.
"""

import logging
import logging.config
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

Event = MutableMapping[str, Any]  # Any: structlog's own event dictionary

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
_NOISY = ("pynetdicom", "pydicom", "django-q", "axes", "botocore", "boto3", "urllib3", "httpx")


def clean(text: str) -> str:
    """Return ``text`` with every control and bidirectional character as ``\\uXXXX``."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _clean_event(_logger: object, _method: str, event: Event) -> Event:
    event.pop("request", None)  # Django's own: its address may carry what was searched for
    for key, value in event.items():
        if isinstance(value, str) and key not in {"exception", "stack"}:
            event[key] = clean(value)
    return event


def _shared() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean_event,
    ]


def logging_config(form: str) -> dict[str, Any]:
    """Return the dictConfig of the product; ``form`` is ``json`` or ``console``."""
    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=32)
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        "foreign_pre_chain": _shared(),
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"event": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "event"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {name: {"level": "WARNING", "propagate": True} for name in _NOISY},
    }


def configure(form: str) -> None:
    """Install the logging of this process."""
    logging.config.dictConfig(logging_config(form))
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
