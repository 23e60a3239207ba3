"""A receiver on a free port of loopback."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest import scp
from ingest.disk import DiskGate
from ingest.guard import ConnectionTable
from ingest.handlers import DuplicateLookup, Storage
from ingest.sources import Sources
from ingest.waiting import Port
from router.dicom.commitment import Report
from router.rejections import RejectionJournal
from router.spool import Spool
from tests.receivers import Recording, Running

StartReceiver = Callable[..., Running]


@pytest.fixture
def start_receiver(tmp_path: Path) -> Iterator[StartReceiver]:
    """A function that starts a receiver; all are stopped at the end."""
    started: list[Running] = []

    def start(
        *,
        takes_over: bool = True,
        sources: list[dict[str, Any]] | None = None,
        peers: list[dict[str, Any]] | None = None,
        free_bytes: Callable[[], int] | None = None,
        is_duplicate: DuplicateLookup = lambda *_: "no",
        take_report: Callable[[Report, str], int] = lambda *_: 0,
        most: int = 50,
        most_per_address: int = 50,
        calm_seconds: float = 0.0,
        secure: Port | None = None,
        spool: Spool | None = None,
        **options: Any,
    ) -> Running:
        spool = spool or Spool(tmp_path / "spool")
        if sources is not None or peers is not None:
            listed = {"revision": 1, "sources": sources or [], "peers": peers or []}
            (tmp_path / "sources.json").write_text(json.dumps(listed))
        intake = Recording()
        gate = DiskGate(
            free_bytes or spool.free_bytes,
            slow=2000,
            refuse=1000,
            report=intake.disk_state,
            calm_seconds=calm_seconds,
        )
        receiver = scp.Receiver(
            ae_title="DICOMROUTER",
            storage=Storage(spool, intake, gate, is_duplicate, take_report),
            sources=Sources(tmp_path / "sources.json"),
            rejections=RejectionJournal(tmp_path / "spool" / "rejections"),
            connections=ConnectionTable(most=most, most_per_address=most_per_address),
            takes_over=takes_over,
            **options,
        )
        listening = scp.listen(receiver, scp.open_listener("127.0.0.1", 0), secure=secure)
        running = Running(listening, receiver, intake, spool)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.listening.is_running:
            running.stop()
        running.receiver.connections.close()


@pytest.fixture
def running(start_receiver: StartReceiver) -> Running:
    return start_receiver()
