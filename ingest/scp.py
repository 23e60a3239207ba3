"""The receiver of one process: a listener and the associations it accepted.

It gates connections, admits callers and stops in good order. It refuses to fork (see
`ingest.processes`) and to judge objects (see `ingest.handlers`).
"""

import errno
import logging
import socket
import threading
import time
from dataclasses import dataclass, field
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.presentation import build_context
from pynetdicom.transport import (
    AssociationServer,
    AssociationSocket,
    RequestHandler,
)

from ingest.association import InboundAssociation
from ingest.guard import ConnectionTable, Turnstile
from ingest.handlers import Storage
from ingest.negotiation import VERIFICATION
from ingest.sources import (
    CALLED_AE_UNKNOWN,
    CALLER_UNKNOWN,
    LIMIT_EXCEEDED,
    Admission,
    Rejection,
    Sources,
)
from ingest.wire import ASSOCIATE_SECONDS, MAXIMUM_PDU
from router.dicom import part10
from router.rejections import RejectionJournal

log = logging.getLogger(__name__)

BACKLOG = 128
CONNECT_SECONDS = 5.0
IDLE_SECONDS = 300.0
POLL_SECONDS = 0.2
GRACE_SECONDS = 25.0
ABORT_SECONDS = 2.0
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


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

    def admit(self, *, host: str, calling_ae: str, called_ae: str) -> Admission | Rejection:
        """Judge a caller (PS3.8 9.3.4; `contract.md`, Sources); rejections are journaled."""
        if called_ae != self.ae_title:
            return self._rejected(CALLED_AE_UNKNOWN, host, calling_ae, called_ae)
        admission = self.sources.current().admit(calling_ae, host)
        return admission or self._rejected(CALLER_UNKNOWN, host, calling_ae, called_ae)

    def turned_away(self, host: str) -> None:
        """Journal a connection over a limit; its AE titles were never read."""
        self._rejected(LIMIT_EXCEEDED, host, "", "")

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


class ConnectionHandler(RequestHandler):  # type: ignore[misc]  # pynetdicom carries no types
    """Makes an association of a connection and starts it."""

    def _create_association(self) -> InboundAssociation:
        server = self.server
        assoc = InboundAssociation(
            server,
            host=self.client_address[0],
            port=self.client_address[1],
            slot=server.take_slot(),
        )
        assoc.name = f"AcceptorThread@{self.client_address[0]}"
        assoc.set_socket(AssociationSocket(assoc, client_socket=self.request))
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.requestor.address_info = self.remote
        assoc.bind(evt.EVT_C_STORE, assoc.on_c_store)
        server.remember(assoc)
        return assoc


class ReceiverServer(AssociationServer):  # type: ignore[misc]  # as above
    """Accepts connections within the limits, on a listener of its own or an inherited one."""

    request_queue_size = BACKLOG

    def __init__(
        self,
        *args: Any,  # Any: passed on as AE.make_server gives them
        receiver: Receiver,
        listener: socket.socket,
        **options: Any,
    ) -> None:
        self.receiver = receiver
        self.socket: socket.socket
        self._listener = listener
        self._associations: set[InboundAssociation] = set()
        self._changed = threading.Condition()
        self._turnstile = Turnstile()
        self._slot: int | None = None
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Use the listener we were given in place of the socket made by the base class."""
        self.socket.close()
        self.socket = self._listener
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """It listens already. Several processes accept from it, so an accept may find nothing."""
        self.socket.settimeout(0.0)

    def server_close(self) -> None:
        """Close our listener only: a shutdown would end it for the other processes too."""
        self.socket.close()
        self._turnstile.close()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            sock, address = self.socket.accept()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                log.error("connection.not_accepted", extra={"error": str(error)})
                time.sleep(POLL_SECONDS)
            raise
        sock.settimeout(CONNECT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock, address

    def verify_request(self, request: socket.socket, client_address: Any) -> bool:
        """The limits on connections, before a thread is made."""
        self._slot = self.receiver.connections.acquire(client_address[0])
        if self._slot is None:
            self.receiver.turned_away(client_address[0])
            self._turnstile.turn_away(request.dup())
        return self._slot is not None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An association could not be started (no thread, no memory): free its slot."""
        log.error(  # called inside socketserver's except block
            "connection.failed",
            exc_info=True,  # noqa: LOG014
            extra={"remote": client_address[0]},
        )
        if self._slot is not None:
            self.receiver.connections.release(self.take_slot())

    def service_actions(self) -> None:
        super().service_actions()
        self._turnstile.close_due()

    def take_slot(self) -> int:
        """The slot of the connection being handled, once."""
        slot, self._slot = self._slot, None
        if slot is None:
            raise RuntimeError("no connection is being handled")
        return slot

    def remember(self, assoc: InboundAssociation) -> None:
        with self._changed:
            self._associations.add(assoc)

    def forget(self, assoc: InboundAssociation) -> None:
        with self._changed:
            if assoc in self._associations:
                self.receiver.connections.release(assoc.slot)
                self._associations.discard(assoc)
                self._changed.notify_all()

    @property
    def associations(self) -> tuple[InboundAssociation, ...]:
        with self._changed:
            return tuple(self._associations)

    def wait_empty(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._associations, timeout=seconds)

    def stop_accepting(self) -> None:
        BaseServer.shutdown(self)  # the AE does not know a server made by make_server
        self.server_close()

    def stop_associations(self) -> None:
        for assoc in self.associations:
            assoc.stop()


@dataclass(slots=True)
class Listening:
    """A receiver that accepts connections in a thread of its own."""

    server: ReceiverServer
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(
            target=self.server.serve_forever, args=(POLL_SECONDS,), name="dimse-accept"
        )
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
        if self.server.wait_empty(grace):
            return True
        self.server.stop_associations()
        self.server.wait_empty(ABORT_SECONDS)
        return False


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket to be shared by processes. SO_REUSEADDR lets a restart bind at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def listen(receiver: Receiver, listener: socket.socket) -> Listening:
    """Serve `listener` with `receiver` until `Listening.stop`."""
    _config.LOG_HANDLER_LEVEL = "none"
    server = _application_entity(receiver).make_server(
        listener.getsockname(),
        ae_title=receiver.ae_title,
        contexts=[build_context(VERIFICATION)],
        server_class=ReceiverServer,
        request_handler=ConnectionHandler,
        receiver=receiver,
        listener=listener,
    )
    return Listening(server)


def _application_entity(receiver: Receiver) -> AE:
    ae = AE(ae_title=receiver.ae_title)
    ae.maximum_pdu_size = MAXIMUM_PDU
    ae.acse_timeout = ASSOCIATE_SECONDS
    ae.network_timeout = receiver.idle_seconds
    ae.implementation_class_uid = part10.IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = part10.IMPLEMENTATION_VERSION_NAME
    return ae
