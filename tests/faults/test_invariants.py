"""The rules of the ledger: quiet in health, and each one that is broken is named."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings

from router.models import ItemState, Lane, LaneState
from router.services import clock
from tests import factories
from tests.faults.invariants import Invariants

LONG = timedelta(hours=1)
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def invariants(tmp_path: Path) -> Invariants:
    """Read the database of this test run."""
    where = settings.DATABASES["default"]
    if "sqlite" not in where["ENGINE"]:
        user, host, port = where["USER"], where["HOST"], where["PORT"]
        return Invariants(f"postgres://{user}@{host}:{port}/{where['NAME']}", tmp_path)
    (tmp_path / "router.sqlite3").symlink_to(where["NAME"])
    return Invariants("", tmp_path)


def _old(tmp_path: Path, name: str) -> None:
    path = tmp_path / "spool/inbox/0123" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def _undecided() -> None:
    factories.mark(decision=None, created_at=clock.now() - LONG)


def _unmarked() -> None:
    factories.instance(received_at=clock.now() - LONG)


def _lease() -> None:
    item = factories.item(state=ItemState.LEASED, lease_until=clock.now() - LONG)
    factories.mark(instance=item.instance)


def _parked() -> None:
    factories.mark(instance=factories.item(state=ItemState.PARKED).instance)


def _nobodys() -> None:
    item = factories.item(state=ItemState.PENDING, created_at=clock.now() - LONG)
    factories.mark(instance=item.instance)
    Lane.objects.get_or_create(destination=item.destination)


def _hanging() -> None:
    item = factories.item(state=ItemState.DELIVERED, finished_at=clock.now())
    factories.mark(instance=item.instance)
    factories.attempt(item, outcome="", started_at=clock.now() - LONG)


def _stopped() -> None:
    lane, _ = Lane.objects.get_or_create(destination=factories.destination())
    Lane.objects.filter(pk=lane.pk).update(state=LaneState.STOPPED)


BREAKS: dict[str, Callable[[], None]] = {
    "objects without a decision": _undecided,
    "objects without a mark": _unmarked,
    "leases that ran out and stand": _lease,
    "items that wait for a person": _parked,
    "due items that nobody takes": _nobodys,
    "attempts that never ended": _hanging,
    "lanes that stopped": _stopped,
}


@pytest.mark.parametrize("what", BREAKS)
def test_names_what_is_broken(what: str, invariants: Invariants) -> None:
    BREAKS[what]()
    assert invariants.broken() == {what: 1}


def test_names_what_stays_in_the_spool(tmp_path: Path, invariants: Invariants) -> None:
    _old(tmp_path, "a.dcm")
    assert invariants.broken() == {"objects that stay in the inbox": 1}
    assert invariants.backlog() == 1


def test_names_a_part_that_was_left(tmp_path: Path, invariants: Invariants) -> None:
    _old(tmp_path, "a.part")
    assert invariants.broken() == {"parts that were left": 1}


def test_a_name_made_ahead_is_no_half_object(tmp_path: Path, invariants: Invariants) -> None:
    _old(tmp_path, "a.part")
    path = tmp_path / "spool/inbox/0123/a.part"
    path.write_bytes(b"")
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    assert invariants.broken() == {}


def test_says_nothing_of_work_in_hand(invariants: Invariants) -> None:
    factories.mark(decision=None, instance=factories.item(state=ItemState.PENDING).instance)
    leased = factories.item(state=ItemState.LEASED, lease_until=clock.now() + LONG)
    factories.mark(instance=leased.instance)
    factories.attempt(leased, outcome="", started_at=clock.now() - LONG)
    assert invariants.broken() == {}
