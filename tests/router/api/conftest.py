"""Programs with tokens, and rows for them to ask about."""

from collections.abc import Callable

import pytest
from django.test import Client

from router.models import Scope, User
from router.services import users
from router.services.actors import Actor
from tests import factories

ProgramFor = Callable[..., Client]


def token_of(owner: User, *scopes: str) -> str:
    """Return a token of `owner`."""
    wanted = scopes or (Scope.API_READ, Scope.API_WRITE)
    return users.create_token(owner.username, scopes=wanted, actor=Actor("tests"))


@pytest.fixture
def program_for(roles: None) -> ProgramFor:
    """Return a function that gives a client with a token: ``program_for("operator", "api:read")``.

    Keywords are a limit.
    """

    def make(role: str = "service", *scopes: str, **limit: list[str]) -> Client:
        owner = factories.user(role=role, limit=limit)
        return Client(headers={"Authorization": f"Bearer {token_of(owner, *scopes)}"})

    return make


@pytest.fixture
def program(program_for: ProgramFor) -> Client:
    """Return a program that may read and write."""
    return program_for()
