"""A destination that answers late, within its deadline, is neither lost nor sent to twice."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from router.destinations import KINDS
from router.models import Attempt, AttemptOutcome, ItemState, JobItem
from router.services import claims, delivery
from tests import deliveries, factories
from tests.sinks import Script, Sink

LEASE = timedelta(seconds=0.4)


@pytest.fixture(autouse=True)
def _short_leases(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    monkeypatch.setattr(claims, "LEASE", LEASE)
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.05)


@pytest.fixture
def sweeping() -> Iterator[None]:
    """Take back expired leases all the while, as the sweep does."""
    done = threading.Event()

    def sweep() -> None:
        while not done.wait(0.05):
            delivery.recover_lost()
        connection.close()

    thread = threading.Thread(target=sweep)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.mark.django_db(transaction=True)
def test_the_lease_lasts_while_an_answer_is_awaited(sweeping: None, tmp_path: Path) -> None:
    with Sink(Script(delay=4 * LEASE.total_seconds())) as sink:
        pacs = deliveries.node(sink.settings)
        deliveries.chosen(pacs, tmp_path, 1)

        assert delivery.drain(pacs.pk, 0, stop=lambda: False) == 1

    assert len(sink.objects) == 1
    assert JobItem.objects.get().state == ItemState.DELIVERED
    assert Attempt.objects.get().outcome == AttemptOutcome.SUCCESS


@pytest.mark.django_db(transaction=True)
def test_the_lease_lasts_while_a_system_call_takes_long(
    sweeping: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes longer than a lease to make a file durable costs nobody the lease."""

    def fsync(descriptor: int) -> None:
        time.sleep(2 * LEASE.total_seconds())
        os.fdatasync(descriptor)

    form = KINDS["folder"].form({"path": str(tmp_path / "out"), "layout": "{SOPInstanceUID}.dcm"})
    assert form.is_valid(), form.errors
    disk = factories.destination(kind="folder", settings=form.cleaned_data)
    deliveries.chosen(disk, tmp_path, 1)
    monkeypatch.setattr(os, "fsync", fsync)

    assert delivery.drain(disk.pk, 0, stop=lambda: False) == 1

    assert JobItem.objects.get().state == ItemState.DELIVERED
    assert Attempt.objects.get().outcome == AttemptOutcome.SUCCESS
