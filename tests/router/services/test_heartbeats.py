"""Signs of life: one row a process, fresh or not, gone with its end."""

import os
from datetime import timedelta

import pytest

from router.models import Heartbeat
from router.services import clock, heartbeats, overview

pytestmark = pytest.mark.django_db


def test_each_beat_renews_the_one_row_of_its_process() -> None:
    heartbeats.beat("receiver", waiting=1)
    first = Heartbeat.objects.get()
    heartbeats.beat("receiver", waiting=2)
    row = Heartbeat.objects.get()
    assert (row.pk, row.role, row.facts) == (first.pk, "receiver", {"waiting": 2})
    assert row.at > first.at


def test_a_receiver_answers_for_itself_and_workers_for_their_host() -> None:
    assert heartbeats.name("receiver").endswith(f"-{os.getpid()}")
    assert not heartbeats.name("worker").endswith(f"-{os.getpid()}")
    heartbeats.beat("receiver")
    heartbeats.beat("worker")
    assert set(Heartbeat.objects.values_list("role", flat=True)) == {"receiver", "worker"}


def test_a_name_fits_its_column() -> None:
    assert len(heartbeats.name("r" * 300)) == 100


def test_an_end_takes_only_the_row_of_its_process() -> None:
    heartbeats.beat("receiver")
    Heartbeat.objects.create(name="receiver-elsewhere-7", role="receiver", at=clock.now())
    heartbeats.end("receiver")
    assert Heartbeat.objects.get().name == "receiver-elsewhere-7"
    heartbeats.end("receiver")
    assert Heartbeat.objects.count() == 1


def test_a_role_lives_while_any_of_its_processes_does() -> None:
    assert not heartbeats.is_alive("receiver")
    Heartbeat.objects.create(
        name="receiver-old-1", role="receiver", at=clock.now() - timedelta(seconds=31)
    )
    assert not heartbeats.is_alive("receiver")
    assert heartbeats.is_alive("receiver", within=timedelta(seconds=60))
    heartbeats.beat("receiver")
    assert heartbeats.is_alive("receiver")
    assert not heartbeats.is_alive("worker")


def test_a_silent_process_is_shown_as_silent() -> None:
    heartbeats.beat("receiver")
    Heartbeat.objects.create(
        name="worker-old", role="worker", at=clock.now() - timedelta(seconds=31), facts={}
    )
    assert {row.role: row.state for row in overview.processes()} == {
        "receiver": "alive",
        "worker": "silent",
    }
