"""Who gets through: tokens at `/metrics`, permission by mark, and forwarded headers."""

import ipaddress
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from pytest_django.fixtures import Settings

from router import middleware
from router.models import ApiToken, Role, Scope, User
from router.services import clock, users
from router.services.actors import SYSTEM
from tests import factories

ClientFor = Callable[..., Client]
DAY = timedelta(days=1)


@pytest.fixture
def token(roles: None) -> str:
    factories.user("pump", role="service")
    return users.create_token("pump", scopes=[Scope.METRICS_READ], life=DAY, actor=SYSTEM)


def _metrics(token: str, *, kind: str = "Bearer") -> HttpResponse:
    got = Client().get("/metrics", headers={"Authorization": f"{kind} {token}"})
    assert isinstance(got, HttpResponse)
    return got


def _is_problem(got: HttpResponse, status: int) -> bool:
    """Tell whether a program was answered: no redirect, no page, Bearer and never Basic."""
    assert got.status_code == status
    assert "Location" not in got
    assert got["Content-Type"] == "application/problem+json"
    challenge = got.get("WWW-Authenticate", "")
    return challenge == ('Bearer realm="router"' if status == 401 else "")


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["Bearer", "bearer"])
def test_a_token_opens_what_its_scope_names(token: str, kind: str) -> None:
    assert _metrics(token, kind=kind).status_code == 200


@pytest.mark.django_db
def test_a_program_without_credentials_is_told_so() -> None:
    got = Client().get("/metrics")
    assert isinstance(got, HttpResponse)
    assert _is_problem(got, 401)


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer dr_x", "Basic YTpi", "dr_x"])
def test_an_unusable_header_is_401(token: str, header: str) -> None:
    got = Client().get("/metrics", headers={"Authorization": header})
    assert isinstance(got, HttpResponse)
    assert _is_problem(got, 401)


@pytest.mark.django_db
def test_the_use_of_a_token_is_noted_to_the_minute(token: str) -> None:
    assert ApiToken.objects.get().last_used_at is None
    _metrics(token)
    first = ApiToken.objects.get().last_used_at
    assert first is not None
    _metrics(token)
    assert ApiToken.objects.get().last_used_at == first
    with clock.shifted(timedelta(minutes=2)):
        _metrics(token)
    later = ApiToken.objects.get().last_used_at
    assert later is not None
    assert later > first


@pytest.mark.django_db
def test_a_token_expires(token: str) -> None:
    assert _metrics(token).status_code == 200
    with clock.shifted(DAY + timedelta(seconds=1)):
        assert _is_problem(_metrics(token), 401)


@pytest.mark.django_db
def test_a_token_ends_when_revoked_or_with_its_user(token: str) -> None:
    ApiToken.objects.update(revoked_at=clock.now())
    assert _is_problem(_metrics(token), 401)
    ApiToken.objects.update(revoked_at=None)
    User.objects.update(is_active=False)
    assert _is_problem(_metrics(token), 401)


@pytest.mark.django_db
def test_a_token_without_the_scope_is_403(token: str) -> None:
    ApiToken.objects.update(scopes=[Scope.API_READ])
    assert _is_problem(_metrics(token), 403)


@pytest.mark.django_db
def test_a_token_whose_user_lost_the_permission_is_403(token: str) -> None:
    Role.objects.filter(name="service").update(permissions=[])
    assert _is_problem(_metrics(token), 403)


@pytest.mark.django_db
def test_a_token_opens_no_page(token: str) -> None:
    got = Client().get("/users/", headers={"Authorization": f"Bearer {token}"})
    assert (got.status_code, got["Location"]) == (302, "/login/?next=/users/")


@pytest.mark.django_db
def test_a_person_without_the_permission_is_refused_as_what_asks(client_for: ClientFor) -> None:
    client = client_for("radiologist")
    assert client.get("/users/").status_code == 403
    got = client.get("/metrics")
    assert isinstance(got, HttpResponse)
    assert _is_problem(got, 403)


# --- forwarded headers -----------------------------------------------------------------------
@pytest.fixture
def _proxies(settings: Settings) -> None:
    settings.TRUSTED_PROXIES = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "fd00::/8")]


def _seen(peer: str, forwarded: str) -> HttpRequest:
    """Return the request as a view would see it."""
    seen: list[HttpRequest] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return HttpResponse()

    headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
    middleware.client_address(view)(RequestFactory().get("/", REMOTE_ADDR=peer, headers=headers))
    return seen[0]


@pytest.mark.usefixtures("_proxies")
@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.9", "203.0.113.5", "192.0.2.9"),  # not a proxy of ours: not believed
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5, 10.0.0.2", "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.5, 10.0.0.2", "203.0.113.5"),  # what a client made up
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", " , ", "10.0.0.1"),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("", "203.0.113.5", ""),
    ],
)
def test_believes_forwarded_addresses_from_trusted_proxies_only(
    peer: str, forwarded: str, address: str
) -> None:
    request = _seen(peer, forwarded)
    assert middleware.address_of(request) == address
    assert "X-Forwarded-For" not in request.headers


@pytest.mark.usefixtures("_proxies")
@pytest.mark.parametrize(("peer", "secure"), [("10.0.0.1", True), ("192.0.2.9", False)])
def test_believes_a_forwarded_scheme_from_trusted_proxies_only(
    settings: Settings, peer: str, *, secure: bool
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert _seen(peer, "203.0.113.5").is_secure() is secure


@pytest.mark.usefixtures("_proxies")
@pytest.mark.parametrize("hop", ["unknown", "203.0.113.5:4711", "<script>", "a" * 400])
def test_a_hop_that_is_no_address_is_not_taken_for_one(hop: str) -> None:
    assert middleware.address_of(_seen("10.0.0.1", hop)) == "10.0.0.1"
