"""Replays in a real browser: from the form to the yes, live, legible, on small screens."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from router.models import ItemState, JobItem, Replay, ReplayState
from tests.browser.seed import replays, seed
from tests.browser.test_console import LOW_CONTRAST, NAMELESS
from tests.replaying import advance, plan

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def pages(transactional_db: None, settings: Settings) -> list[str]:
    """Fill the database and return the addresses of replays; the plan is one to type for."""
    settings.REPLAY_TYPED_ABOVE = 5
    study, made = seed(), replays()
    keys = [made[state].pk for state in ("planned", "running", "done")]
    return [
        *("/replays/", "/replays/new/?destination=archive&only=missing"),
        f"/replays/new/?job={study.jobs.earliest('pk').pk}",
        *(f"/replays/{pk}/" for pk in keys),
        *(f"/replays/{pk}/cancel/" for pk in keys),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 360])
def test_every_page_is_legible_and_whole(
    pages: list[str],
    console: Page,
    live_server: LiveServer,
    tmp_path: Path,
    scheme: str,
    width: int,
) -> None:
    console.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    console.set_viewport_size({"width": width, "height": 900 if width > 400 else 780})
    for number, where in enumerate(pages):
        console.goto(live_server.url + where)
        console.wait_for_timeout(200)
        console.screenshot(path=tmp_path / f"{scheme}-{width}-{number}.png", full_page=True)
        assert console.evaluate(LOW_CONTRAST) == [], where
        assert console.evaluate(NAMELESS) == [], where
        assert console.evaluate(WIDER) <= 0, where


def test_from_the_list_to_the_yes_and_live_to_its_end(
    transactional_db: None, console: Page, live_server: LiveServer
) -> None:
    seed()
    console.get_by_role("link", name="Replays").click()
    expect(console.get_by_text("Nothing was sent once more yet")).to_be_visible()
    console.get_by_role("link", name="Plan a replay").first.click()
    console.get_by_label("Destination", exact=True).select_option("archive")
    console.get_by_label("Everything").check()
    console.get_by_role("button", name="Plan it").click()
    expect(console.get_by_text("being planned")).to_be_visible()

    replay = plan(Replay.objects.get())
    button = console.get_by_role("button", name="Send 108 objects to archive")
    expect(button).to_be_visible(timeout=15_000)
    assert not JobItem.objects.filter(cause="replay").exists()
    button.click()
    expect(console.get_by_text(f"Replay {replay.pk} runs")).to_be_visible()

    advance(replay)
    expect(console.get_by_text("25 waiting")).to_be_visible(timeout=15_000)
    JobItem.objects.filter(cause="replay").update(state=ItemState.DELIVERED)
    expect(console.get_by_text("25 delivered")).to_be_visible(timeout=15_000)
    console.get_by_role("button", name="Pause").click()
    expect(console.get_by_role("button", name="Resume")).to_be_visible()
    console.get_by_role("link", name="Cancel").click()
    console.get_by_role("button", name="Give up 83 objects").click()
    advance(replay)
    expect(console.get_by_text("83 not sent after all")).to_be_visible(timeout=15_000)
    replay.refresh_from_db()
    assert replay.state == ReplayState.CANCELLED
    with console.expect_download() as taken:
        console.get_by_role("link", name="Report CSV").click()
    assert len(Path(taken.value.path()).read_text().splitlines()) == 109


def test_the_number_of_studies_is_typed_while_the_page_lives(
    pages: list[str], console: Page, live_server: LiveServer
) -> None:
    planned = Replay.objects.get(state=ReplayState.PLANNED)
    console.goto(f"{live_server.url}/replays/{planned.pk}/")
    console.get_by_label("type their number to confirm").fill("8")
    console.get_by_role("button", name="Send 100 objects").click()
    expect(console.get_by_text("type their number, 9, to confirm")).to_be_visible()
    console.get_by_label("type their number to confirm").fill("9")
    console.get_by_role("button", name="Send 100 objects").click()
    expect(console.get_by_text("runs: 100 objects to be sent")).to_be_visible()


def test_ticked_jobs_are_taken_to_the_form(
    transactional_db: None, console: Page, live_server: LiveServer
) -> None:
    seed()
    console.goto(f"{live_server.url}/jobs/?state=parked")
    for box in console.locator("input[name=job]").all()[:2]:
        box.check()
    console.get_by_role("button", name="Replay").click()
    expect(console.get_by_text("2 jobs chosen in the list of jobs")).to_be_visible()
    expect(console.get_by_label("What failed")).to_be_checked()
