"""A database that is away for a while: what was to be written is written once it is back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import InterfaceError, OperationalError, connections, transaction
from pynetdicom import evt
from pytest_django import Settings

from router import tasks
from router.models import AttemptOutcome, ItemState, JobItem, LaneSlot
from router.services import claims, delivery, heartbeats, outages, upkeep
from tests import deliveries
from tests.outages import outage
from tests.sinks import Sink

SECONDS = 0.8


class _Telling(Sink):
    """A sink that tells when an object has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.got = threading.Event()

    def _on_store(self, event: evt.Event) -> int:
        self.got.set()
        return super()._on_store(event)


def _failing(times: int, error: type[Exception]) -> Callable[[], str]:
    left = [error("away")] * times

    def write() -> str:
        if left:
            raise left.pop()
        return "written"

    return write


@pytest.mark.django_db(transaction=True)
def test_results_that_could_not_be_written_in_mid_send_are_kept(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    with _Telling() as sink:
        pacs = deliveries.node(sink.settings)
        items = deliveries.chosen(pacs, tmp_path, 3)
        with outage(sink.got, seconds=SECONDS):
            assert delivery.drain(pacs.pk, 0, stop=lambda: False) == 3
    assert "delivery.database_away" in caplog.messages
    assert len(sink.objects) == 3
    for item in JobItem.objects.filter(pk__in=[one.pk for one in items]):
        assert (item.state, item.lost, item.fence) == (ItemState.DELIVERED, 0, 1)
        assert item.attempts.get().outcome == AttemptOutcome.SUCCESS
    assert LaneSlot.objects.get().owner == ""


@contextmanager
def _sweep_once(after: threading.Event) -> Iterator[None]:
    """Sweep once, as soon as the database allows it."""

    def sweep() -> None:
        after.wait(30)
        time.sleep(0.2)  # by now it is away
        tasks.sweep()
        connections.close_all()

    heartbeats.beat("sweep")
    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.django_db(transaction=True)
def test_what_was_delivered_in_an_outage_longer_than_a_lease_is_not_sent_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to come when the database is back is a sweep; the drain looks twice a second."""
    monkeypatch.setattr(claims, "LEASE", timedelta(seconds=1.5))
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "SWEEP_SILENT", timedelta(seconds=1))
    deliveries.fresh_storage(settings, tmp_path)
    with _Telling() as sink:
        pacs = deliveries.node(sink.settings)
        deliveries.chosen(pacs, tmp_path, 3)
        with outage(sink.got, seconds=2.8), _sweep_once(sink.got):
            assert delivery.drain(pacs.pk, 0, stop=lambda: False) == 3
    assert len(sink.objects) == 3
    for item in JobItem.objects.all():
        assert (item.state, item.lost, item.fence) == (ItemState.DELIVERED, 0, 1)
        assert item.attempts.get().outcome == AttemptOutcome.SUCCESS


@pytest.mark.django_db(transaction=True)
def test_a_slot_is_left_although_the_database_is_away_just_then(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries.fresh_storage(settings, tmp_path)
    begun = threading.Event()

    def stop() -> bool:
        begun.set()
        return False

    with Sink() as sink, outage(begun, seconds=SECONDS), suppress(OperationalError):
        pacs = deliveries.node(sink.settings)
        delivery.drain(pacs.pk, 0, stop=stop)
    assert "delivery.database_away" in caplog.messages
    assert LaneSlot.objects.get().owner == ""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_insists_until_it_is_written(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "PAUSE_SECONDS", 0.0)
    assert outages.insist(_failing(3, error), give_up=lambda: False) == "written"


@pytest.mark.django_db(transaction=True)
def test_gives_up_when_told() -> None:
    with pytest.raises(OperationalError):
        outages.insist(_failing(1, OperationalError), give_up=lambda: True)


@pytest.mark.django_db(transaction=True)
def test_never_repeats_a_part_of_a_transaction() -> None:
    write = _failing(1, OperationalError)
    with pytest.raises(OperationalError), transaction.atomic():
        outages.insist(write, give_up=lambda: False)
    assert write() == "written"


@pytest.mark.django_db(transaction=True)
def test_a_mistake_of_ours_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="away"):
        outages.insist(_failing(1, ValueError), give_up=lambda: False)
