"""The console in a real browser: the main journey, the strict policy, small screens, no script."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from router.models import Instance, JobItem, Study
from router.services import users
from tests import factories
from tests.browser.seed import seed

PAGES = (
    "/", "/studies/", "/jobs/", "/triage/", "/quarantine/", "/rules/", "/destinations/",
    "/destinations/pacs-2/", "/sources/", "/revisions/", "/revisions/2/", "/audit/", "/system/",
    "/password/", "/statistics/", "/statistics/?period=90",
    "/destinations/~new/", "/destinations/~new/?kind=stow", "/destinations/pacs-2/edit/",
    "/destinations/archive/remove/", "/jobs/confirm/?action=hold&all=1",
)  # fmt: skip
# The contrast of each text with what lies behind it (WCAG 2.2, 1.4.3), measured on the page.
LOW_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return rgb(getComputedStyle(document.documentElement).backgroundColor);
  };
  const found = new Set();
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || !element.checkVisibility() || element.closest('.sr-only, svg')) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.add(`${element.className}: ${ratio.toFixed(2)} ${element.textContent}`);
  }
  return [...found];
}"""
NAMELESS = """() => [...document.querySelectorAll('a, button, input:not([type=hidden]), select')]
  .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
  .map((e) => e.outerHTML)"""


@pytest.fixture
def story(transactional_db: None) -> Study:
    """Fill the database."""
    return seed()


def test_follows_a_study_from_the_dashboard_to_its_story(
    story: Study, console: Page, live_server: LiveServer
) -> None:
    expect(console.get_by_role("heading", name="Needs attention").first).to_be_visible()
    console.get_by_role("link", name="Studies", exact=True).click()
    console.get_by_text("Coronary angiography").click()
    expect(console.get_by_role("heading", name="FERRARI, Giulia")).to_be_visible()

    console.keyboard.press("/")
    console.keyboard.type(story.accession_number)
    console.keyboard.press("Enter")
    expect(console.get_by_role("heading", name="OKAFOR, Ngozi")).to_be_visible()
    assert story.accession_number not in console.url

    console.get_by_label("Destination").select_option("research")
    expect(console.get_by_text("Not chosen for research")).to_be_visible()
    console.get_by_role("button", name="Release").first.click()
    expect(console.get_by_text("The object is released")).to_be_visible()
    assert Instance.objects.quarantined().count() == 1


def test_retries_what_needs_attention(story: Study, console: Page) -> None:
    console.get_by_role("button", name="Retry 36").click()

    expect(console.get_by_text("36 objects are due again.")).to_be_visible()
    assert not JobItem.objects.filter(state="parked").exists()


def test_holds_everything_that_matches_after_asking(story: Study, console: Page) -> None:
    console.get_by_role("link", name="Jobs").click()
    console.get_by_label("All that match, on every page").check()
    console.get_by_role("button", name="Hold").click()
    expect(console.get_by_role("heading", name="Hold 36 objects for research?")).to_be_visible()
    console.get_by_role("button", name="Hold 36").click()

    expect(console.get_by_text("36 objects are held.")).to_be_visible()


def test_dashboard_shows_what_changed_without_a_reload(story: Study, console: Page) -> None:
    expect(console.get_by_role("button", name="Retry 36")).to_be_visible()
    JobItem.objects.filter(state="parked").update(state="cancelled")

    expect(console.get_by_role("button", name="Retry 36")).to_have_count(0, timeout=15_000)
    expect(console.locator("[data-updated]")).to_contain_text("updated")


def test_live_list_keeps_what_is_ticked(story: Study, console: Page) -> None:
    console.get_by_role("link", name="Jobs").click()
    box = console.locator("input[name=job]").first
    box.check()
    console.locator("h1").click()
    console.wait_for_timeout(3_500)

    expect(box).to_be_checked()


def test_copies_a_uid(story: Study, console: Page, live_server: LiveServer) -> None:
    console.context.grant_permissions(["clipboard-read", "clipboard-write"])
    console.goto(f"{live_server.url}/studies/{story.pk}/")
    console.locator(f'[data-copy="{story.study_instance_uid}"]').click()

    expect(console.locator("#announcer")).to_have_text("Copied")
    assert console.evaluate("navigator.clipboard.readText()") == story.study_instance_uid


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_legible(
    story: Study, console: Page, live_server: LiveServer, tmp_path: Path, scheme: str
) -> None:
    console.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for number, where in enumerate((*PAGES, f"/studies/{story.pk}/?why=research")):
        console.goto(live_server.url + where)
        console.wait_for_timeout(200)
        console.screenshot(path=tmp_path / f"{scheme}-{number}.png", full_page=True)
        assert console.evaluate(LOW_CONTRAST) == [], where
        assert console.evaluate(NAMELESS) == [], where


def test_nothing_is_cut_off_on_a_small_screen(
    story: Study, console: Page, live_server: LiveServer
) -> None:
    console.set_viewport_size({"width": 360, "height": 780})
    for where in (*PAGES, f"/studies/{story.pk}/?why=research"):
        console.goto(live_server.url + where)
        wide = console.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, where
    console.get_by_text("Menu").click()
    console.locator(".mobile-nav").get_by_role("link", name="Quarantine").click()
    expect(console.get_by_role("heading", name="Quarantine")).to_be_visible()


def test_theme_switch_is_kept(console: Page) -> None:
    console.get_by_text("operator").first.click()
    console.get_by_role("button", name="Dark").click()

    expect(console.locator("html")).to_have_attribute("data-theme", "dark")
    assert console.evaluate("getComputedStyle(document.body).colorScheme") == "dark"


def test_works_without_javascript(story: Study, browser: Browser, live_server: LiveServer) -> None:
    users.ensure_roles()
    factories.user("ann")
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{live_server.url}/jobs/?state=parked")
        page.get_by_label("User name").fill("ann")
        page.get_by_label("Password").fill(factories.PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.locator("input[name=job]").first.check()
        page.get_by_role("button", name="Retry").click()
        page.get_by_role("button", name="Retry 12").click()
        expect(page.get_by_text("12 objects are due again.")).to_be_visible()
        page.goto(f"{live_server.url}/studies/{story.pk}/")
        page.get_by_label("Destination").select_option("research")
        page.get_by_role("button", name="Explain").click()
        expect(page.get_by_text("Not chosen for research")).to_be_visible()
