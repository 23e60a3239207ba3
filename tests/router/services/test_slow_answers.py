"""A destination that answers late, within its deadline, is neither lost nor sent to twice."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from router.models import Attempt, AttemptOutcome, ItemState, JobItem, LaneSlot
from router.services import delivery, results
from router.services.results import LeaseLost
from tests import deliveries
from tests.sinks import Script, Sink

LEASE = timedelta(seconds=0.4)


@pytest.fixture(autouse=True)
def _short_leases(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    monkeypatch.setattr(results, "LEASE", LEASE)
    monkeypatch.setattr(results, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(results, "seconds", lambda _text: 0.0)  # no time for the connection


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


@pytest.mark.django_db
def test_items_that_were_taken_back_in_part_end_the_sending(tmp_path: Path) -> None:
    """What another worker holds now must not leave from here too."""
    with Sink() as sink:
        pacs = deliveries.node(sink.settings)
        first, second = deliveries.chosen(pacs, tmp_path, 2, state=ItemState.LEASED, owner="me")
        slot = LaneSlot.objects.create(destination=pacs, number=0, owner="me")
        claim = results.Claim("me", slot, pacs, {first.pk: first, second.pk: second})
        claim.renewed -= 60
        claim.progress(1)

        JobItem.objects.filter(pk=second.pk).update(owner="another")
        claim.renewed -= 60

        with pytest.raises(LeaseLost):
            claim.must_end()
