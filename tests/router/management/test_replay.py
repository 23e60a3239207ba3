"""``replay``: the plan with its counts, ``--yes``, and the exit codes of the contract."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from router.models import AuditEvent, Cause, Destination, ItemState, JobItem, Replay, ReplayState
from router.services import replays
from tests import deliveries, factories
from tests.archives import Archive
from tests.replaying import ANN, advance

S = ItemState
pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> Destination:
    row = factories.destination("pacs")
    job = factories.job(factories.study(patient_id="P1", accession_number="A1"), destination=row)
    series = factories.series(job.study)
    for state in (S.DELIVERED, S.DELIVERED, S.PARKED):
        factories.item(job, instance=factories.instance(series), state=state)
    return row


@pytest.fixture
def archive(settings: Settings, tmp_path: Path) -> Iterator[tuple[Archive, Destination]]:
    """An archive that has lost two of five objects."""
    deliveries.fresh_storage(settings, tmp_path)
    with Archive() as running:
        node = deliveries.node(running.settings)
        for one in deliveries.chosen(node, tmp_path, 5, state=S.DELIVERED)[:3]:
            running.take(one.instance.sop_instance_uid, one.instance.sop_class_uid)
        yield running, node


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("replay", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: str) -> tuple[int, str]:
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    return raised.value.returncode, str(raised.value)


def test_prints_the_plan_and_sends_nothing(pacs: Destination) -> None:
    said = run("--destination", "pacs", "--only", "all")
    replay = Replay.objects.get()
    assert f"Replay {replay.pk}: 1 study, 3 objects, 1.5 MiB to be sent" in said
    assert "pacs: 3 objects, 1.5 MiB to be sent" in said
    assert "at 50 objects a second" in said
    assert f"To send it: manage.py replay --confirm {replay.pk}" in said
    assert replay.state == ReplayState.PLANNED
    assert not JobItem.objects.filter(cause=Cause.REPLAY).exists()


def test_says_what_the_far_end_has(archive: tuple[Archive, Destination]) -> None:
    said = run("--source", "ct-1", "--only", "missing")
    assert f"{archive[1].name}: 2 objects, 4.4 KiB to be sent; 3 there already" in said


def test_yes_has_it_sent(pacs: Destination) -> None:
    said = run("--accession", "A1", "--only", "failed", "--yes", "--rate", "0")
    replay = Replay.objects.get()
    assert f"Replay {replay.pk} runs." in said
    assert (replay.state, replay.objects_count, replay.rate) == (ReplayState.RUNNING, 1, 0.0)
    advance(replay)
    assert JobItem.objects.get(cause=Cause.REPLAY).state == S.PENDING


def test_the_patient_is_read_from_standard_input(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("P1\n"))
    run("--patient-id", "-", "--only", "all")
    assert Replay.objects.get().selection == {"patient_id": "P1"}


@pytest.mark.parametrize(
    ("arguments", "selection"),
    [
        (
            ["--received-from", "2026-03-01", "--received-to", "2026-03-01"],
            {
                "received_from": "2026-03-01T00:00:00+00:00",
                "received_to": "2026-03-02T00:00:00+00:00",
            },
        ),
        (
            ["--received-to", "2026-03-01T14:30"],
            {"received_to": "2026-03-01T14:30:00+00:00"},
        ),
        (
            ["--study-date-from", "2026-01-02", "--study-date-to", "2026-01-03"],
            {"study_date_from": "2026-01-02", "study_date_to": "2026-01-03"},
        ),
    ],
)  # fmt: skip
def test_reads_days_and_moments(arguments: list[str], selection: dict[str, str]) -> None:
    assert "Nothing is to be sent." in run("--only", "all", *arguments)
    assert Replay.objects.get().selection == selection


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--source", "a"], 2, "--only"),
        (["--only", "some", "--source", "a"], 1, "invalid choice"),
        (["--only", "all"], 1, "at least one of the criteria"),
        (["--only", "all", "--destination", "nowhere"], 1, "No destination is called nowhere"),
        (["--only", "all", "--received-from", "yesterday"], 2, "A day as 2026-03-01"),
        (["--only", "all", "--source", "a", "--rate", "-1"], 1, "The rate is from 0"),
        (["--show", "4711"], 1, "There is no replay 4711"),
    ],
)
def test_refuses_with_the_code_of_the_contract(
    arguments: list[str], code: int, sentence: str
) -> None:
    found, said = refused(*arguments)
    assert sentence in said
    assert found == code
    assert not Replay.objects.exists()


def test_many_studies_want_their_number(pacs: Destination, settings: Settings) -> None:
    settings.REPLAY_TYPED_ABOVE = 0
    code, said = refused("--source", "ct-1", "--only", "all", "--yes")
    assert (code, "type their number, 1" in said) == (1, True)
    replay = Replay.objects.get()
    assert replay.state == ReplayState.PLANNED
    assert "runs." in run("--confirm", str(replay.pk), "--studies", "1")


def test_waits_and_says_how_it_ended(pacs: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: dict[str, str] = {"state": S.DELIVERED}

    def work(_seconds: float) -> None:
        """What the workers do while the command waits."""
        for replay in Replay.objects.filter(state=ReplayState.RUNNING):
            advance(replay)
            JobItem.objects.filter(cause=Cause.REPLAY).update(**ends)

    monkeypatch.setattr("time.sleep", work)
    said = run("--source", "ct-1", "--only", "all", "--yes", "--wait")
    assert ", done, 1 study, 3 objects" in said
    assert "pacs: 3 delivered" in said
    ends |= {"state": S.PARKED, "reason": "It does not match."}
    code, said = refused("--source", "ct-1", "--only", "all", "--yes", "--wait")
    assert (code, said) == (1, "Not everything was sent.")


def test_gives_up_waiting(pacs: Destination) -> None:
    code, said = refused(
        "--source", "ct-1", "--only", "all", "--yes", "--wait", "--timeout", "0.01"
    )
    assert (code, said) == (1, "It is not over yet.")


def test_pauses_resumes_cancels_shows_and_lists(pacs: Destination) -> None:
    run("--source", "ct-1", "--only", "all", "--yes")
    pk = str(Replay.objects.get().pk)
    assert f"Replay {pk}, paused, 1 study, 3 objects: Paused by" in run("--pause", pk)
    assert "running" in run("--resume", pk)
    assert "being cancelled" in run("--cancel", pk)
    assert refused("--pause", pk)[0] == 1
    assert "pacs: 3 to be sent" in run("--show", pk)
    assert run("--list").startswith(f"Replay {pk}, being cancelled")


def test_reports(pacs: Destination) -> None:
    run("--source", "ct-1", "--only", "all")
    pk = str(Replay.objects.get().pk)
    rows = list(csv.DictReader(io.StringIO(run("--report", pk))))
    assert [row["Outcome"] for row in rows] == ["To be sent"] * 3
    assert run("--report", pk, "--format", "json").startswith('{"replay": ')
    taken = AuditEvent.objects.filter(event="export").order_by("pk")
    assert [one.details["format"] for one in taken] == ["csv", "json"]


def test_a_plan_that_fails_is_an_error(pacs: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.services.replay_planning.MOST_TRIES", 0)
    code, said = refused("--source", "ct-1", "--only", "all")
    assert (code, "Planning failed" in said) == (1, True)


def test_a_plan_that_somebody_discards_meanwhile_is_over(
    pacs: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    def discard(pk: int, *, seconds: float) -> None:
        replays.cancel(Replay.objects.get(pk=pk), actor=ANN)

    monkeypatch.setattr("router.services.replay_planning.run", discard)
    assert "Nothing is to be sent." in run("--source", "ct-1", "--only", "all")
