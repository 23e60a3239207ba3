"""The indexer: one thread of a receiving process that takes its inbox into the ledger.

It is the receiver's hand-off: nothing here waits on the network path. While the database is away
it keeps a bounded list in memory and forgets the rest, since the inbox on disk has everything; when
the database is back it reads its inboxes anew. Inboxes of dead processes are adopted.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from django.db import DatabaseError, IntegrityError, close_old_connections, connection, transaction
from django.db.utils import InterfaceError, OperationalError

from router.rejections import RejectionJournal
from router.services import associations, heartbeats, indexing
from router.services.associations import Closed, DiskChanged, Opened, Refusal
from router.spool import AssociationFacts, Counts, Inbox, Spool, Spooled

log = logging.getLogger(__name__)

BATCH = 1000
COLLISIONS = 4
# While objects keep coming they are gathered, so that a batch costs few flushes; R13 has 60 s.
GATHER_SECONDS = 0.25
PAUSE_SECONDS = 0.03
MEMORY_LIMIT = 2000
HEARTBEAT_SECONDS = 5.0
ADOPT_SECONDS = 10.0
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0)


Event = Spooled | Refusal | Opened | Closed | DiskChanged


class Indexer:
    """Takes over what was received (the receiver's intake) and indexes it in its own thread."""

    def __init__(self, spool: Spool, *, rejections: RejectionJournal | None = None) -> None:
        self.spool = spool
        self._rejections = rejections
        self._events: deque[Event] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._overflowed = False
        self._finished: set[str] = set()
        self._adopted: dict[str, Inbox] = {}
        self._heartbeat_at = self._adopt_at = 0.0
        self._thread = threading.Thread(target=self._run, name="indexer", daemon=True)

    # --- the intake: called by association threads, never waits --------------------------------
    def association_opened(self, facts: AssociationFacts, contexts: object = ()) -> None:
        """Note an accepted association."""
        self._put(Opened(facts))

    def association_closed(self, facts: AssociationFacts, reason: str, counts: Counts) -> None:
        """Note how an association ended."""
        self._put(Closed(facts, reason, datetime.now(UTC), counts.refused))

    def stored(self, spooled: Spooled) -> None:
        """Take over an object that is durable in the inbox."""
        if len(self._events) >= MEMORY_LIMIT:
            self._overflowed = True
        else:
            self._put(spooled)

    def refused(
        self,
        facts: AssociationFacts,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        status: int,
        reason: str,
        size: int,
    ) -> None:
        """Note an object that was answered with a failure."""
        at = datetime.now(UTC)
        uids = (sop_class_uid, sop_instance_uid, transfer_syntax)
        if len(self._events) < 2 * MEMORY_LIMIT:
            self._put(Refusal(facts, *uids, status, reason, size, at))

    def disk_state(self, state: str, free: int) -> None:
        """Note that the filling of the disk changed what is taken in."""
        self._put(DiskChanged(state, free))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Index what is at hand and end; False when time ran out (the inbox keeps the rest)."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    # --- the thread ---------------------------------------------------------------------------
    def _run(self) -> None:
        failures = 0
        while not (self._stopping.is_set() and not self._events):
            try:
                self._turn()
                failures = 0
            except (OperationalError, InterfaceError, OSError) as error:
                failures += 1
                log.warning("index.waits", extra={"error": type(error).__name__})
                self._pause(failures)
                if self._stopping.is_set() and failures > 2:
                    return
            except Exception:
                failures += 1
                log.exception("index.failed")
                self._pause(failures)
        with contextlib.suppress(DatabaseError):
            heartbeats.end("receiver")
        connection.close()

    def _pause(self, failures: int) -> None:
        connection.close()
        self._stopping.wait(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1])

    def _turn(self) -> None:
        """Do one round: housekeeping when due, then one batch."""
        close_old_connections()
        self._housekeeping()
        batch = self._gather()
        if not batch:
            return
        self._handle(batch)
        for _ in batch:
            self._events.popleft()
        self._remove_finished()

    def _gather(self) -> list[Event]:
        """Wait for a first event, then for those that follow it; they stay listed until done."""
        if not self._events:
            self._wake.wait(1.0)
            if not self._events:
                return []
        self._wait_for_more()
        self._wake.clear()
        return [self._events[i] for i in range(min(len(self._events), BATCH))]

    def _wait_for_more(self) -> None:
        """Wait while events keep coming, for 250 ms at most: a study's last object waits 30 ms."""
        limit = time.monotonic() + GATHER_SECONDS
        while (known := len(self._events)) < BATCH and time.monotonic() < limit:
            if self._stopping.wait(PAUSE_SECONDS) or len(self._events) == known:
                return

    def _handle(self, batch: Sequence[Event]) -> None:
        self._open([e for e in batch if isinstance(e, Opened)])
        index_all([e for e in batch if isinstance(e, Spooled)])
        associations.record_refusals([e for e in batch if isinstance(e, Refusal)])
        self._close([e for e in batch if isinstance(e, Closed)])
        for event in batch:
            if isinstance(event, DiskChanged):
                associations.record_disk_state(event)

    def _open(self, opened: Sequence[Opened]) -> None:
        if opened:
            associations.ensure_associations(event.association for event in opened)

    def _close(self, closed: Sequence[Closed]) -> None:
        for event in closed:
            associations.end_association(event)
            self._finished.add(event.association.id)

    def _remove_finished(self) -> None:
        for uid in list(self._finished):
            if self.spool.remove_finished(uid) or not self._holds(uid):
                self._finished.discard(uid)

    def _holds(self, uid: str) -> bool:
        return (self.spool.root / "inbox" / uid).is_dir()

    # --- housekeeping -------------------------------------------------------------------------
    def _housekeeping(self) -> None:
        now = time.monotonic()
        self._beat()
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_SECONDS
            self._adopt()
        if self._overflowed and len(self._events) < BATCH:
            self._reread()

    def _beat(self) -> None:
        """Show that this process lives, every 5 s; also in the middle of long work."""
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_SECONDS
            heartbeats.beat("receiver", waiting=len(self._events))
            self._journal()

    def _journal(self) -> None:
        if self._rejections is None:
            return
        with self._rejections.take() as rejections, transaction.atomic():
            for item in rejections:
                associations.record_rejection(item)

    def _adopt(self) -> None:
        """Take in what dead processes left.

        An inbox that is ours now is not abandoned any more, so it is kept in mind until all of it
        is indexed: the database may be away in between.
        """
        for inbox in self.spool.abandoned():
            with _or_later(inbox):
                if self.spool.adopt(inbox):
                    self._adopted[inbox.facts.id] = inbox
        for uid, inbox in list(self._adopted.items()):
            with _or_later(inbox):
                if self._take_in(inbox):
                    del self._adopted[uid]
        self.spool.sweep()

    def _take_in(self, inbox: Inbox) -> bool:
        """Index what is whole; False when something is left that could not be read."""
        is_settled = inbox.settle_parts()
        count = self._index_inbox(inbox, verify=True)
        self._end(inbox)
        log.info("inbox.adopted", extra={"association": inbox.facts.id, "objects": count})
        return is_settled

    def _end(self, inbox: Inbox) -> None:
        end = inbox.end()
        reason = end.reason if end else "lost: the receiver ended"
        refused = end.refused if end else 0
        at = end.ended_at if end else datetime.now(UTC)
        associations.end_association(Closed(inbox.facts, reason, at, refused))
        inbox.remove_if_empty()

    def _reread(self) -> None:
        """Index what was forgotten while the database was away."""
        self._overflowed = False  # before the folders are read: what comes from now on counts anew
        try:
            for inbox in self.spool.mine():
                self._index_inbox(inbox, verify=inbox.facts.id in self._adopted)
                self.spool.remove_finished(inbox.facts.id)
        except BaseException:
            self._overflowed = True
            raise

    def _index_inbox(self, inbox: Inbox, *, verify: bool = False) -> int:
        count = 0
        chunk: list[Spooled] = []
        for spooled in inbox.leftovers(verify=verify):
            chunk.append(spooled)
            if len(chunk) == BATCH // 2:
                count += index_all(chunk)
                chunk = []
                self._beat()
        return count + index_all(chunk)


@contextlib.contextmanager
def _or_later(inbox: Inbox) -> Iterator[None]:
    """One inbox that cannot be read or written now must not keep the others waiting."""
    try:
        yield
    except OSError as error:
        log.error("inbox.waits", extra={"association": inbox.facts.id, "error": str(error)})


def index_all(spooled: Sequence[Spooled]) -> int:
    """Index a batch; when two processes met, try again; one bad object cannot stop the others.

    Raises:
        OperationalError, InterfaceError: the database is away.
        OSError: files cannot be moved.
    """
    if not spooled:
        return 0
    try:
        return _persistently(spooled)
    except (OperationalError, InterfaceError, IntegrityError):
        raise
    except (DatabaseError, ValueError):
        if len(spooled) == 1:
            log.exception("index.object_failed", extra={"receipt": spooled[0].receipt_id})
            return indexing.index(spooled, apart="Its header cannot be indexed.")
    middle = len(spooled) // 2
    return index_all(spooled[:middle]) + index_all(spooled[middle:])


def _persistently(spooled: Sequence[Spooled]) -> int:
    """Index a batch, again when another process indexed the same UIDs at the same moment."""
    for _attempt in range(COLLISIONS):
        try:
            return indexing.index(spooled)
        except IntegrityError:
            continue
        except OperationalError as error:
            if not _met_another(error):
                raise
    return indexing.index(spooled)


def _met_another(error: OperationalError) -> bool:
    """Tell whether PostgreSQL ended one of two transactions that waited for each other."""
    return getattr(error.__cause__, "sqlstate", None) in {"40P01", "40001"}
