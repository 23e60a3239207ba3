"""The indexer: refusals, ends, adoption, and a database that goes away and comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any  # Django's own, and keywords of facts

import pytest
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from router.models import (
    Association,
    AuditEvent,
    CounterKind,
    Heartbeat,
    HourCount,
    Instance,
    Receipt,
    Study,
)
from router.rejections import RejectionJournal
from router.services import archive, associations, indexer, reckoning
from router.services.associations import Closed, DiskChanged, Refusal
from router.services.indexer import Indexer
from router.spool import AssociationFacts, Counts
from tests.intake import Site, image, make_facts
from tests.receivers import CT, EXPLICIT_LITTLE

pytestmark = pytest.mark.django_db(transaction=True)

_CHILD = """
import sys, time
from pathlib import Path
import django
django.setup()
from router.spool import Spool
from tests.intake import acknowledge, image, make_facts
inbox = Spool(Path(sys.argv[1])).open_inbox(make_facts())
for number in (1, 2, 3):
    acknowledge(inbox, image(number))
inbox.create(sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax="1.2.840.10008.1.2.1")
print("acknowledged", flush=True)
time.sleep(60)
"""


def _wait(is_so: Callable[[], bool], *, seconds: float = 40.0) -> None:
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.05)


@contextmanager
def _running(site: Site, **options: Any) -> Iterator[Indexer]:
    started = Indexer(site.spool, **options)
    started.start()
    try:
        yield started
    finally:
        assert started.stop(60)


def _refuse(intake: Indexer, facts: AssociationFacts, **details: Any) -> None:
    usual = {
        "sop_class_uid": CT,
        "sop_instance_uid": "1.2.3",
        "transfer_syntax": EXPLICIT_LITTLE,
        "status": 0xA700,
        "reason": "disk",
        "size": 10,
    }
    intake.refused(facts, **{**usual, **details})


def _refusal(facts: AssociationFacts) -> Refusal:
    at = datetime.now(UTC)
    return Refusal(facts, CT, "1.2.3", EXPLICIT_LITTLE, 0xA700, "disk", 10, at)


# --- an association from its begin to its end ---------------------------------------------------
def test_takes_an_association_into_the_ledger(site: Site) -> None:
    inbox = site.inbox()
    with _running(site) as intake:
        intake.association_opened(inbox.facts)
        for item in site.take(image(1), image(2), inbox=inbox):
            intake.stored(item)
        _refuse(intake, inbox.facts)
        inbox.closed(datetime.now(UTC), "released", Counts(objects=2, refused=1))
        intake.association_closed(inbox.facts, "released", Counts(objects=2, refused=1))
    row = Association.objects.get()
    assert (row.objects_count, row.refused_count, row.end_reason) == (2, 1, "released")
    assert row.ended_at is not None
    assert not inbox.folder.exists()
    assert len(site.stored()) == 2
    event = AuditEvent.objects.get(event="instances.received")
    assert (event.details["objects"], event.details["refused"]) == (2, 1)
    assert reckoning.reckon().gaps == []


def test_an_association_that_stored_nothing_is_no_audit_event(site: Site) -> None:
    facts = make_facts()
    with _running(site) as intake:
        intake.association_opened(facts)
        intake.association_closed(facts, "released", Counts())
    assert Association.objects.get().ended_at is not None
    assert not AuditEvent.objects.exists()


def test_an_association_ends_once(site: Site) -> None:
    facts = make_facts()
    associations.record_refusals([_refusal(facts)])
    for reason in ("aborted", "released"):
        associations.end_association(Closed(facts, reason, datetime.now(UTC), 1))
    assert Association.objects.get().end_reason == "aborted"
    assert AuditEvent.objects.count() == 1


def test_a_nul_in_names_does_not_stop_the_end(site: Site) -> None:
    facts = make_facts(calling_ae="C\0T", remote_host="127.0.0.1")
    associations.record_refusals([_refusal(facts)])
    associations.end_association(Closed(facts, "aborted\0", datetime.now(UTC), 1))
    assert Association.objects.get().ended_at is not None


def test_the_heartbeat_comes_and_goes(site: Site) -> None:
    with _running(site):
        _wait(Heartbeat.objects.filter(role="receiver").exists)
    assert not Heartbeat.objects.filter(role="receiver").exists()


# --- refusals -------------------------------------------------------------------------------------
def test_refusals_are_counted_exactly_and_stay_outside_the_balance(site: Site) -> None:
    facts = make_facts()
    with _running(site) as intake:
        for number in range(3):
            _refuse(intake, facts, reason="x\0" * 300, sop_instance_uid=f"1.{number}\0" * 40)
    receipts = Receipt.objects.filter(outcome="refused")
    assert receipts.count() == Association.objects.get().refused_count == 3
    assert receipts.filter(status=0xA700, size=10, instance=None).count() == 3
    count = HourCount.objects.get()
    assert (count.kind, count.objects_count, count.bytes) == (CounterKind.REFUSED, 3, 30)
    assert reckoning.reckon().gaps == []


def test_refusals_are_counted_once_when_the_batch_is_done_again(site: Site) -> None:
    """The database goes away after the refusals were written and before the end was."""
    facts, failures = make_facts(), list[str]()

    intake = Indexer(site.spool)
    batch: list[indexer.Event] = [_refusal(facts), Closed(facts, "released", datetime.now(UTC), 1)]
    with connection.execute_wrapper(_fails_at_the_end(failures)):
        with pytest.raises(OperationalError):
            intake._handle(batch)
        intake._handle(batch)
    assert failures
    assert Receipt.objects.count() == Association.objects.get().refused_count == 1
    assert HourCount.objects.get().objects_count == 1


def _fails_at_the_end(failures: list[str]) -> Any:
    def fails(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE") and "end_reason" in sql and not failures:
            failures.append(sql)
            raise OperationalError("the connection is lost")
        return execute(sql, *rest)

    return fails


# --- adoption -------------------------------------------------------------------------------------
def _killed_child(site: Site) -> None:
    """Let a process acknowledge three objects, begin a fourth, and die."""
    code = [sys.executable, "-c", _CHILD, str(site.spool.root)]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    root = Path(__file__).parents[3]
    with subprocess.Popen(code, stdout=subprocess.PIPE, env=environment, cwd=root) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"acknowledged\n"
        child.send_signal(signal.SIGKILL)


def test_adopts_the_inbox_of_a_killed_process(site: Site) -> None:
    _killed_child(site)
    (folder,) = (site.spool.root / "inbox").iterdir()
    assert list(folder.glob("*.part"))
    with _running(site):
        _wait(lambda: Association.objects.exclude(ended_at=None).exists())
    assert Instance.objects.current().count() == len(site.stored()) == 3
    assert not folder.exists()
    row = Association.objects.get()
    assert (row.objects_count, row.end_reason) == (3, "lost: the receiver ended")
    assert reckoning.reckon(deep=True).gaps == []


def test_an_adopted_inbox_is_taken_in_once_the_database_is_back(site: Site) -> None:
    _killed_child(site)
    intake = Indexer(site.spool)
    with connection.execute_wrapper(_away), pytest.raises(OperationalError):
        intake._adopt()
    assert site.spool.abandoned() == []  # it is ours now, and nobody else's
    assert len(site.waiting()) == 3
    intake._adopt()
    assert Instance.objects.current().count() == 3
    assert site.waiting() == []


def test_what_cannot_be_read_when_adopted_is_taken_in_later(site: Site) -> None:
    _killed_child(site)
    path = site.waiting()[0]
    content = path.read_bytes()
    path.unlink()
    part = path.with_name(f"{path.name[:32]}.part")
    part.mkdir()  # stands in for a file that the disk does not give back
    intake = Indexer(site.spool)
    intake._adopt()
    assert Instance.objects.current().count() == 2
    part.rmdir()
    part.write_bytes(content)  # as a power cut leaves it
    intake._adopt()
    assert Instance.objects.current().count() == 3
    assert not path.parent.exists()
    assert intake._adopted == {}


def test_an_inbox_that_cannot_be_written_keeps_no_other_waiting(site: Site) -> None:
    for _ in range(2):
        _killed_child(site)
    folders = sorted((site.spool.root / "inbox").iterdir())
    (folders[0] / "association.tmp").mkdir()  # stands in for a full or broken disk
    Indexer(site.spool)._adopt()
    assert [folder.exists() for folder in folders] == [True, False]


def test_the_inbox_of_a_living_process_is_left_alone(site: Site) -> None:
    site.take(image(1))
    Indexer(site.spool)._adopt()
    assert len(site.waiting()) == 1
    assert not Instance.objects.exists()


def test_an_adopted_inbox_knows_how_it_ended(site: Site) -> None:
    inbox = site.inbox()
    site.take(image(1), inbox=inbox)
    inbox.closed(datetime(2026, 1, 2, tzinfo=UTC), "aborted by the peer", Counts(1, 10, 4))
    facts = json.loads((inbox.folder / "association.json").read_text())
    dead = facts["owner"] | {"lock": "0" * 32}
    (inbox.folder / "association.json").write_text(json.dumps(facts | {"owner": dead}))
    Indexer(site.spool)._adopt()
    row = Association.objects.get()
    assert (row.end_reason, row.ended_at) == (
        "aborted by the peer",
        datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert not inbox.folder.exists()


# --- the database goes away -----------------------------------------------------------------------
def _away(*_: Any) -> Any:
    raise OperationalError("the database is away")


class _Gate:
    """A database for every thread that can be closed and opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = True
        self.refused = 0
        real = BaseDatabaseWrapper.connect

        def connect(wrapper: Any) -> None:
            real(wrapper)
            wrapper.execute_wrappers.append(self.pass_on)

        monkeypatch.setattr(BaseDatabaseWrapper, "connect", connect)

    def pass_on(self, execute: Any, sql: str, *rest: Any) -> Any:
        if not self.is_open:
            self.refused += 1
            raise OperationalError("the database is away")
        return execute(sql, *rest)


def test_goes_on_when_the_database_is_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _Gate(monkeypatch)
    inbox = site.inbox()
    with _running(site) as intake:
        gate.is_open = False
        for item in site.take(*(image(n) for n in range(1, 6)), inbox=inbox):
            intake.stored(item)
        _refuse(intake, inbox.facts)
        _wait(lambda: gate.refused > 1)
        assert len(site.waiting()) == 5
        gate.is_open = True
        assert archive.settled(40)
    assert Instance.objects.current().count() == len(site.stored()) == 5
    assert Receipt.objects.filter(outcome="refused").count() == 1
    assert Study.objects.get().instances_count == 5
    assert reckoning.reckon().gaps == []


def test_what_memory_could_not_hold_is_read_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "MEMORY_LIMIT", 3)
    inbox = site.inbox()
    intake = Indexer(site.spool)
    for item in site.take(*(image(n) for n in range(1, 11)), inbox=inbox):
        intake.stored(item)
    for _ in range(10):
        _refuse(intake, inbox.facts)
    assert len(intake._events) == 6  # bounded
    with ExitStack() as stack:
        stack.callback(lambda: intake.stop(60))
        intake.start()
        _wait(lambda: Instance.objects.current().count() == 10)
        assert archive.settled(20)
    assert len(site.stored()) == 10
    assert Receipt.objects.filter(outcome="stored").count() == 10
    assert reckoning.reckon().gaps == []


def test_stops_while_the_database_is_away_and_keeps_the_inbox(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)
    intake = Indexer(site.spool)
    gate.is_open = False
    intake.stored(site.take(image(1))[0])
    intake.start()
    _wait(lambda: gate.refused > 0)
    assert intake.stop(40)
    gate.is_open = True
    assert len(site.waiting()) == 1


# --- what else it notes ---------------------------------------------------------------------------
def test_a_change_of_the_disk_is_audited_once(site: Site) -> None:
    for state in ("open", "slow", "slow", "refusing", "open", "open"):
        associations.record_disk_state(DiskChanged(state, 7))
    events = AuditEvent.objects.filter(event="intake.disk").order_by("pk")
    assert list(events.values_list("target", flat=True)) == [
        "intake slow",
        "intake refusing",
        "intake open",
    ]


def test_rejections_are_journaled(site: Site, tmp_path: Path) -> None:
    journal = RejectionJournal(tmp_path / "rejections")
    journal.record(
        address="10.0.0.9", calling_ae="EVIL\0", called_ae="X", reason="calling_ae_not_recognized"
    )
    with _running(site, rejections=journal):
        _wait(AuditEvent.objects.filter(event="association.rejected").exists)
    event = AuditEvent.objects.get(event="association.rejected")
    assert (event.actor, event.remote_address) == ("EVIL", "10.0.0.9")
