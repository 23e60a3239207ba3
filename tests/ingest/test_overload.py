"""A filling disk: slower, refused, told each way; and a volume that is really full."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.disk import DiskGate
from ingest.status import Status
from router.spool import Spool
from tests.ingest.conftest import StartReceiver
from tests.receivers import CT, EXPLICIT_LITTLE, make_object
from tests.senders import RawAssociation

MIB = 1 << 20


class Volume:
    """Free bytes as a test sets them, and what was reported."""

    def __init__(self, *, calm_seconds: float = 0.0) -> None:
        self.free = 100
        self.reports: list[tuple[str, int]] = []
        self.gate = DiskGate(
            lambda: self.free,
            slow=50,
            refuse=10,
            report=lambda state, free: self.reports.append((state, free)),
            calm_seconds=calm_seconds,
        )

    def at(self, free: int) -> float | None:
        self.free = free
        return self.gate.delay()


def test_intake_slows_and_is_refused_as_the_disk_fills() -> None:
    volume = Volume()
    assert volume.at(50) == 0.0
    slow, slower = volume.at(40), volume.at(20)
    assert slow is not None
    assert slower is not None
    assert 0 < slow < slower <= 0.25
    assert volume.at(9) is None
    assert volume.at(60) == 0.0
    assert volume.reports == [("slow", 40), ("refusing", 9), ("open", 60)]


def test_a_change_is_seen_though_nothing_arrives() -> None:
    volume = Volume()
    volume.free = 5
    volume.gate.look()
    volume.gate.look()
    volume.free = 30
    volume.gate.look()
    assert [state for state, _ in volume.reports] == ["refusing", "slow"]


def test_a_better_state_is_told_when_it_lasts_but_counts_at_once() -> None:
    volume = Volume(calm_seconds=0.2)
    assert volume.at(5) is None
    assert volume.at(60) == 0.0
    assert volume.at(5) is None
    assert volume.at(60) == 0.0
    assert [state for state, _ in volume.reports] == ["refusing"]
    time.sleep(0.25)
    volume.gate.look()
    assert [state for state, _ in volume.reports] == ["refusing", "open"]


def test_a_write_without_room_is_an_alert_whatever_the_marks_say() -> None:
    volume = Volume()
    volume.gate.overflowed()
    assert volume.reports == [("refusing", 100)]
    assert volume.at(100) == 0.0
    assert [state for state, _ in volume.reports] == ["refusing", "open"]


@pytest.fixture
def tiny_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB in memory, full when it is full."""
    folder = tmp_path / "volume"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=40", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"a tmpfs is needed here: {done.stderr}")
    yield folder
    # The lock of the spool's owner stays open as long as the process: detach.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_volume_refuses_keeps_what_it_took_and_recovers(
    tiny_volume: Path, start_receiver: StartReceiver
) -> None:
    running = start_receiver(
        spool=Spool(tiny_volume / "spool"), free_bytes=lambda: 1 << 40, calm_seconds=0.5
    )
    large = make_object(1, pixels=MIB)
    with RawAssociation("127.0.0.1", running.port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
        statuses = [assoc.store(large) for _ in range(5)]
        assert [status for status, _ in statuses] == [0, 0] + [Status.OUT_OF_RESOURCES] * 3
        assert statuses[-1][1] == "Spool is full"
        assert running.halves() == []
        assert [running.data(item) for item in running.intake.objects] == [large.data] * 2
        assert running.intake.disk_states == ["refusing"]
        running.files()[0].unlink()
        assert assoc.store(large)[0] == 0
    running.intake.wait_closed()
    with running.intake.changed:
        told = running.intake.disk_states
        assert running.intake.changed.wait_for(lambda: told == ["refusing", "open"], timeout=20)
    assert len(running.files()) == 2


def test_a_volume_without_inodes_refuses(tiny_volume: Path, start_receiver: StartReceiver) -> None:
    running = start_receiver(spool=Spool(tiny_volume / "spool"), free_bytes=lambda: 1 << 40)
    with RawAssociation("127.0.0.1", running.port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
        statuses = [assoc.store(make_object(number))[0] for number in range(45)]
        assert set(statuses) == {0, int(Status.OUT_OF_RESOURCES)}
        assert running.halves() == []
        assert len(running.files()) == statuses.count(0)
