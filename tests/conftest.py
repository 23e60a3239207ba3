"""Fixtures of the whole suite: a data directory of its own, the roles, and a client for each role.

The data directory is chosen before Django loads, so that no test can touch a real installation.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if "ROUTER_DATA_DIR" not in os.environ:
    os.environ["ROUTER_DATA_DIR"] = tempfile.mkdtemp(prefix="router-tests-")
pytest_plugins = ["tests.plugins"]

ClientFor = Callable[..., "Client"]

from django.conf import settings as django_settings  # noqa: E402 - after the data directory
from django.core.cache import cache  # noqa: E402
from django.test import Client  # noqa: E402
from hypothesis import settings as hypothesis_settings  # noqa: E402

# No test of ours asserts how long something took: the machine may be busy.
hypothesis_settings.register_profile("suite", deadline=None)
hypothesis_settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    """Forget what an earlier test cached."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def data_dir() -> Path:
    """Return the data directory of this run."""
    return Path(django_settings.DATA_DIR)


@pytest.fixture
def roles(db: None) -> None:
    """Create the built-in roles."""
    from router.services import users

    users.ensure_roles()


@pytest.fixture
def client_for(roles: None) -> ClientFor:
    """Return a function that gives a signed-in client of a role: ``client_for("operator")``."""
    from tests import factories

    def make(role: str, **limit: list[str]) -> Client:
        client = Client()
        client.force_login(
            factories.user(role=role, limit=limit),
            backend="django.contrib.auth.backends.ModelBackend",
        )
        return client

    return make
