"""People, their roles and limits, and the tokens of programs.

A role is data: a list of permissions and a limit. A permission not listed is refused. Rows only:
who may grant what is decided in ``services.users``.
"""

from datetime import datetime

from django.contrib.auth.models import AbstractUser
from django.db import models


class Permission(models.TextChoices):
    """What a role may allow; the rows of the permission matrix."""

    SEE_DASHBOARD = "dashboard.view", "See dashboards and queue counts"
    SEE_STUDIES = "studies.view", "Search studies and see patient data in lists"
    SEE_STUDIES_MASKED = "studies.masked", "Search studies with patient data masked"
    SEE_IMAGES = "images.view", "Open images"
    EXPORT_IMAGES = "images.export", "Download or export DICOM"
    UPLOAD = "studies.upload", "Upload or import"
    QUERY_REMOTE = "remote.query", "Query and retrieve remote nodes"
    MANAGE_JOBS = "jobs.manage", "Retry, hold, release, re-prioritise and cancel jobs"
    REPLAY = "replay.run", "Replay traffic"
    RESOLVE_QUARANTINE = "quarantine.resolve", "Resolve quarantine"
    PAUSE = "destinations.pause", "Pause and resume destinations or intake"
    DELETE_STUDIES = "studies.delete", "Delete studies"
    DRAFT_RULES = "rules.draft", "Create and edit draft rules, simulate, shadow"
    ACTIVATE = "config.activate", "Activate rules and destinations"
    ROLL_BACK = "config.rollback", "Roll back configuration"
    SEE_CONFIG = "config.view", "View configuration and differences"
    MANAGE_SECRETS = "secrets.manage", "Write secrets and certificates"
    MANAGE_USERS = "users.manage", "Manage users, roles and tokens"
    SEE_USERS = "users.view", "See users, roles and tokens"
    SEE_AUDIT = "audit.view", "Read the audit log"
    EXPORT_AUDIT = "audit.export", "Export and verify the audit log"
    SEE_HEALTH = "health.view", "See health and metrics"


class Scope(models.TextChoices):
    """What an API token may be used for."""

    DICOMWEB_READ = "dicomweb:read"
    DICOMWEB_WRITE = "dicomweb:write"
    DICOMWEB_DELETE = "dicomweb:delete"
    API_READ = "api:read"
    API_WRITE = "api:write"
    METRICS_READ = "metrics:read"
    AUDIT_EXPORT = "audit:export"


class Role(models.Model):
    """A named set of permissions with a limit on what they reach.

    ``limit`` maps ``sources``, ``modalities`` or ``institutions`` to a list of allowed values;
    a missing key does not limit.
    """

    name = models.CharField(max_length=64, unique=True)
    permissions = models.JSONField(default=list)
    limit = models.JSONField(default=dict)
    built_in = models.BooleanField(default=False)
    can_sign_in = models.BooleanField(default=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_disabled(self) -> bool:
        """Whether a role of the customer's own is switched off: nobody may use it."""
        return not self.built_in and not self.can_sign_in


class User(AbstractUser):
    """A person who signs in, or the owner of tokens (role ``service``)."""

    role = models.ForeignKey(Role, on_delete=models.PROTECT, null=True, related_name="users")
    limit = models.JSONField(default=dict, blank=True)

    def may(self, permission: str) -> bool:
        """Tell whether the user's role lists ``permission`` (deny by default)."""
        if not self.is_active or self.role is None or self.role.is_disabled:
            return False
        return permission in self.role.permissions

    def limits(self) -> dict[str, list[str]]:
        """Return the narrower of the role's and the user's own limit, for each key."""
        role = self.role.limit if self.role else {}
        merged = dict(role)
        for key, values in self.limit.items():
            merged[key] = [v for v in values if v in role[key]] if key in role else values
        return merged


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    """Sentences about tokens."""

    def usable(self, now: datetime) -> "ApiTokenQuerySet":
        """Tokens neither revoked nor expired, of an active user."""
        return self.filter(revoked_at=None, expires_at__gt=now, user__is_active=True)


class ApiToken(models.Model):
    """A bearer token; only its SHA-256 is stored."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    prefix = models.CharField(max_length=12)
    digest = models.CharField(max_length=64, unique=True)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    objects = ApiTokenQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.prefix}…"
