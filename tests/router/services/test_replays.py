"""What a person does with a replay: refusals with their sentences, confirmation, audit."""

from datetime import UTC, date, datetime, timedelta

import pytest
from pytest_django import Settings

from router.models import (
    AuditEvent,
    Bell,
    Destination,
    ItemState,
    Replay,
    ReplayOnly,
    ReplayState,
)
from router.services import clock, replays
from router.services.replays import ReplayRefused
from tests import factories
from tests.replaying import ANN, confirmed, planned, wish

FAILED, ALL = ReplayOnly.FAILED, ReplayOnly.ALL
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> Destination:
    row = factories.destination("pacs")
    for _study in range(3):
        factories.item(factories.job(destination=row), state=ItemState.DELIVERED)
    return row


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "at least one of the criteria"),
        ({"source": "a", "rate": -1.0}, "The rate is from 0"),
        ({"source": "a", "rate": float("nan")}, "The rate is from 0"),
        ({"destination": "nowhere"}, "No destination is called nowhere"),
        ({"rule": "never"}, "No rule is, or was, called never"),
        ({"source": "a", "state": "lost"}, "lost is no state"),
        ({"source": "a", "state": "delivered", "only": FAILED}, "parked or cancelled"),
        ({"jobs": tuple(range(1, 1002))}, "At most 1,000 jobs"),
        ({"study_date_from": date(2026, 2, 2), "study_date_to": date(2026, 2, 1)}, "ends before"),
        ({"received_from": NOON, "received_to": NOON - timedelta(1)}, "ends before"),
    ],
)
def test_refuses_what_means_nothing(
    pacs: Destination, given: dict[str, object], sentence: str
) -> None:
    only = ReplayOnly(str(given.pop("only", ALL)))
    with pytest.raises(ReplayRefused, match=sentence):
        replays.request(wish(only, **given), actor=ANN, user=None)
    assert not Replay.objects.exists()


def test_who_does_not_see_patients_does_not_choose_by_one(pacs: Destination) -> None:
    auditor = factories.user(role="auditor")
    with pytest.raises(ReplayRefused, match="does not see patient IDs"):
        replays.request(wish(patient_id="P1"), actor=ANN, user=auditor)


def test_a_request_rings_for_a_planner_and_is_audited_without_the_patient(
    pacs: Destination, django_capture_on_commit_callbacks: object
) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        replay = replays.request(
            wish(patient_id="P4711", accession_number="A1", jobs=(1, 2)), actor=ANN, user=None
        )
    assert Bell.objects.filter(key=f"plan_replay:{replay.pk}", rung=True).exists()
    event = AuditEvent.objects.get()
    assert (event.event, event.actor, event.target) == (
        "replay.requested", "ann", f"replay {replay.pk}",
    )  # fmt: skip
    assert event.details["selection"] == {
        "patient_id": "(given)", "accession_number": "A1", "jobs": 2,
    }  # fmt: skip
    assert "P4711" not in str(event.details)


def test_a_confirmation_names_what_was_seen(pacs: Destination) -> None:
    replay = planned(source="ct-1")
    with pytest.raises(ReplayRefused, match="has 3 objects, not 4"):
        replays.confirm(replay, objects=4, studies=None, actor=ANN)
    replays.confirm(replay, objects=3, studies=None, actor=ANN)
    replay.refresh_from_db()
    assert (replay.state, replay.confirmed_by) == (ReplayState.RUNNING, "ann")
    event = AuditEvent.objects.get(event="replay.confirmed")
    assert event.details == {"studies": 3, "objects": 3, "bytes": replay.bytes}
    with pytest.raises(ReplayRefused, match="running"):
        replays.confirm(replay, objects=3, studies=None, actor=ANN)


def test_of_two_who_confirm_at_once_one_does(pacs: Destination) -> None:
    replay = planned(source="ct-1")
    stale = Replay.objects.get(pk=replay.pk)
    confirmed(replay)
    with pytest.raises(ReplayRefused, match="quicker"):
        replays.confirm(stale, objects=3, studies=None, actor=ANN)
    assert AuditEvent.objects.filter(event="replay.confirmed").count() == 1


def test_many_studies_want_their_number_typed(pacs: Destination, settings: Settings) -> None:
    settings.REPLAY_TYPED_ABOVE = 2
    replay = planned(source="ct-1")
    assert replays.needs_typing(replay)
    for typed in (None, 2, 33):
        with pytest.raises(ReplayRefused, match="type their number, 3"):
            replays.confirm(replay, objects=3, studies=typed, actor=ANN)
    replays.confirm(replay, objects=3, studies=3, actor=ANN)
    settings.REPLAY_TYPED_ABOVE = 3
    assert not replays.needs_typing(planned(source="ct-1"))


def test_a_plan_grows_old(pacs: Destination) -> None:
    replay = planned(source="ct-1")
    with clock.shifted(timedelta(hours=25)), pytest.raises(ReplayRefused, match="over a day old"):
        replays.confirm(replay, objects=3, studies=None, actor=ANN)


def test_a_plan_is_about_an_address(pacs: Destination) -> None:
    replay = planned(source="ct-1")
    Destination.objects.update(endpoint=2)
    with pytest.raises(ReplayRefused, match="address of pacs has changed"):
        replays.confirm(replay, objects=3, studies=None, actor=ANN)


@pytest.mark.parametrize(
    ("state", "verb", "becomes"),
    [
        *[(s, "pause", "paused" if s == "running" else None) for s in ReplayState.values],
        *[(s, "resume", "running" if s == "paused" else None) for s in ReplayState.values],
        *[
            (
                s,
                "cancel",
                {
                    "running": "cancelling", "paused": "cancelling", "planning": "discarded",
                    "planned": "discarded", "failed": "discarded",
                }.get(s),
            )
            for s in ReplayState.values
        ],
    ],
)  # fmt: skip
def test_every_legal_and_illegal_move(
    pacs: Destination, state: str, verb: str, becomes: str | None
) -> None:
    replay = planned(source="ct-1")
    Replay.objects.update(state=state)
    move = getattr(replays, verb)
    if becomes is None:
        with pytest.raises(ReplayRefused):
            move(replay, actor=ANN)
        assert not AuditEvent.objects.filter(actor="ann", event__startswith=f"replay.{verb}")
    else:
        move(replay, actor=ANN)
        assert AuditEvent.objects.filter(actor="ann", event__startswith=f"replay.{verb}").exists()
    replay.refresh_from_db()
    assert replay.state == (becomes or state)


def test_under_a_limit_only_own_replays_are_seen(pacs: Destination) -> None:
    limited = factories.user(limit={"sources": ["ct-1"]})
    free = factories.user()
    own = replays.request(wish(source="ct-1"), actor=ANN, user=limited)
    other = replays.request(wish(source="ct-1"), actor=ANN, user=free)
    assert list(replays.visible_replays(limited)) == [own]
    assert set(replays.visible_replays(free)) == {own, other}
