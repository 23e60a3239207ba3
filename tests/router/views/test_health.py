"""Addresses for machines."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from pytest_django.fixtures import Settings

from router.models import Study
from router.services import clock, users
from router.services.actors import SYSTEM
from tests import factories

ClientFor = Callable[..., Client]


@pytest.mark.django_db
def test_lives(client: Client) -> None:
    assert client.get("/healthz").content == b"ok"


@pytest.fixture
def ready(db: None) -> None:
    """Let receiver and worker give a sign of life."""
    factories.heartbeat("receiver")
    factories.heartbeat("worker")


@pytest.mark.django_db
def test_is_ready_when_every_part_is(client: Client, ready: None) -> None:
    got = client.get("/readyz")

    assert (got.status_code, got.json()) == (200, {"status": "ready"})


@pytest.mark.django_db
@pytest.mark.parametrize("silent", ["receiver", "worker"])
def test_is_not_ready_without_a_process(client: Client, ready: None, silent: str) -> None:
    from router.models import Heartbeat

    old = clock.now() - timedelta(seconds=31)
    Heartbeat.objects.filter(role=silent).update(at=old)

    got = client.get("/readyz")

    assert (got.status_code, got.json()) == (503, {"status": "not ready"})


@pytest.mark.django_db
def test_is_not_ready_when_the_disk_is_full(
    client: Client, ready: None, settings: Settings
) -> None:
    settings.DISK_REFUSE = 1 << 60

    assert client.get("/readyz").status_code == 503


@pytest.mark.django_db
def test_is_not_ready_when_the_storage_is_no_folder(
    client: Client, ready: None, settings: Settings, tmp_path: Path
) -> None:
    from router import storage

    blocked = tmp_path / "file"
    blocked.write_text("")
    settings.STORAGE_URL = f"file://{blocked}/objects"
    storage.objects.cache_clear()
    try:
        assert client.get("/readyz").status_code == 503
    finally:
        storage.objects.cache_clear()


@pytest.mark.django_db
def test_metrics_count_the_ledger_without_patients(client_for: ClientFor, story: Study) -> None:
    text = client_for("operator").get("/metrics").content.decode()
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    assert found["router_items", "pacs-2", "parked"] == 36
    assert found["router_items", "research", "waiting"] == 36
    assert found["router_quarantined_objects",] == 2
    assert found["router_unmatched_objects",] == 5
    assert found["router_oldest_undelivered_seconds", "research"] >= 0
    assert found["router_objects_total", "received"] > 1000
    assert "Okafor" not in text
    assert "ACC0" not in text


@pytest.mark.django_db
@pytest.mark.parametrize(("scopes", "status"), [(["metrics:read"], 200), (["dicomweb:read"], 403)])
def test_metrics_need_the_scope(
    client: Client, roles: None, scopes: list[str], status: int
) -> None:
    factories.user("scraper", role="service")
    token = users.create_token("scraper", scopes=scopes, actor=SYSTEM)

    got = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})

    assert got.status_code == status
