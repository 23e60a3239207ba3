"""pynetdicom's upper layer with bounded reading, whose socket can be lent out.

PS3.8 9.2. The layer's thread runs the state machine for negotiation, release and abort; while data
is transferred it sleeps and the association's thread has the socket. It refuses to know storage.
"""

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket

from ingest.wire import (
    ASSOCIATE_SECONDS,
    MAXIMUM_PDU,
    P_DATA,
    DeadlinePassed,
    ProtocolError,
    Reader,
)

if TYPE_CHECKING:
    from ingest.association import InboundAssociation

log = logging.getLogger(__name__)

# Events of the upper layer's state machine (PS3.8 Table 9-10).
TRANSPORT_CLOSED, INVALID_PDU = "Evt17", "Evt19"
# States in which the next step is ours: to indicate the connection, to answer a request or a
# release. What a peer sends ahead of that waits in the socket.
_OUR_TURN = frozenset({"Sta1", "Sta3", "Sta8"})
PARKED_SECONDS = 1.0
DRAIN_SECONDS = 1.0
DRAIN_BYTES = 64 << 10


class Transport(AssociationSocket):  # type: ignore[misc]  # pynetdicom carries no types for us
    """pynetdicom's socket, of any number and closed for certain."""

    @property
    def ready(self) -> bool:
        """Whether something can be read; the base class's select ends at descriptor 1023."""
        sock = self.socket
        if sock is None or not self._is_connected:
            return False
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        poll = select.poll()
        try:
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            self.event_queue.put(TRANSPORT_CLOSED)
            return False

    def _shutdown_socket(self) -> None:
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class UpperLayer(DULServiceProvider):  # type: ignore[misc]  # as above
    """pynetdicom's upper layer with bounded reading, whose socket can be lent out."""

    def __init__(self, assoc: "InboundAssociation", *, request: bytes, lends: bool) -> None:
        super().__init__(assoc)
        self._request = request
        self._lends = lends
        self._lent = threading.Event()
        self._wake = threading.Event()
        self._drain_until = 0.0

    def run_reactor(self) -> None:
        """The layer's thread. Its end wakes an association that waits for a request in vain."""
        try:
            super().run_reactor()
        except InvalidEventError as error:
            # Events in an order without a rule, as when an abort and our answer cross.
            log.info("association.confused", extra={"error": str(error)})
            self.socket.close()
        except Exception:
            log.exception("association.layer_failed")
            self.socket.close()
        finally:
            self.to_user_queue.put(None)

    def borrow(self) -> bool:
        """Wait until the socket is lent; False when the association ended before."""
        while not self._lent.wait(0.05):
            if not self.is_alive() or self.state_machine.current_state == "Sta1":
                return False
        return True

    def give_back(self, pdu: bytes = b"", *, event: str = "") -> None:
        """Return the socket, with the PDU that was read last or the event that ended it."""
        self._lends = False
        if pdu:
            self._deliver(pdu)
        elif event:
            self.event_queue.put(event)
        self._idle_timer.restart()
        self._wake.set()

    def send_pdu(self, primitive: object) -> None:
        super().send_pdu(primitive)
        self._wake.set()

    def _is_transport_event(self) -> bool:
        if self._request and self.state_machine.current_state == "Sta2":
            request, self._request = self._request, b""
            self._deliver(request)
            return True
        # What has happened counts before what may be read: an acceptance that failed to leave
        # closes the socket, a release is to be answered.
        if self.state_machine.current_state in _OUR_TURN or not self.event_queue.empty():
            return False
        # Lent from the moment this thread enters Sta6, so no P-DATA is ever read twice.
        if self._lends and self.state_machine.current_state == "Sta6":
            self._lent.set()
            self._wake.wait(PARKED_SECONDS)
            self._wake.clear()
            return False
        if self.state_machine.current_state == "Sta13":
            return self._drain()
        return bool(super()._is_transport_event())

    def _drain(self) -> bool:
        """Sta13: read past what still comes, for a short while, then close (PS3.8 9.2, AA-6)."""
        self._drain_until = self._drain_until or time.monotonic() + DRAIN_SECONDS
        transport = self.socket
        if transport.ready and time.monotonic() < self._drain_until:
            try:
                if transport.socket.recv(DRAIN_BYTES):
                    return True
            except OSError as error:
                log.debug("association.drain_ended", extra={"error": str(error)})
        transport.close()
        return True

    def _read_pdu_data(self) -> None:
        """Read one PDU within its limits and deadline (PS3.8 9.2, 9.3)."""
        reader = Reader(
            self.socket.socket,
            idle_seconds=ASSOCIATE_SECONDS,
            pdu_seconds=ASSOCIATE_SECONDS,
            buffer=2 * MAXIMUM_PDU,
            reads_ahead=False,
        )
        try:
            kind, length = reader.pdu_header()
            pdu = reader.pdu_body(kind, length)
        except ProtocolError as error:
            log.warning("pdu.refused", extra={"error": str(error)})
            self.event_queue.put(INVALID_PDU)
        except (OSError, DeadlinePassed):
            self.event_queue.put(TRANSPORT_CLOSED)
        else:
            self._deliver(pdu)

    def _deliver(self, data: bytes) -> None:
        try:
            pdu, event = self._decode_pdu(bytearray(data))
            if data[0] != P_DATA:
                pdu.to_primitive()  # as the state machine will, where an error ends its thread
        except Exception as error:  # noqa: BLE001  a decoder for hostile bytes raises anything
            log.warning("pdu.undecodable", extra={"error": type(error).__name__})
            self.event_queue.put(INVALID_PDU)
        else:
            self._recv_pdu.put(pdu)
            self.event_queue.put(event)
