"""The marks of views, and who is behind a request."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from router.models import ApiToken, Permission, Scope
from router.services import access
from router.services.actors import Actor, ActorKind
from tests import factories

pytestmark = pytest.mark.django_db


def _view(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("seen")


def _request(name: str = "ann") -> HttpRequest:
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1")
    request.user = factories.user(name)
    return request


def test_a_mark_leaves_the_view_as_it_is() -> None:
    marks = [access.requires(Permission.SEE_HEALTH), access.signed_in, access.public]
    assert [mark(_view) is _view for mark in marks] == [True] * 3
    assert _view(_request()).content == b"seen"


def test_each_mark_says_one_thing() -> None:
    def first(request: HttpRequest) -> HttpResponse:
        return _view(request)

    def second(request: HttpRequest) -> HttpResponse:
        return _view(request)

    access.requires(Permission.SEE_HEALTH, scope=Scope.METRICS_READ)(first)
    access.public(second)
    assert vars(first) == {
        "required_permission": Permission.SEE_HEALTH,
        "token_scope": Scope.METRICS_READ,
    }
    assert vars(second) == {"public": True}


def test_a_view_takes_no_token_unless_it_names_a_scope() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return _view(request)

    access.requires(Permission.SEE_HEALTH)(view)
    assert vars(view)["token_scope"] is None


def test_the_actor_is_the_user_at_an_address() -> None:
    request = _request()
    assert access.actor(request) == Actor("ann", ActorKind.USER, "10.0.0.1")
    assert access.person(request) == request.user


def test_the_actor_behind_a_token_says_so() -> None:
    request = _request()
    request.api_token = ApiToken()  # type: ignore[attr-defined]
    assert access.actor(request).kind == ActorKind.TOKEN


def test_nobody_is_called_anonymous() -> None:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    assert access.actor(request).name == "anonymous"
    with pytest.raises(AssertionError):
        access.person(request)
