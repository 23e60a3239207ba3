"""Roles as data, and what is granted to users and tokens."""

import hashlib
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from pytest_django.fixtures import Settings

from router.models import ApiToken, AuditEvent, Permission, Role, Scope, User
from router.services import clock, users
from router.services.actors import SYSTEM
from tests import factories

P = Permission
DAY = timedelta(days=1)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

# Rows of docs/roles.md: who may, by the first letters of the built-in roles.
MATRIX = {
    P.SEE_DASHBOARD: "aoruS",
    P.SEE_STUDIES: "aorS",
    P.SEE_STUDIES_MASKED: "u",
    P.SEE_IMAGES: "orS",
    P.EXPORT_IMAGES: "orS",
    P.UPLOAD: "aorS",
    P.QUERY_REMOTE: "aorS",
    P.MANAGE_JOBS: "aoS",
    P.REPLAY: "aoS",
    P.RESOLVE_QUARANTINE: "ao",
    P.PAUSE: "ao",
    P.DELETE_STUDIES: "aS",
    P.DRAFT_RULES: "ao",
    P.ACTIVATE: "ao",
    P.ROLL_BACK: "ao",
    P.SEE_CONFIG: "aouS",
    P.MANAGE_SECRETS: "a",
    P.MANAGE_USERS: "a",
    P.SEE_USERS: "au",
    P.SEE_AUDIT: "aoru",
    P.EXPORT_AUDIT: "uS",
    P.SEE_HEALTH: "aouS",
}
LETTERS = {
    "a": "administrator",
    "o": "operator",
    "r": "radiologist",
    "u": "auditor",
    "S": "service",
}


@pytest.mark.parametrize("permission", P, ids=str)
def test_each_built_in_role_may_what_the_matrix_says(permission: Permission) -> None:
    allowed = {LETTERS[letter] for letter in MATRIX[permission]}
    rows = {role.name: factories.user(role=role.name) for role in Role.objects.all()}
    assert set(rows) == set(LETTERS.values())
    assert {name for name, user in rows.items() if user.may(permission)} == allowed


def test_only_service_cannot_sign_in() -> None:
    assert [r.name for r in Role.objects.filter(can_sign_in=False)] == ["service"]


def test_roles_are_refreshed_and_not_doubled() -> None:
    Role.objects.filter(name="auditor").update(permissions=["users.manage"])
    users.ensure_roles()
    assert Role.objects.get(name="auditor").permissions == sorted(users.BUILT_IN["auditor"])
    assert Role.objects.count() == 5


def test_who_is_inactive_or_without_role_may_nothing() -> None:
    inactive = factories.user(role="administrator")
    inactive.is_active = False
    disabled = factories.user(role="administrator")
    disabled.role = Role(name="own", permissions=list(P.values), built_in=False, can_sign_in=False)
    for user in (inactive, User(username="roleless"), disabled):
        assert not any(user.may(permission) for permission in P)


@pytest.mark.parametrize("production", [True, False])
def test_administrators_see_images_in_development_only(
    settings: Settings, *, production: bool
) -> None:
    settings.PRODUCTION = production
    assert users.holds(factories.user(role="administrator"), P.SEE_IMAGES) is not production
    assert not users.holds(factories.user(role="auditor"), P.SEE_IMAGES)


def test_who_sees_patient_data_may_open_the_masked_list() -> None:
    assert users.holds(factories.user(role="radiologist"), P.SEE_STUDIES_MASKED)


@pytest.mark.parametrize(
    ("role", "own", "merged"),
    [
        ({}, {"sources": ["a"]}, {"sources": ["a"]}),
        ({"sources": ["a", "b"]}, {}, {"sources": ["a", "b"]}),
        ({"sources": ["a", "b"]}, {"sources": ["b", "c"]}, {"sources": ["b"]}),
        ({"sources": ["a"]}, {"sources": ["c"]}, {"sources": []}),
        ({"sources": ["a"]}, {"modalities": ["CT"]}, {"sources": ["a"], "modalities": ["CT"]}),
    ],
)
def test_the_narrower_limit_counts(
    role: dict[str, list[str]], own: dict[str, list[str]], merged: dict[str, list[str]]
) -> None:
    assert User(role=Role(name="x", limit=role), limit=own).limits() == merged


# --- grants ----------------------------------------------------------------------------------
def test_creates_a_user_and_audits_it() -> None:
    user = users.create_user("ann", role="operator", password=factories.PASSWORD, actor=SYSTEM)
    user.refresh_from_db()
    assert user.check_password(factories.PASSWORD)
    assert user.role == Role.objects.get(name="operator")
    audited = AuditEvent.objects.get()
    assert (audited.event, audited.target) == ("user.created", "user ann")
    assert factories.PASSWORD not in str(audited.details)


def test_without_a_password_nobody_signs_in() -> None:
    user = users.create_user("pump", role="service", password=None, actor=SYSTEM)
    assert not user.has_usable_password()


@pytest.mark.parametrize(
    ("name", "role", "password", "error", "says"),
    [
        ("ann", "boss", factories.PASSWORD, users.UserError, "'boss' is unknown; expected one of"),
        ("BOB", "operator", factories.PASSWORD, users.UserError, "'BOB' exists already"),
        ("ann", "operator", "12345", ValidationError, "too short"),
        ("a b!", "operator", factories.PASSWORD, ValidationError, "valid username"),
        ("", "operator", factories.PASSWORD, ValidationError, "blank"),
    ],
)
def test_refuses_a_user(
    name: str, role: str, password: str, error: type[Exception], says: str
) -> None:
    factories.user("bob")
    with pytest.raises(error, match=says):
        users.create_user(name, role=role, password=password, actor=SYSTEM)
    assert list(User.objects.values_list("username", flat=True)) == ["bob"]
    assert not AuditEvent.objects.exists()


def test_the_first_administrator_is_made_once(settings: Settings) -> None:
    settings.ADMIN_PASSWORD = ""
    made = users.ensure_administrator()
    assert made is not None
    name, password = made
    assert User.objects.get(username=name).check_password(password)
    assert users.ensure_administrator() is None


def test_a_token_is_kept_as_its_hash_only() -> None:
    factories.user("pump", role="service")
    value = users.create_token("pump", scopes=["api:read", "api:read"], actor=SYSTEM)
    row = ApiToken.objects.get()
    assert row.digest == hashlib.sha256(value.encode()).hexdigest()
    assert (row.scopes, row.expires_at - row.created_at) == (["api:read"], 90 * DAY)
    assert value not in str(ApiToken.objects.values()) + str(AuditEvent.objects.values())


@pytest.mark.parametrize(
    ("name", "scopes", "life", "says"),
    [
        ("nobody", ["api:read"], DAY, "'nobody' is unknown or disabled"),
        ("gone", ["api:read"], DAY, "'gone' is unknown or disabled"),
        ("pump", ["api:fly"], DAY, "api:fly is unknown"),
        ("pump", [], DAY, r"\(none\) is unknown"),
        ("pump", ["api:read"], timedelta(0), "at least a moment"),
        ("pump", ["api:read"], -DAY, "at least a moment"),
        ("pump", ["api:read"], 367 * DAY, "at most 366 days"),
    ],
)
def test_refuses_a_token(name: str, scopes: list[str], life: timedelta, says: str) -> None:
    factories.user("pump", role="service")
    factories.user("gone", role="service")
    User.objects.filter(username="gone").update(is_active=False)
    with pytest.raises(users.UserError, match=says):
        users.create_token(name, scopes=scopes, life=life, actor=SYSTEM)
    assert not ApiToken.objects.exists()


@pytest.mark.parametrize(
    ("change", "usable"),
    [
        ({}, True),
        ({"expires_at": -DAY}, False),
        ({"revoked_at": -DAY}, False),
    ],
)
def test_usable_until_it_expires_or_is_revoked(
    change: dict[str, timedelta], *, usable: bool
) -> None:
    factories.user("pump", role="service")
    users.create_token("pump", scopes=["api:read"], actor=SYSTEM)
    now = clock.now()
    ApiToken.objects.update(**{name: now + by for name, by in change.items()})
    assert ApiToken.objects.usable(now).exists() is usable
    User.objects.update(is_active=False)
    assert not ApiToken.objects.usable(now).exists()


def test_a_token_may_what_its_scope_and_its_user_may() -> None:
    factories.user("pump", role="service")
    users.create_token("pump", scopes=[Scope.METRICS_READ], actor=SYSTEM)
    token = ApiToken.objects.get()
    assert users.token_may(token, P.SEE_HEALTH, Scope.METRICS_READ)
    assert not users.token_may(token, P.SEE_HEALTH, Scope.API_READ)
    assert not users.token_may(token, P.MANAGE_USERS, Scope.METRICS_READ)
