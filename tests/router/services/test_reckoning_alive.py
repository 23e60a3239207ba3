"""The reckoning sees one moment: what is stored while it counts is no gap."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from django.db import connection

from router.models import Decision, Instance
from router.services import indexing, reckoning, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db(transaction=True)

Store = Callable[[], None]


@pytest.fixture
def store(site: Site) -> Iterator[Store]:
    """Return a function that stores, repeats and routes objects in another thread."""
    factories.rule(send=[factories.destination().name])
    numbers = count(1)

    def work() -> None:
        number = next(numbers)
        indexing.index(site.take(image(number, study=number % 3), image(1, study=1)))
        routing.route_batch()
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        yield lambda: pool.submit(work).result()


def test_finds_no_gap_while_objects_come_in_between_its_questions(store: Store) -> None:
    def first_store(execute: Callable[..., Any], *question: Any) -> Any:  # Any: Django's wrapper
        store()
        return execute(*question)

    store()
    with connection.execute_wrapper(first_store):
        found = reckoning.reckon(deep=True)

    assert found.gaps == []
    assert Instance.objects.count() > 10
    assert Decision.objects.count() > 10


def test_leaves_the_database_open_for_writing(site: Site) -> None:
    indexing.index(site.take(image(1)))
    reckoning.reckon()

    indexing.index(site.take(image(2)))

    assert Instance.objects.count() == 2
