"""Windows: weekdays and times of a zone, past midnight and over a change of summer time."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError

from router.destinations import KINDS
from router.destinations.windows import WindowsField, is_open, opens_at

NIGHT = {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "22:00", "to": "06:00"}
BERLIN = [NIGHT | {"zone": "Europe/Berlin"}]

EVER = [{"from": "00:00", "to": "00:00", "zone": "UTC"}]


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-01-05T20:59", "2026-01-05T21:00"),  # Monday, winter: 22:00 is 21:00 UTC
        ("2026-01-05T21:00", None),
        ("2026-01-06T04:59", None),
        ("2026-01-06T05:00", "2026-01-06T21:00"),
        ("2026-01-10T04:59", None),  # Saturday morning belongs to Friday
        ("2026-01-10T05:00", "2026-01-12T21:00"),  # the weekend
        ("2026-07-06T19:59", "2026-07-06T20:00"),  # summer: 22:00 is 20:00 UTC
        ("2026-07-07T03:59", None),
        ("2026-07-07T04:00", "2026-07-07T20:00"),
    ],
)
def test_follows_the_clock_on_the_wall(now: str, opens: str | None) -> None:
    assert opens_at(BERLIN, _utc(now)) == (_utc(opens) if opens else None)
    assert is_open(BERLIN, _utc(now)) is (opens is None)


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 1), ("2026-10-25", 3), ("2026-05-03", 2)]
)
def test_a_change_of_summer_time_makes_a_window_shorter_or_longer(day: str, hours: int) -> None:
    window = [{"days": ["sun"], "from": "01:30", "to": "03:30", "zone": "Europe/Berlin"}]
    evening = _utc(f"{day}T00:00") - timedelta(hours=4)
    minutes = [evening + timedelta(minutes=n) for n in range(12 * 60)]
    assert sum(is_open(window, moment) for moment in minutes) == hours * 60


def test_without_windows_it_is_always_open() -> None:
    assert is_open([], _utc("2026-01-05T12:00"))
    assert opens_at([], _utc("2026-01-05T12:00")) is None


def test_the_file_gives_them_and_gets_them_back() -> None:
    given = {"path": "/srv/out", "windows": BERLIN, "ordered": True, "alarm_age": "2h"}
    given |= {"objects_per_second": 2.5, "bytes_per_second": 1_000_000}
    form = KINDS["folder"].form(given)
    assert form.is_valid(), form.errors
    assert form.export() == given
    assert KINDS["folder"].form(form.cleaned_data).is_valid()


def test_a_page_shows_them_as_text_and_takes_them_back() -> None:
    field = WindowsField()
    text = field.prepare_value(field.clean([*BERLIN, *EVER]))
    assert text == (
        "mon tue wed thu fri 22:00-06:00 Europe/Berlin; mon tue wed thu fri sat sun 00:00-00:00 UTC"
    )
    assert field.clean(text) == field.clean([*BERLIN, *EVER])
    assert field.clean("00:00-00:00 UTC") == field.clean(EVER)
    assert field.clean(" ") == []
    assert field.prepare_value("typed") == "typed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"from": "22:00", "to": "06:00"},
        {"from": "22:00", "to": "06:00", "zone": "Mars/Olympus"},
        {"from": "24:00", "to": "06:00", "zone": "UTC"},
        {"from": 1320, "to": "06:00", "zone": "UTC"},
        {"from": "22:00", "zone": "UTC"},
        {"from": "22:00", "to": "06:00", "zone": "UTC", "days": []},
        {"from": "22:00", "to": "06:00", "zone": "UTC", "days": ["monday"]},
        {"from": "22:00", "to": "06:00", "zone": "UTC", "until": "x"},
        {"from": "22:00", "to": "06:00", "zone": "../etc"},
        "22:00-06:00",
    ],
)
def test_refuses_what_is_no_window(wrong: object) -> None:
    with pytest.raises(ValidationError):
        WindowsField().clean([wrong])


@pytest.mark.parametrize("typed", ["22:00", "mon 22:00 UTC", "someday 22:00-06:00 UTC", "mon UTC"])
def test_refuses_text_that_is_no_window(typed: str) -> None:
    with pytest.raises(ValidationError, match=r"expected|days is|in quotes"):
        WindowsField().clean(typed)
