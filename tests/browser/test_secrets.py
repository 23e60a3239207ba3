"""The page of stored secrets in a real browser: by keyboard alone, on a screen of 360 pixels."""

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from router.services import secrets, users
from router.services.actors import Actor
from tests import factories
from tests.browser.test_console import LOW_CONTRAST, NAMELESS

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def administrator(
    page: Page, live_server: LiveServer, complaints: list[str], transactional_db: None
) -> Page:
    """Return a small page on which an administrator has signed in."""
    users.ensure_roles()
    factories.user("boss", role="administrator")
    secrets.put("a-name-that-is-as-long-as-names-get-" + "x" * 28, "v", actor=Actor("boss"))
    page.set_viewport_size({"width": 360, "height": 780})
    page.goto(f"{live_server.url}/login/?next=/secrets/")
    page.get_by_label("User name").fill("boss")
    page.get_by_label("Password").fill(factories.PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{live_server.url}/secrets/")
    return page


def test_stores_one_by_keyboard_and_never_shows_it(administrator: Page) -> None:
    administrator.get_by_label("Name", exact=True).focus()
    administrator.keyboard.type("no name")
    administrator.keyboard.press("Tab")
    administrator.keyboard.type("hunter2")
    administrator.keyboard.press("Enter")
    expect(administrator.get_by_text("A name of 1 to 64 of A-Z")).to_be_visible()
    name = administrator.get_by_label("Name", exact=True)
    expect(name).to_have_attribute("aria-invalid", "true")
    described = str(name.get_attribute("aria-describedby"))
    expect(administrator.locator(f"#{described}")).to_contain_text("is expected")
    assert administrator.evaluate(WIDER) <= 0

    name.focus()
    administrator.keyboard.press("Control+A")
    administrator.keyboard.type("pacs")
    administrator.keyboard.press("Tab")
    administrator.keyboard.type("hunter2")
    administrator.keyboard.press("Enter")
    expect(administrator.get_by_text("The secret pacs is stored.")).to_be_visible()

    assert secrets.reveal("pacs") == "hunter2"
    assert "hunter2" not in administrator.content()
    assert administrator.evaluate(WIDER) <= 0
    assert administrator.evaluate(LOW_CONTRAST) == []
    assert administrator.evaluate(NAMELESS) == []
