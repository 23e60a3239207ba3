"""``wait_idle``: 0 when nothing is left to do now, 1 with what is left."""

import io
import threading
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from router.models import ItemState, LaneState
from router.services import clock, indexing, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db


def _wait(seconds: float = 0.0) -> str:
    out = io.StringIO()
    call_command("wait_idle", "--timeout", str(seconds), stdout=out)
    return out.getvalue()


def _left() -> str:
    with pytest.raises(CommandError) as caught:
        _wait()
    assert caught.value.returncode == 1
    return str(caught.value)


def test_an_empty_router_is_idle(site: Site) -> None:
    assert _wait() == "idle\n"


def test_the_inbox_counts(site: Site) -> None:
    site.take(image(1), image(2))
    assert _left() == "not idle: 2 objects in the inbox"


def test_marks_and_due_items_count(site: Site) -> None:
    factories.destination("pacs")
    factories.rule("all", send=["pacs"])
    indexing.index(site.take(image(1)))
    assert "1 undecided marks" in _left()
    routing.route_batch()
    assert _left() == "not idle: 1 due items"


def test_items_being_sent_count(site: Site) -> None:
    factories.item(state=ItemState.LEASED, lease_until=clock.now() + timedelta(minutes=1))
    assert "1 items being sent" in _left()


def test_due_timers_count_and_others_do_not(site: Site) -> None:
    factories.destination("pacs")
    factories.rule("quiet", send=["pacs"], trigger="study", quiet_seconds=60)
    indexing.index(site.take(image(1)))
    routing.route_batch()
    assert _wait() == "idle\n"
    with clock.shifted(timedelta(seconds=61)):
        assert "1 quiet timers due" in _left()


@pytest.mark.parametrize(
    "state", [s for s in LaneState if s not in {LaneState.OPEN, LaneState.BACKOFF}]
)
def test_what_a_person_must_release_does_not_count(site: Site, state: LaneState) -> None:
    destination = factories.destination("pacs", lane={"state": state})
    factories.item(factories.job(destination=destination))
    assert _wait() == "idle\n"


def test_waits_until_it_is_done(site: Site) -> None:
    (spooled,) = site.take(image(1))
    timer = threading.Timer(0.5, spooled.path.unlink)
    timer.start()
    assert _wait(30) == "idle\n"
    timer.join()
