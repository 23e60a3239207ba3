"""The receiver of one process: whom it admits, how it begins and how it stops.

It refuses to accept connections itself (see `ingest.server`), to fork (see `ingest.processes`)
and to judge objects (see `ingest.handlers`).
"""

import logging
import socket
import threading
from dataclasses import dataclass, field, replace

from pydicom import config as pydicom_config
from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

from ingest.guard import ConnectionTable
from ingest.handlers import Storage
from ingest.negotiation import VERIFICATION
from ingest.server import BACKLOG, ReceiverServer
from ingest.sources import (
    CALLED_AE_UNKNOWN,
    CALLER_UNKNOWN,
    Admission,
    Rejection,
    Sources,
)
from ingest.waiting import Port
from ingest.wire import (
    ASSOCIATE_SECONDS,
    MAXIMUM_PDU,
    Pace,
)
from router.dicom import part10
from router.rejections import RejectionJournal

log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0
# One that rests so long gives way when all associations are taken.
REST_SECONDS = 10.0
GRACE_SECONDS = 25.0
ABORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """What the associations of one process share.

    `takes_over` is False for the stock path: pynetdicom reads the data, a whole object in memory.
    """

    ae_title: str
    storage: Storage
    sources: Sources
    rejections: RejectionJournal
    connections: ConnectionTable
    takes_over: bool = True
    idle_seconds: float = IDLE_SECONDS
    rest_seconds: float = REST_SECONDS
    request_seconds: float = ASSOCIATE_SECONDS
    pace: Pace = field(default_factory=Pace)

    def admit(self, *, host: str, calling_ae: str, called_ae: str) -> Admission | Rejection:
        """Judge a caller (PS3.8 9.3.4; `contract.md`, Sources); rejections are journaled."""
        listed, is_us = self.sources.current(), called_ae == self.ae_title
        reporter = listed.admit_reporter(calling_ae, host, called_as="" if is_us else called_ae)
        admission = listed.admit(calling_ae, host) if is_us else None
        if admission and reporter:
            services = admission.services | reporter.services
            return replace(admission, services=services, is_reporter=True)
        unknown = CALLER_UNKNOWN if is_us else CALLED_AE_UNKNOWN
        return admission or reporter or self._rejected(unknown, host, calling_ae, called_ae)

    def turned_away(self, host: str, reason: str) -> None:
        """Journal a connection that came to no association; its AE titles were never read."""
        self.rejections.record(address=host, calling_ae="", called_ae="", reason=reason)

    def _rejected(
        self, rejection: Rejection, host: str, calling_ae: str, called_ae: str
    ) -> Rejection:
        log.warning(
            "association.rejected",
            extra={"remote": host, "calling_ae": calling_ae, "reason": rejection.reason},
        )
        try:
            self.rejections.record(
                address=host, calling_ae=calling_ae, called_ae=called_ae, reason=rejection.reason
            )
        except OSError as error:
            log.error("rejection.not_journaled", extra={"error": str(error)})
        return rejection


@dataclass(slots=True)
class Listening:
    """A receiver that accepts connections in a thread of its own."""

    server: ReceiverServer
    secure_port: int | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self.server.serve_forever, name="dimse-accept")
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.server_address[:2]
        return str(host), int(port)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self, *, grace: float = GRACE_SECONDS) -> bool:
        """Accept nothing new, let associations finish within `grace`, then abort them.

        True when all finished by themselves.
        """
        self.server.stop_accepting()
        self._thread.join()
        self.server.server_close()
        if self.server.wait_empty(grace):
            return True
        self.server.stop_associations()
        self.server.wait_empty(ABORT_SECONDS)
        return False


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket to be shared by processes. SO_REUSEADDR lets a restart bind at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def quiet_libraries() -> None:
    """For a process that only receives: no log line or warning of theirs for what a peer sent.

    We log what we refuse ourselves; theirs are tracebacks that repeat the peer's bytes.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pynetdicom.dul").setLevel(logging.ERROR)  # what nobody foresaw
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE


def listen(receiver: Receiver, listener: socket.socket, *, secure: Port | None = None) -> Listening:
    """Serve `listener`, and `secure` beside it, with `receiver` until `Listening.stop`."""
    _config.LOG_HANDLER_LEVEL = "none"
    server = _application_entity(receiver).make_server(
        listener.getsockname(),
        ae_title=receiver.ae_title,
        contexts=[build_context(VERIFICATION)],
        server_class=ReceiverServer,
        receiver=receiver,
        ports=(Port(listener), secure) if secure else (Port(listener),),
    )
    return Listening(server, secure.listener.getsockname()[1] if secure else None)


def _application_entity(receiver: Receiver) -> AE:
    ae = AE(ae_title=receiver.ae_title)
    ae.maximum_pdu_size = MAXIMUM_PDU
    ae.acse_timeout = ASSOCIATE_SECONDS
    ae.network_timeout = receiver.idle_seconds
    ae.implementation_class_uid = part10.IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = part10.IMPLEMENTATION_VERSION_NAME
    return ae
