"""The reckoning sees one moment: what is stored while it counts is no gap."""

import threading
from collections.abc import Iterator

import pytest
from django.db import connection

from router.models import Instance, Receipt, ReceiptOutcome
from router.services import indexing, reckoning, routing
from tests.intake import Site, image

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def traffic(site: Site) -> Iterator[threading.Event]:
    """Store, repeat and route objects all the while; the event is set once some are in."""
    running, done = threading.Event(), threading.Event()

    def store() -> None:
        number = 0
        while not done.is_set():
            number += 1
            indexing.index(site.take(image(number, study=number % 3), image(1, study=1)))
            routing.route_batch()
            if number == 3:
                running.set()
        connection.close()

    thread = threading.Thread(target=store)
    thread.start()
    yield running
    done.set()
    thread.join()


def test_finds_no_gap_while_objects_come_in(site: Site, traffic: threading.Event) -> None:
    assert traffic.wait(20)
    before = Instance.objects.count()

    gaps = [gap for _round in range(5) for gap in reckoning.reckon(deep=True).gaps]

    assert gaps == []
    assert Instance.objects.count() > before
    assert Receipt.objects.filter(outcome=ReceiptOutcome.DUPLICATE).exists()


def test_leaves_the_database_open_for_writing(site: Site) -> None:
    indexing.index(site.take(image(1)))
    reckoning.reckon()

    indexing.index(site.take(image(2)))

    assert Instance.objects.count() == 2
