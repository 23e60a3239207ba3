"""What needs attention: destinations that stand still, or fail while objects wait for long."""

from datetime import timedelta

import pytest

from router.models import ItemState, JobItem, Lane, LaneState
from router.services import clock, overview
from tests import factories

pytestmark = pytest.mark.django_db
REASON = "pacs: the connection was refused; nothing listens there."


def _waiting(*, minutes: int, **lane: object) -> None:
    """Let one object wait for a destination whose lane is as given."""
    item = factories.item(state=ItemState.WAITING)
    since = clock.now() - timedelta(minutes=minutes)
    JobItem.objects.filter(pk=item.pk).update(created_at=since)
    Lane.objects.update_or_create(destination=item.destination, defaults=lane)


def _causes() -> list[tuple[str, int, str]]:
    found = overview.attention(factories.user(role="operator"))
    return [(one.kind, one.count, one.reason) for one in found if one.destination]


def test_a_destination_that_fails_for_long_needs_attention() -> None:
    _waiting(minutes=11, state=LaneState.BACKOFF, reason=REASON)
    assert _causes() == [("failing", 1, REASON)]


def test_a_short_failure_needs_nobody() -> None:
    _waiting(minutes=1, state=LaneState.BACKOFF, reason=REASON)
    assert _causes() == []


def test_a_long_backlog_of_one_that_answers_needs_nobody() -> None:
    _waiting(minutes=60, state=LaneState.OPEN)
    assert _causes() == []


@pytest.mark.parametrize("state", [LaneState.STOPPED, LaneState.PAUSED])
def test_one_that_stands_still_needs_attention_at_once(state: LaneState) -> None:
    _waiting(minutes=0, state=state, reason=REASON)
    assert _causes() == [(state, 1, REASON)]
