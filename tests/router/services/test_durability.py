"""A database that forgets is refused in production."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from router.services import durability


def _weaken() -> None:
    sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=NORMAL" if sqlite else "SET synchronous_commit = off")


@pytest.mark.django_db(transaction=True)
def test_refuses_a_database_that_loses_commits(
    settings: Any,
) -> None:  # Any: pytest-django has no type
    settings.PRODUCTION = True
    _weaken()
    try:
        with pytest.raises(ImproperlyConfigured, match="synchronous"):
            durability.refuse_unsafe_database()
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_development_is_not_asked(settings: Any) -> None:  # Any: pytest-django has no type
    settings.PRODUCTION = False
    _weaken()
    try:
        durability.refuse_unsafe_database()
        assert durability.problems()
    finally:
        connection.close()
