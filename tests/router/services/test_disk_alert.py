"""A volume that fills up: readiness, metrics and dashboard say the same, to whom it concerns."""

from collections.abc import Callable
from pathlib import Path

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from router.services import health, metrics
from tests import factories

pytestmark = pytest.mark.django_db
ClientFor = Callable[..., Client]
EVERYTHING = 1 << 62  # bytes: no volume has as much


@pytest.mark.parametrize(
    ("slow", "refuse", "state"),
    [(0, 0, "open"), (EVERYTHING, 0, "slow"), (EVERYTHING, EVERYTHING, "refuse")],
)
def test_metrics_and_readiness_say_what_intake_does(
    settings: Settings, slow: int, refuse: int, state: str
) -> None:
    settings.DISK_SLOW, settings.DISK_REFUSE = slow, refuse
    text = metrics.render().decode()
    for one in ("open", "slow", "refuse"):
        assert f'router_intake{{state="{one}"}} {float(one == state)}' in text
    assert "router_disk_free_bytes " in text
    assert f'router_disk_mark_bytes{{intake="refuse"}} {float(refuse):.15g}'[:45] in text
    assert health.disk() == (state != "refuse")


@pytest.mark.parametrize(
    ("refuse", "sentence"), [(0, b"intake is slowed"), (EVERYTHING, b"new objects are refused")]
)
def test_the_dashboard_tells_those_who_may_see_health(
    settings: Settings, client_for: ClientFor, refuse: int, sentence: bytes
) -> None:
    settings.DISK_SLOW, settings.DISK_REFUSE = EVERYTHING, refuse
    factories.audit_event(event="intake.disk")
    assert sentence in client_for("administrator").get("/").content
    settings.DISK_SLOW = settings.DISK_REFUSE = 0
    assert sentence not in client_for("administrator").get("/").content


def test_the_fullest_volume_counts(settings: Settings, tmp_path: Path) -> None:
    settings.SPOOL_DIR = Path("/dev/shm")
    found = health.fullest_volume()
    settings.SPOOL_DIR = tmp_path / "not made yet"
    assert found.free <= health.fullest_volume().free
