"""Options of the test suite: ``--database-only``, what runs a second time on PostgreSQL.

``tests/conftest.py`` loads this module through ``pytest_plugins``. It selects tests and nothing
else: fixtures and factories live in ``conftest.py`` and ``factories.py``.
"""

import pytest
from django.test import TransactionTestCase

DATABASE_FIXTURES = frozenset(
    {"db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback"}
    | {"admin_user", "admin_client", "live_server"}
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--database-only``."""
    parser.addoption(
        "--database-only",
        action="store_true",
        help="run only the tests that use the database (the second run, on PostgreSQL)",
    )


def uses_database(item: pytest.Item) -> bool:
    """Tell whether ``item`` touches the database, here or in a process that it starts."""
    if item.get_closest_marker("django_db") or item.get_closest_marker("database"):
        return True
    if not DATABASE_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return True
    test_class = getattr(item, "cls", None)
    return test_class is not None and issubclass(test_class, TransactionTestCase)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what does not use the database when ``--database-only`` is given."""
    if not config.getoption("--database-only"):
        return
    deselected = [item for item in items if not uses_database(item)]
    items[:] = [item for item in items if uses_database(item)]
    config.hook.pytest_deselected(items=deselected)
