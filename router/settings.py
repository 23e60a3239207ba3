"""All configuration, read from the environment in one place.

Names, defaults and meaning are those of ``docs/settings.md``. Every variable may also be given
as ``NAME_FILE``, the path of a file that holds the value. In production, unsafe values are
refused with a sentence each, before anything starts. This module reads the environment and
generates missing development secrets; it opens no database and no network connection.
"""

import ipaddress
import os
import secrets
import shutil
import warnings
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from router import durable

BASE_DIR = Path(__file__).resolve().parent.parent
GIB = 1 << 30

env = environ.FileAwareEnv()


def _path(value: str) -> Path:
    """Return ``value`` as a path; a relative one is relative to the project."""
    return (BASE_DIR / Path(value).expanduser()).resolve()


def _optional_path(name: str) -> Path | None:
    """Read a path from the environment; None when it is not given."""
    text = env.str(name, default="")
    return _path(text) if text else None


def _file_of(name: str) -> Path | None:
    """Return the file that a variable is read from; None when it is given as a value."""
    return _optional_path(f"{name}_FILE")


def _whole(name: str, default: int, *, least: int = 0, most: int = 1 << 62) -> int:
    """Read a whole number from the environment.

    Raises:
        ImproperlyConfigured: not a number, or outside ``least``..``most``.
    """
    text = env.str(name, default=str(default))
    if not text.strip().isdigit() or not least <= int(text) <= most:
        raise ImproperlyConfigured(
            f"{name} is {text!r}; a whole number from {least} to {most} is expected."
        )
    return int(text)


def _networks(name: str, default: list[str]) -> list[IPv4Network | IPv6Network]:
    """Read addresses and networks from the environment.

    Raises:
        ImproperlyConfigured: one is neither.
    """
    texts = [text.strip() for text in env.list(name, default=default)]
    try:
        return [ipaddress.ip_network(text, strict=False) for text in texts if text]
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{name}: {error}; addresses or networks such as 10.1.0.0/16 are expected."
        ) from error


def _secret(name: str, file_name: str, length: int) -> tuple[str, bool]:
    """Read a secret, or make one in the data directory (mode 0600); tell if it was made."""
    given = env.str(name, default="")
    if given:
        return given, False
    path = DATA_DIR / "keys" / file_name
    if not path.exists():
        _make_secret(path, secrets.token_urlsafe(length))
    return path.read_text().strip(), True


def _make_secret(path: Path, value: str) -> None:
    """Write a secret that a power cut leaves whole; of two processes the first one's stands."""
    durable.make_folder(path.parent)
    path.parent.chmod(0o700)
    draft = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    durable.write(draft, value)
    with suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()
    durable.sync_folder(path.parent)


def _watermark(name: str, percent: int, most: int) -> int:
    """Return a free-space watermark in bytes: given as bytes or ``N%``, else the default."""
    total = shutil.disk_usage(DATA_DIR).total
    text = env.str(name, default="").strip()
    if not text:
        return min(total * percent // 100, most)
    if text.endswith("%") and text[:-1].isdigit():
        return total * int(text[:-1]) // 100
    if text.isdigit():
        return int(text)
    raise ImproperlyConfigured(f"{name} is {text!r}; bytes or a percentage such as 5% is expected.")


ENVIRONMENT = env.str("ROUTER_ENV", default="development")
if ENVIRONMENT not in {"development", "production"}:
    raise ImproperlyConfigured(
        f"ROUTER_ENV is {ENVIRONMENT!r}; development or production is expected."
    )
PRODUCTION = ENVIRONMENT == "production"
DEBUG = False

DATA_DIR = _path(env.str("ROUTER_DATA_DIR", default="./data"))
durable.make_folder(DATA_DIR)
SPOOL_DIR = DATA_DIR / "spool"

SECRET_KEY, SECRET_KEY_GENERATED = _secret("ROUTER_SECRET_KEY", "secret_key", 64)
KEYS, KEYS_GENERATED = _secret("ROUTER_KEYS", "keys", 32)
# A ring in a file is read anew whenever it is used (router/secrets.py): keys may be added to it.
KEYS_FILE = DATA_DIR / "keys" / "keys" if KEYS_GENERATED else _file_of("ROUTER_KEYS")

# --- network ----------------------------------------------------------------------------------
AE_TITLE = env.str("ROUTER_AE_TITLE", default="DICOMROUTER")
DIMSE_BIND = env.str("ROUTER_DIMSE_BIND", default="127.0.0.1")
DIMSE_PORT = _whole("ROUTER_DIMSE_PORT", 11112, most=65535)
DIMSE_PROCESSES = _whole(
    "ROUTER_DIMSE_PROCESSES", max(1, (os.cpu_count() or 2) // 2), least=1, most=64
)
_tls_port = env.str("ROUTER_DIMSE_TLS_PORT", default="")
DIMSE_TLS_PORT = _whole("ROUTER_DIMSE_TLS_PORT", 0, most=65535) if _tls_port else None
DIMSE_TLS_CERT = _optional_path("ROUTER_DIMSE_TLS_CERT")
DIMSE_TLS_KEY = _optional_path("ROUTER_DIMSE_TLS_KEY")
DIMSE_TLS_CA = _optional_path("ROUTER_DIMSE_TLS_CA")
if DIMSE_TLS_PORT is not None and DIMSE_TLS_CERT is None:
    raise ImproperlyConfigured("ROUTER_DIMSE_TLS_PORT is set; ROUTER_DIMSE_TLS_CERT is expected.")
MAX_ASSOCIATIONS = _whole("ROUTER_MAX_ASSOCIATIONS", 200, least=1, most=10_000)
MAX_ASSOCIATIONS_PER_ADDRESS = min(20, MAX_ASSOCIATIONS)
HTTP_BIND = env.str("ROUTER_HTTP_BIND", default="127.0.0.1")
HTTP_PORT = _whole("ROUTER_HTTP_PORT", 8080, least=1, most=65535)
PUBLIC_URL = env.str("ROUTER_PUBLIC_URL", default=f"http://{HTTP_BIND}:{HTTP_PORT}").rstrip("/")
TRUSTED_PROXIES = [
    ipaddress.ip_network(item, strict=False)
    for item in env.list("ROUTER_TRUSTED_PROXIES", default=[])
]
OUTBOUND_ALLOW = _networks("ROUTER_OUTBOUND_ALLOW", [] if PRODUCTION else ["127.0.0.0/8", "::1"])
WORKERS = _whole("ROUTER_WORKERS", max(4, 2 * (os.cpu_count() or 2)), least=2, most=256)
REDIS_URL = env.str("ROUTER_REDIS_URL", default="")
REPLAY_TYPED_ABOVE = _whole("ROUTER_REPLAY_TYPED_ABOVE", 100, least=0, most=1_000_000)

DISK_SLOW = _watermark("ROUTER_DISK_SLOW", 10, 20 * GIB)
DISK_REFUSE = _watermark("ROUTER_DISK_REFUSE", 5, 5 * GIB)

ADMIN_USERNAME = env.str("ROUTER_ADMIN_USERNAME", default="admin")
ADMIN_PASSWORD = env.str("ROUTER_ADMIN_PASSWORD", default="")

# --- database ---------------------------------------------------------------------------------
_database_url = env.str("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'router.sqlite3'}")
_database = cast("dict[str, Any]", environ.Env.db_url_config(_database_url))  # shape is Django's
USES_SQLITE = _database["ENGINE"].endswith("sqlite3")
ALLOW_SQLITE = env.bool("ROUTER_ALLOW_SQLITE", default=False)
if USES_SQLITE:
    if _database["NAME"] != ":memory:":
        _database["NAME"] = str(_path(_database["NAME"]))
    _database["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        # One process checkpoints (manage.py worker): SQLite 3.7.0-3.51.2 can lose a WAL reset
        # when two connections checkpoint at once.
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
            "PRAGMA foreign_keys=ON; PRAGMA cache_size=-32000;"
        ),
    }
else:
    _database["CONN_MAX_AGE"] = 300
    _database["CONN_HEALTH_CHECKS"] = True
    # A server that falls silent (a firewall dropped the connection, a failover) is given up soon;
    # the system would wait for a quarter of an hour.
    _database["OPTIONS"] = {
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        **_database.get("OPTIONS", {}),
    }
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STORAGE_URL = env.str("ROUTER_STORAGE_URL", default=f"file://{DATA_DIR / 'objects'}")

# --- Django -----------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_q",
    "axes",
    "router",
    "ingest",
    "dicomweb",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "router.middleware.client_address",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_permissions_policy.PermissionsPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "router.middleware.RequirePermission",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "router.urls"
WSGI_APPLICATION = "router.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "builtins": ["router.templatetags.console"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "router.views.frame.context",
            ],
        },
    }
]
AUTH_USER_MODEL = "router.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "registration/locked.html"
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "router.middleware.address_of"
AXES_SENSITIVE_PARAMETERS: list[str] = []
AXES_VERBOSE = False
AXES_DISABLE_ACCESS_LOG = True

SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
        "manifest-src": ["'self'"],
    }
}
PERMISSIONS_POLICY: dict[str, list[str]] = {
    "camera": [], "geolocation": [], "microphone": [], "payment": [], "usb": [],
}  # fmt: skip

_public = urlsplit(PUBLIC_URL)
ALLOWED_HOSTS = [_public.hostname or "localhost"]
if not PRODUCTION:
    ALLOWED_HOSTS += ["127.0.0.1", "localhost", "[::1]"]
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"]
if PRODUCTION:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_NAME = "__Host-session"
    CSRF_COOKIE_NAME = "__Host-csrf"
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    # Only an address in ROUTER_TRUSTED_PROXIES can set it: router.middleware.client_address.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATIC_ROOT.mkdir(exist_ok=True)
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 << 20
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# --- django-q2: a doorbell, never the truth (docs/architecture.md) ------------------------------
# A delivery has no time-out of the library's (it would kill by SIGALRM); it warns about that.
warnings.filterwarnings("ignore", message="Retry and timeout are misconfigured")
Q_CLUSTER: dict[str, Any] = {  # Any: the library's own mixed dictionary
    "name": "router",
    "workers": WORKERS,
    "queue_limit": WORKERS,
    "bulk": 1,
    "timeout": None,
    "retry": 86_400,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "catch_up": False,
    "recycle": 100_000,
    "guard_cycle": 0.5,
    "daemonize_workers": True,
    "log_level": "WARNING",
    "scheduler": False,
}
if REDIS_URL:
    Q_CLUSTER["redis"] = REDIS_URL
else:
    Q_CLUSTER["orm"] = "default"
    Q_CLUSTER["broker_class"] = "router.task_queue.TaskQueue"
    Q_CLUSTER["poll"] = 0  # our queue waits until it is woken

LOG_FORMAT = env.str("ROUTER_LOG_FORMAT", default="json" if PRODUCTION else "console")
if LOG_FORMAT not in {"json", "console"}:
    raise ImproperlyConfigured(f"ROUTER_LOG_FORMAT is {LOG_FORMAT!r}; console or json is expected.")
LOGGING_CONFIG = None


def _refusals() -> list[str]:
    """Return one sentence for each value that production must not start with."""
    findings = [
        (SECRET_KEY_GENERATED, "ROUTER_SECRET_KEY must be given; a generated one is unsafe."),
        (len(SECRET_KEY) < 50, "ROUTER_SECRET_KEY must have at least 50 characters."),
        (KEYS_GENERATED, "ROUTER_KEYS must be given; a generated one is unsafe."),
        (
            USES_SQLITE and not ALLOW_SQLITE,
            "DATABASE_URL names SQLite: use PostgreSQL, or set ROUTER_ALLOW_SQLITE=1 knowingly.",
        ),
        (
            _public.scheme != "https",
            "ROUTER_PUBLIC_URL must begin with https:// so that cookies stay secret.",
        ),
        ("*" in (_public.hostname or "*"), "ROUTER_PUBLIC_URL must name one host, no wildcard."),
        (env.bool("DEBUG", default=False), "DEBUG must not be set."),
    ]  # fmt: skip
    return [sentence for bad, sentence in findings if bad]


if PRODUCTION and (_found := _refusals()):
    raise ImproperlyConfigured("Refused in production:\n- " + "\n- ".join(_found))
