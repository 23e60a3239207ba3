"""Roles, users and tokens: the built-in roles as data, and the verbs that grant."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.db import transaction

from router.models import ApiToken, Permission, Role, Scope, User
from router.services import audit, clock
from router.services.actors import Actor

P = Permission

# The columns of the permission matrix (docs/roles.md): what each built-in role may do.
BUILT_IN: dict[str, list[Permission]] = {
    "administrator": [
        P.SEE_DASHBOARD, P.SEE_STUDIES, P.UPLOAD, P.QUERY_REMOTE, P.MANAGE_JOBS, P.REPLAY,
        P.RESOLVE_QUARANTINE, P.PAUSE, P.DELETE_STUDIES, P.DRAFT_RULES, P.ACTIVATE, P.ROLL_BACK,
        P.SEE_CONFIG, P.MANAGE_SECRETS, P.MANAGE_USERS, P.SEE_USERS, P.SEE_AUDIT, P.SEE_HEALTH,
    ],
    "operator": [
        P.SEE_DASHBOARD, P.SEE_STUDIES, P.SEE_IMAGES, P.EXPORT_IMAGES, P.UPLOAD, P.QUERY_REMOTE,
        P.MANAGE_JOBS, P.REPLAY, P.RESOLVE_QUARANTINE, P.PAUSE, P.DRAFT_RULES, P.ACTIVATE,
        P.ROLL_BACK, P.SEE_CONFIG, P.SEE_AUDIT, P.SEE_HEALTH,
    ],
    "radiologist": [
        P.SEE_DASHBOARD, P.SEE_STUDIES, P.SEE_IMAGES, P.EXPORT_IMAGES, P.UPLOAD, P.QUERY_REMOTE,
        P.SEE_AUDIT,
    ],
    "auditor": [
        P.SEE_DASHBOARD, P.SEE_STUDIES_MASKED, P.SEE_CONFIG, P.SEE_USERS, P.SEE_AUDIT,
        P.EXPORT_AUDIT, P.SEE_HEALTH,
    ],
    "service": [
        P.SEE_DASHBOARD, P.SEE_STUDIES, P.SEE_IMAGES, P.EXPORT_IMAGES, P.UPLOAD, P.QUERY_REMOTE,
        P.MANAGE_JOBS, P.REPLAY, P.DELETE_STUDIES, P.SEE_CONFIG, P.EXPORT_AUDIT, P.SEE_HEALTH,
    ],
}  # fmt: skip

MAX_TOKEN_LIFE = timedelta(days=366)
DEFAULT_TOKEN_LIFE = timedelta(days=90)
USE_IS_NOTED_EVERY = timedelta(minutes=1)


class UserError(Exception):
    """A grant that cannot be made; the sentence says why and what was expected."""


def ensure_roles() -> None:
    """Create or refresh the built-in roles."""
    for name, permissions in BUILT_IN.items():
        Role.objects.update_or_create(
            name=name,
            defaults={
                "permissions": sorted(permissions),
                "built_in": True,
                "can_sign_in": name != "service",
            },
        )


def ensure_administrator() -> tuple[str, str] | None:
    """Create the first administrator when there is none.

    Returns:
        Name and password when one was created (the password is shown once), else None.
    """
    if User.objects.filter(role__name="administrator", is_active=True).exists():
        return None
    password = settings.ADMIN_PASSWORD or secrets.token_urlsafe(15)
    create_user(
        settings.ADMIN_USERNAME, role="administrator", password=password, actor=Actor("first start")
    )
    return settings.ADMIN_USERNAME, password


@transaction.atomic
def create_user(
    name: str,
    *,
    role: str,
    password: str | None,
    actor: Actor,
    limit: dict[str, list[str]] | None = None,
) -> User:
    """Create a user.

    Args:
        name: the sign-in name.
        role: name of a role.
        password: checked by the password validators; None for a user without sign-in.
        actor: who grants.
        limit: ``sources``, ``modalities``, ``institutions`` → allowed values.

    Raises:
        UserError: the role is unknown or the name is taken.
        ValidationError: the password is too weak (a list of sentences).
    """
    row = Role.objects.filter(name=role).first()
    if row is None:
        known = ", ".join(Role.objects.values_list("name", flat=True))
        raise UserError(f"Role {role!r} is unknown; expected one of: {known}.")
    if User.objects.filter(username__iexact=name).exists():
        raise UserError(f"A user named {name!r} exists already.")
    user = User(username=name, role=row, limit=limit or {})
    user.full_clean(exclude=["password", "limit"])
    if password is None:
        user.set_unusable_password()
    else:
        validate_password(password, user)
        user.set_password(password)
    user.save()
    audit.record(
        "user.created", actor=actor, code="security", target=f"user {name}", details={"role": role}
    )
    return user


@transaction.atomic
def create_token(
    name: str, *, scopes: Iterable[str], actor: Actor, life: timedelta = DEFAULT_TOKEN_LIFE
) -> str:
    """Create an API token of a user and return it; it is shown only here.

    Raises:
        UserError: unknown user or scope, or a life over 366 days.
    """
    user = User.objects.filter(username=name, is_active=True).first()
    if user is None:
        raise UserError(f"User {name!r} is unknown or disabled.")
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in Scope.values]
    if unknown or not wanted:
        raise UserError(
            f"Scope {', '.join(unknown) or '(none)'} is unknown; expected some of: "
            f"{', '.join(Scope.values)}."
        )
    if not timedelta(0) < life <= MAX_TOKEN_LIFE:
        raise UserError("A token lives for at least a moment and at most 366 days.")
    value = "dr_" + secrets.token_urlsafe(32)
    now = clock.now()
    ApiToken.objects.create(
        user=user,
        prefix=value[:9],
        digest=hashlib.sha256(value.encode()).hexdigest(),
        scopes=wanted,
        created_at=now,
        expires_at=now + life,
    )
    audit.record(
        "token.created",
        actor=actor,
        code="security",
        target=f"user {name}",
        details={"scopes": wanted, "prefix": value[:9]},
    )
    return value


def note_use(token: ApiToken) -> None:
    """Remember that a token was used; to the minute, so that a busy one costs no writing."""
    now = clock.now()
    if token.last_used_at is None or now - token.last_used_at > USE_IS_NOTED_EVERY:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)


def token_may(token: ApiToken, permission: str, scope: str) -> bool:
    """Tell whether a token may do this now: its scopes, within its user's permissions."""
    return scope in token.scopes and holds(token.user, permission)


def holds(user: User, permission: str) -> bool:
    """Tell whether ``user`` holds ``permission``; in development administrators see images.

    Who sees patient data may also open what is shown masked.
    """
    if user.may(permission):
        return True
    if permission == P.SEE_STUDIES_MASKED:
        return user.may(P.SEE_STUDIES)
    development = not settings.PRODUCTION and permission in {P.SEE_IMAGES, P.EXPORT_IMAGES}
    return development and user.role is not None and user.role.name == "administrator"
