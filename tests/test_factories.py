"""Each factory makes a row that the database accepts, together with what it hangs on."""

from collections.abc import Callable

import pytest
from django.db.models import Model

from tests import factories

FACTORIES: list[Callable[[], Model]] = [
    factories.association,
    factories.attempt,
    factories.audit_event,
    factories.decision,
    factories.destination,
    factories.heartbeat,
    factories.hour_count,
    factories.instance,
    factories.item,
    factories.job,
    factories.mark,
    factories.receipt,
    factories.revision,
    factories.role,
    factories.rule,
    factories.series,
    factories.source,
    factories.study,
    factories.user,
]


@pytest.mark.django_db
@pytest.mark.parametrize("factory", FACTORIES)
def test_factory_makes_a_row(factory: Callable[[], Model]) -> None:
    row = factory()

    assert type(row).objects.filter(pk=row.pk).exists()  # type: ignore[attr-defined]
