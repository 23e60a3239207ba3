"""Puts the receiver of one process together from the settings, and runs it.

The only module here that knows Django's settings, the indexer and the database look-up. It
refuses to hold logic of its own.
"""

import gc
import resource
import socket
import sys
import threading
from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections

from ingest import scp
from ingest.disk import DiskGate
from ingest.guard import ConnectionTable
from ingest.handlers import Duplicate, LookupUnavailable, Storage
from ingest.processes import Processes
from ingest.reports import Unstored
from ingest.sources import Sources
from ingest.tls import server_context
from ingest.waiting import Port
from router.dicom.commitment import Report
from router.models import Instance
from router.rejections import RejectionJournal
from router.services import archive, commitments
from router.services.indexer import Indexer
from router.spool import Spool

INDEX_SECONDS = 1.5
# An association: its socket, inbox, object and a copy of it; twice as many sockets may wait.
FILES_PER_ASSOCIATION = 6
SPARE_FILES = 256
# How long a thread may keep the interpreter from another that waits for it. Receiving an object
# gives it up at every system call; with Python's 5 ms the indexer would hold it up each time.
SWITCH_SECONDS = 0.0005


def run(announce: Callable[[str], None]) -> int:
    """Serve DICOM until told to stop; the exit code.

    Raises OSError when a port is taken or the TLS files cannot be used.
    """
    listener = scp.open_listener(settings.DIMSE_BIND, settings.DIMSE_PORT)
    secure = secure_port()
    allow_open_files(FILES_PER_ASSOCIATION * settings.MAX_ASSOCIATIONS + SPARE_FILES)
    limits = ConnectionTable(
        most=settings.MAX_ASSOCIATIONS, most_per_address=settings.MAX_ASSOCIATIONS_PER_ADDRESS
    )
    connections.close_all()  # a database connection must not be shared by a fork
    gc.freeze()
    processes = Processes(
        settings.DIMSE_PROCESSES,
        lambda ready, stopping: serve(
            listener, limits, secure=secure, ready=ready, stopping=stopping
        ),
        on_death=limits.forget,
    )
    where = _where(listener) + (f" and {_where(secure.listener)} (TLS)" if secure else "")
    return processes.run(lambda: announce(where))


def allow_open_files(wanted: int) -> None:
    """Raise this process's limit on open files as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def secure_port() -> Port | None:
    """The TLS listener of the settings, open, or None when there is none.

    Raises OSError when the port is taken or a file is missing or wrong.
    """
    if settings.DIMSE_TLS_PORT is None or settings.DIMSE_TLS_CERT is None:
        return None
    context = server_context(settings.DIMSE_TLS_CERT, settings.DIMSE_TLS_KEY, settings.DIMSE_TLS_CA)
    return Port(scp.open_listener(settings.DIMSE_BIND, settings.DIMSE_TLS_PORT), context)


def _where(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{settings.AE_TITLE}@{host}:{port}"


def serve(
    listener: socket.socket,
    limits: ConnectionTable,
    *,
    secure: Port | None = None,
    ready: Callable[[], None],
    stopping: threading.Event,
) -> None:
    """One process: index and receive until `stopping`, then end in order."""
    scp.quiet_libraries()
    sys.setswitchinterval(SWITCH_SECONDS)
    spool = Spool(settings.SPOOL_DIR)
    rejections = RejectionJournal(settings.SPOOL_DIR / "rejections")
    indexer = Indexer(spool, rejections=rejections)
    storage = Storage(
        spool=spool,
        intake=indexer,
        disk=DiskGate(
            spool.free_bytes,
            slow=settings.DISK_SLOW,
            refuse=settings.DISK_REFUSE,
            report=indexer.disk_state,
        ),
        is_duplicate=find_duplicate,
        take_report=take_report,
    )
    receiver = scp.Receiver(
        ae_title=settings.AE_TITLE,
        storage=storage,
        sources=Sources(settings.DATA_DIR / "sources.json"),
        rejections=rejections,
        connections=limits,
    )
    indexer.start()
    listening = scp.listen(receiver, listener, secure=secure)
    ready()
    stopping.wait()
    listening.stop()
    indexer.stop(INDEX_SECONDS)


def find_duplicate(sop_instance_uid: str, transfer_syntax: str, sha256: str) -> Duplicate:
    """Whether an instance is known, with the same bytes or with others.

    What was acknowledged before must be indexed to be found; raises LookupUnavailable when that
    does not come about or the database does not answer.
    """
    close_old_connections()
    try:
        if not archive.settled():
            raise LookupUnavailable("Duplicates cannot be looked up now")
        known = (
            Instance.objects.kept()
            .filter(sop_instance_uid=sop_instance_uid)
            .values_list("transfer_syntax_uid", "sha256")
        )
        identities = set(known)
    except DatabaseError as error:
        raise LookupUnavailable("Duplicates cannot be looked up now") from error
    if not identities:
        return "no"
    return "same" if (transfer_syntax, sha256) in identities else "other"


def take_report(report: Report, calling_ae: str) -> int:
    """Store a report on a commitment; the status that answers it. Raises Unstored."""
    close_old_connections()
    try:
        return commitments.receive(report, reporter=calling_ae)
    except DatabaseError as error:
        raise Unstored("the database does not answer") from error
    finally:
        connections.close_all()  # the association's thread asks for nothing else
