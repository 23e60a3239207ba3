"""Destinations for programs: the state of each lane, and never a setting."""

import pytest
from django.test import Client

from router.models import ItemState, LaneState
from tests import factories
from tests.router.api.conftest import ProgramFor

ALL = "/api/v1/destinations"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def pacs() -> None:
    stopped = {"state": LaneState.STOPPED, "reason": "It rejects our AE title."}
    row = factories.destination("pacs", settings={"password": "hunter2"}, lane=stopped)
    job = factories.job(destination=row)
    for state in (ItemState.PENDING, ItemState.PARKED, ItemState.HELD):
        factories.item(job, state=state)
    factories.destination("disk", removed=True)


def test_tells_the_state_and_what_waits(program: Client) -> None:
    (told,) = program.get(ALL).json()
    assert (told["name"], told["state"], told["reason"]) == (
        "pacs", "stopped", "It rejects our AE title.",
    )  # fmt: skip
    assert (told["waiting"], told["needs_attention"], told["held"]) == (1, 1, 1)
    assert program.get(f"{ALL}/pacs").json() == told
    assert program.get(f"{ALL}/disk").status_code == 404


def test_counts_within_the_limit(program_for: ProgramFor) -> None:
    (told,) = program_for("service", sources=["mr-1"]).get(ALL).json()
    assert (told["waiting"], told["needs_attention"], told["held"]) == (0, 0, 0)


def test_no_setting_is_told(program: Client) -> None:
    assert b"hunter2" not in program.get(ALL).content
