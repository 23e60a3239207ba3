"""The system's Chromium for the tests of the console; a missing browser fails, it never skips."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page
from pytest_django.live_server_helper import LiveServer

from router.services import users
from tests import factories

# Playwright's own event loop runs in this thread; the tests use the database beside it.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"

# Any below: the plugin's own dictionaries of launch and context options.


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Start the browser of the system, without its sandbox (tests may run as root)."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "Chromium is missing: deploy/install-debian-packages test installs it"
    return browser_type_launch_args | {"executable_path": path, "args": ["--no-sandbox"]}


@pytest.fixture(scope="session")
def base_url() -> None:
    """Stand before the plugin's own fixture, whose form pytest 9 deprecates."""


@pytest.fixture
def complaints(context: BrowserContext) -> Iterator[list[str]]:
    """Collect what the browser complains about; a test ends with none."""
    found: list[str] = []
    context.on(
        "console", lambda m: found.append(m.text) if m.type in {"error", "warning"} else None
    )
    context.on("weberror", lambda error: found.append(str(error.error)))
    yield found
    assert found == []


@pytest.fixture
def console(page: Page, live_server: LiveServer, complaints: list[str]) -> Page:
    """Return a page on which an operator has signed in."""
    users.ensure_roles()
    factories.user("operator")
    page.goto(f"{live_server.url}/login/")
    page.get_by_label("User name").fill("operator")
    page.get_by_label("Password").fill(factories.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{live_server.url}/")
    return page
