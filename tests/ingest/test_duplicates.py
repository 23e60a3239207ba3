"""The look-up for sources whose duplicates are refused (`ingest.receiver.find_duplicate`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection

from ingest.handlers import LookupUnavailable
from ingest.receiver import find_duplicate
from router.models import InstanceState
from router.services import archive
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)  # a look-up may open a new connection


@pytest.fixture(autouse=True)
def _empty_spool(settings: Any, tmp_path: Path) -> None:  # Any: pytest-django has no type
    settings.SPOOL_DIR = tmp_path / "spool"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "same"),
        ({"sha256": "0" * 64}, "other"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2"}, "other"),
        ({"sop_instance_uid": "1.2.3"}, "no"),
    ],
)
def test_same_means_same_syntax_and_same_bytes(change: dict[str, str], found: str) -> None:
    known = factories.instance()
    asked = {
        name: change.get(name, getattr(known, name))
        for name in ("sop_instance_uid", "transfer_syntax_uid", "sha256")
    }
    assert find_duplicate(*asked.values()) == found


def test_what_was_purged_is_unknown() -> None:
    known = factories.instance(state=InstanceState.PURGED)
    assert find_duplicate(known.sop_instance_uid, "1.2", "0" * 64) == "no"


def test_what_is_acknowledged_but_not_indexed_keeps_the_answer_back(
    settings: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SPOOL_DIR = tmp_path  # type: ignore[attr-defined]
    folder = tmp_path / "inbox" / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / "waiting.dcm").touch()
    monkeypatch.setattr(archive.settled, "__defaults__", (0.1,))
    with pytest.raises(LookupUnavailable):
        find_duplicate("1.2.3", "1.2", "0" * 64)


def test_a_database_that_is_away_is_said() -> None:
    def refuse(execute: Callable[..., object], *arguments: object) -> object:
        raise OperationalError("away")

    with connection.execute_wrapper(refuse), pytest.raises(LookupUnavailable):
        find_duplicate("1.2.3", "1.2", "0" * 64)
