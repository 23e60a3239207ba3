"""A turn is one process's at a time, and ends with it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from router.services.turns import one_of, turn

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _folder(settings: Any, tmp_path: Path) -> None:  # Any: pytest-django has no type
    settings.DATA_DIR = tmp_path


def _elsewhere(name: str) -> bool:
    """Ask for a turn on another connection."""

    def ask() -> bool:
        try:
            with turn(name) as is_mine:
                return is_mine
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def test_one_at_a_time() -> None:
    with turn("route") as is_mine:
        assert is_mine
        assert _elsewhere("route") is False
        assert _elsewhere("another") is True
    assert _elsewhere("route") is True


def test_a_failure_ends_the_turn() -> None:
    with pytest.raises(ZeroDivisionError), turn("route"):
        raise ZeroDivisionError
    assert _elsewhere("route") is True


def test_a_turn_not_given_is_not_taken_away() -> None:
    with turn("route"):
        assert not _elsewhere("route")
        assert not _elsewhere("route")


def test_of_several_turns_each_is_one_s() -> None:
    with one_of("prove", 2) as first, turn("prove-1") as second:
        assert (first, second) == (True, True)
        with one_of("prove", 1) as again:
            assert again is (connection.vendor == "postgresql")  # the same connection's own lock
        assert _elsewhere("prove-0") is False
        assert _elsewhere("prove-1") is False
    assert _elsewhere("prove-0") is True


def test_a_lost_connection_ends_the_turn() -> None:
    with turn("route") as is_mine:
        assert is_mine
        if connection.vendor == "postgresql":
            connection.close()
            assert _elsewhere("route") is True
    assert _elsewhere("route") is True
