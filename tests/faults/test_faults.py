"""The short form of `make prove`: some crash points and some faults of the network, one product."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.faults.crash import await_death, begin
from tests.faults.cuts import cut
from tests.faults.network import inbound, outbound
from tests.faults.site import Site

POINTS = (
    "deliver.after_send",
    "deliver.after_attempts",
    "receive.after_rename",
    "receive.before_reply",
    "index.after_commit",
    "index.between_moves",
    "route.before_commit",
)
pytestmark = [pytest.mark.database, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A product with its far ends."""
    folder = tmp_path_factory.mktemp("faults")
    with Site(folder, server=os.environ.get("DATABASE_URL", "")) as running:
        yield running


def test_deaths_at_crash_points_lose_nothing(site: Site) -> None:
    for number, point in enumerate(POINTS):
        begin(site, point, random.Random(number))
        await_death(site, point)
    account = site.settle(deep=True)
    assert account.acknowledged == len(site.books.made)
    assert account.uncertain > 0, "a worker died while it was sending, and nobody wrote it down"


def test_a_bad_line_to_a_far_end_loses_nothing(site: Site) -> None:
    account = outbound(site, "reset the answer", random.Random(3))
    assert account.acknowledged == len(site.books.made)


def test_a_bad_line_from_a_modality_loses_nothing(site: Site) -> None:
    account = inbound(site, "reset", random.Random(4))
    assert account.acknowledged == len(site.books.made)


def test_cuts_beside_pdu_boundaries_lose_nothing(site: Site) -> None:
    cut(site, "in down 2 -1", random.Random(5))
    account = cut(site, "out up 3 +1", random.Random(6))
    assert account.acknowledged == len(site.books.made)
