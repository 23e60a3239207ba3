"""Accepts connections within the limits and makes associations of those that ask for one.

One thread accepts, watches who waits (`ingest.waiting`) and expires them. It refuses to judge
callers (the receiver does) and objects.
"""

import errno
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from pynetdicom import evt
from pynetdicom.transport import AddressInformation, AssociationServer

from ingest.association import InboundAssociation
from ingest.guard import REJECT_LIMIT, Turnstile
from ingest.memory import give_back
from ingest.notices import Notices
from ingest.sources import LIMIT_EXCEEDED
from ingest.tls import shake_hands
from ingest.waiting import EVICTED, SILENT, Port, Unwelcome, Visitor, WaitingRoom
from ingest.wire import DeadlinePassed, ProtocolError, read_request

if TYPE_CHECKING:
    from ingest.scp import Receiver

log = logging.getLogger(__name__)

BACKLOG = 128
CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.2
DISK_SECONDS = 2.0
# So many times as many as may have an association may wait for one.
WAITING = 2
GARBAGE_SECONDS = 10.0
# An association that is asked to give way notices within a tick (`ingest.wire`) and is torn down.
HOPE_SECONDS = 5.0
HANDSHAKE_FAILED = "tls_handshake_failed"
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ReceiverServer(AssociationServer):  # type: ignore[misc]  # pynetdicom carries no types
    """Accepts connections within the limits and makes associations of those that ask for one.

    One thread accepts, watches who waits and expires them; an association's thread, or that of a
    TLS handshake, exists only once a whole request has arrived.
    """

    def __init__(
        self,
        *args: Any,  # Any: passed on as AE.make_server gives them
        receiver: "Receiver",
        ports: tuple[Port, ...],
        **options: Any,
    ) -> None:
        self.receiver = receiver
        self.socket: socket.socket
        self._ports = ports
        self._associations: set[InboundAssociation] = set()
        self._changed = threading.Condition()
        self._turnstile = Turnstile()
        self._notices = Notices(receiver.turned_away)
        self._greeting: dict[Visitor, None] = {}
        self._hopeful: dict[Visitor, None] = {}
        self._is_stopping = threading.Event()
        self._look_at_disk = self._collect_garbage = 0.0
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Use the listener we were given in place of the socket made by the base class."""
        self.socket.close()
        self.socket = self._ports[0].listener
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """They listen already. Several processes accept from one, so an accept may be in vain."""
        for port in self._ports:
            port.listener.settimeout(0.0)

    def server_close(self) -> None:
        """Close our listeners only: a shutdown would end them for the other processes too."""
        for port in self._ports:
            port.listener.close()
        self._turnstile.close()
        self._notices.close()

    def serve_forever(self, poll_interval: float = POLL_SECONDS) -> None:
        """Accept until `stop_accepting`. The one loop that must survive."""
        table = self.receiver.connections
        room = WaitingRoom(
            self._ports,
            most=WAITING * table.most,
            most_per_address=WAITING * table.most_per_address,
        )
        try:
            while not self._is_stopping.is_set():
                try:
                    self._turn(room, poll_interval)
                except Exception:
                    log.exception("connections.failed")
                    time.sleep(poll_interval)
        finally:
            for visitor in room.everyone():
                room.leave(visitor)
                self._send_away(visitor, "")
            for visitor in self._hopeful:
                self._send_away(visitor, "")
            room.close()

    def _turn(self, room: WaitingRoom, seconds: float) -> None:
        for news in room.wait(seconds):
            if isinstance(news, Port):
                self._accept_from(news, room)
            elif news in room:
                self._look_at(news, room)
        for visitor in room.late():
            room.leave(visitor)
            self._send_away(visitor, SILENT)
        self._look_at_hopeful()
        self.service_actions()

    def _accept_from(self, port: Port, room: WaitingRoom) -> None:
        for _ in range(BACKLOG):
            try:
                sock, address = port.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    log.error("connection.not_accepted", extra={"error": str(error)})
                    time.sleep(POLL_SECONDS)
                return
            self._receive_visitor(sock, address, port=port, room=room)

    def _receive_visitor(
        self, sock: socket.socket, address: Any, *, port: Port, room: WaitingRoom
    ) -> None:
        """Let a newcomer wait. Any: an address of any family."""
        host = str(address[0])
        for oldest in room.too_many(host):
            room.leave(oldest)
            self._send_away(oldest, EVICTED)
        deadline = time.monotonic() + self.receiver.request_seconds
        visitor = Visitor(sock, host, port, deadline, remote_port=int(address[1]))
        try:
            sock.settimeout(0.0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            room.enter(visitor)
        except OSError as error:
            log.info("connection.lost", extra={"remote": host, "error": str(error)})
            self._send_away(visitor, "")

    def _slot_for(self, host: str) -> int | None:
        """A slot, if need be that of the TLS peer that has been shaking hands longest."""
        table = self.receiver.connections
        slot = table.acquire(host)
        if slot is None:
            late = self._oldest_greeting(host if table.is_full_for(host) else None)
            if late is not None:
                self._send_away(late, EVICTED)
                slot = table.acquire(host)
        return slot

    def _oldest_greeting(self, host: str | None) -> Visitor | None:
        with self._changed:
            return next((v for v in self._greeting if host in {None, v.host}), None)

    def _look_at(self, visitor: Visitor, room: WaitingRoom) -> None:
        try:
            if not visitor.is_complete():
                return
        except Unwelcome as verdict:
            room.leave(visitor)
            self._send_away(visitor, verdict.reason, last_word=verdict.last_word)
            return
        room.leave(visitor)
        visitor.slot = self._slot_for(visitor.host)  # the limits, before a thread is made
        if visitor.slot is not None:
            self._let_in(visitor)
        elif self._ask_for_room(visitor.host):
            visitor.deadline = min(visitor.deadline, time.monotonic() + HOPE_SECONDS)
            self._hopeful[visitor] = None
        else:
            self._turn_away_full(visitor)

    def _let_in(self, visitor: Visitor) -> None:
        if visitor.port.context is None:
            self._open_association(visitor)
        else:
            self._start(threading.Thread(target=self._greet, args=(visitor,)), visitor)

    def _turn_away_full(self, visitor: Visitor) -> None:
        word = b"" if visitor.port.context else REJECT_LIMIT
        self._send_away(visitor, LIMIT_EXCEEDED.reason, last_word=word)

    def _ask_for_room(self, host: str) -> bool:
        """Ask an association that rests to end; each question is for one newcomer."""
        table = self.receiver.connections
        of_host = host if table.is_full_for(host) else None
        return table.ask_idlest(of_host, resting=self.receiver.rest_seconds)

    def _look_at_hopeful(self) -> None:
        """Let those in for whom room was made, turn away those who waited for it in vain."""
        now = time.monotonic()
        for visitor in list(self._hopeful):
            visitor.slot = self._slot_for(visitor.host)
            if visitor.slot is None and visitor.deadline > now:
                continue
            del self._hopeful[visitor]
            if visitor.slot is None:
                self._turn_away_full(visitor)
            else:
                visitor.deadline = now + self.receiver.request_seconds
                self._let_in(visitor)

    def _start(self, thread: threading.Thread, visitor: Visitor) -> None:
        with self._changed:
            self._greeting[visitor] = None
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._forget_greeting(visitor)
            log.error("connection.failed", extra={"remote": visitor.host, "error": str(error)})
            self._send_away(visitor, "")

    def _greet(self, visitor: Visitor) -> None:
        """A TLS peer in its own thread: handshake and request within the one deadline."""
        context = visitor.port.context
        assert context is not None  # noqa: S101  only visitors of the TLS port come here
        try:
            visitor.socket = shake_hands(visitor.socket, context, deadline=visitor.deadline)
            visitor.request = read_request(visitor.socket, deadline=visitor.deadline)
        except (OSError, ProtocolError, DeadlinePassed) as error:
            log.info("tls.refused", extra={"remote": visitor.host, "error": str(error)})
            self._send_away(visitor, HANDSHAKE_FAILED)
        else:
            self._open_association(visitor)
        finally:
            self._forget_greeting(visitor)

    def _forget_greeting(self, visitor: Visitor) -> None:
        with self._changed:
            self._greeting.pop(visitor, None)

    def _open_association(self, visitor: Visitor) -> None:
        slot = visitor.take_slot()
        if slot is None:  # it gave way to another in the last moment
            visitor.socket.close()
            return
        try:
            visitor.socket.settimeout(CONNECT_SECONDS)
            assoc = self._association(visitor, slot)
            self._remember(assoc)
            assoc.start()
        except (OSError, RuntimeError) as error:  # no thread, no memory
            log.error("connection.failed", extra={"remote": visitor.host, "error": str(error)})
            self.receiver.connections.release(slot)
            visitor.socket.close()

    def _association(self, visitor: Visitor, slot: int) -> InboundAssociation:
        assoc = InboundAssociation(self, visitor, slot=slot)
        assoc.name = f"AcceptorThread@{visitor.host}"
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.ae_title
        assoc.acceptor.address_info = AddressInformation.from_tuple(self.server_address)
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        remote = (visitor.host, visitor.remote_port)
        assoc.requestor.address_info = AddressInformation.from_tuple(remote)
        assoc.bind(evt.EVT_C_STORE, assoc.on_c_store)
        return assoc

    def _send_away(self, visitor: Visitor, reason: str, *, last_word: bytes = b"") -> None:
        """Close a connection that came to nothing; without a reason it is not worth a line."""
        slot = visitor.take_slot()
        if slot is not None:
            self.receiver.connections.release(slot)
        if reason:
            self._notices.put(visitor.host, reason)
        self._turnstile.turn_away(visitor.socket, last_word)

    def service_actions(self) -> None:
        """What is due now and then. The base class collects garbage far too often."""
        self._turnstile.close_due()
        now = time.monotonic()
        if now >= self._look_at_disk:
            self._look_at_disk = now + DISK_SECONDS
            self.receiver.storage.disk.look()
        if now >= self._collect_garbage:
            self._collect_garbage = now + GARBAGE_SECONDS
            give_back()

    def _remember(self, assoc: InboundAssociation) -> None:
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
        """End the loop within a poll; the AE does not know a server made by make_server."""
        self._is_stopping.set()

    def stop_associations(self) -> None:
        for assoc in self.associations:
            assoc.stop()
