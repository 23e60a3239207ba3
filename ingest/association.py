"""One inbound association: pynetdicom's, with our negotiation, our limits and our data transfer.

pynetdicom negotiates, releases and aborts. While the association is established its thread owns
the socket (`ingest.dialogue`); the upper layer's thread sleeps meanwhile. It refuses to know what
storing means (`ingest.handlers`) and who may come (`ingest.sources`); it asks the receiver.
"""

import logging
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass

from ingest.dialogue import Dialogue
from ingest.handlers import Session, StoreRequest
from ingest.negotiation import Context, Proposal, Roles, negotiate
from ingest.sources import Admission, Rejection
from ingest.status import Status
from ingest.upper_layer import INVALID_PDU, TRANSPORT_CLOSED, Transport, UpperLayer
from ingest.waiting import Visitor
from ingest.wire import (
    TICK,
    DeadlinePassed,
    ProtocolError,
    Reader,
    StopRequested,
)
from router.spool import AssociationFacts

if TYPE_CHECKING:
    from ingest.scp import Receiver
    from ingest.server import ReceiverServer

log = logging.getLogger(__name__)

GAVE_WAY = "gave_way"


class Negotiator(ACSE):  # type: ignore[misc]  # as above
    """Association control with our admission and our choice of contexts (PS3.8 7.1.1)."""

    def _negotiate_as_acceptor(self) -> None:
        request = self.requestor.primitive
        self.requestor.ae_title = request.calling_ae_title
        verdict = self.assoc.receiver.admit(
            host=self.assoc.remote_host,
            calling_ae=request.calling_ae_title.strip(" "),
            called_ae=request.called_ae_title.strip(" "),
        )
        if isinstance(verdict, Rejection):
            self._reject(verdict)
        else:
            self._accept(verdict)

    def _reject(self, rejection: Rejection) -> None:
        self.send_reject(rejection.result, rejection.origin, rejection.diagnostic)
        evt.trigger(self.assoc, evt.EVT_REJECTED, {})
        self.assoc.kill()

    def _accept(self, admission: Admission) -> None:
        contexts, roles = negotiate(
            [_proposal(cx) for cx in self.requestor.primitive.presentation_context_definition_list],
            admission.services,
            roles={
                str(uid): Roles(scu=bool(item.scu_role), scp=bool(item.scp_role))
                for uid, item in self.requestor.role_selection.items()
            },
            is_reporter=admission.is_reporter,
        )
        answers = [_presentation_context(context) for context in contexts]
        self.assoc._accepted_cx = {cx.context_id: cx for cx in answers if cx.result == 0}
        self.assoc._rejected_cx = [cx for cx in answers if cx.result]
        for uid, role in roles.items():
            self.acceptor.add_negotiation_item(_role_item(uid, role))
        self.assoc.open_session(admission, tuple(contexts))
        self.send_accept()
        evt.trigger(self.assoc, evt.EVT_ACCEPTED, {})
        self.assoc.is_established = True
        evt.trigger(self.assoc, evt.EVT_ESTABLISHED, {})


class InboundAssociation(Association):  # type: ignore[misc]  # as above
    """An association of which we are the acceptor."""

    def __init__(self, server: "ReceiverServer", visitor: Visitor, *, slot: int) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self._server = server
        self.receiver: Receiver = server.receiver
        self.remote_host = visitor.host
        self.remote_port = visitor.remote_port
        self.is_secure = visitor.port.context is not None
        self.slot = slot
        self.session: Session | None = None
        self.is_stopping = False
        self._reason = ""
        self.acse = Negotiator(self)
        self.dul = UpperLayer(self, request=visitor.request, lends=server.receiver.takes_over)
        # The timeouts live in the upper layer, which is new.
        self.acse_timeout = self.ae.acse_timeout
        self.network_timeout = self.ae.network_timeout
        self.set_socket(Transport(self, client_socket=visitor.socket))

    def open_session(self, admission: Admission, contexts: tuple[Context, ...]) -> None:
        request = self.requestor.primitive
        facts = AssociationFacts(
            id=uuid.uuid4().hex,
            origin="dimse",
            calling_ae=request.calling_ae_title.strip(" "),
            called_ae=request.called_ae_title.strip(" "),
            remote_host=self.remote_host,
            remote_port=self.remote_port,
            source=admission.source,
            duplicates=admission.duplicates,
            started_at=datetime.now(UTC),
            secure=self.is_secure,
        )
        self.session = Session(facts, contexts, storage=self.receiver.storage)

    def stop(self) -> None:
        """End soon, by an abort, from another thread; data transfer notices within a tick."""
        self.is_stopping = True
        if not self.receiver.takes_over:
            self._reason = self._reason or "stopped"
            self.abort()

    def run_reactor(self) -> None:
        """The whole life of the association, in its own thread."""
        try:
            super().run_reactor()
        finally:
            if self.session is not None:
                self.session.close(self._end_reason())
            self._server.forget(self)

    def _run_reactor(self) -> None:
        session = self.session
        if session is not None and self.receiver.takes_over and self.dul.borrow():
            self._transfer(session)
        super()._run_reactor()

    def _transfer(self, session: Session) -> None:
        """Own the socket until data transfer ends, then give it back for the tear-down."""
        sock = self.dul.socket.socket
        sock.settimeout(TICK)
        pace = self.receiver.pace
        reader = Reader(
            sock,
            idle_seconds=self.network_timeout,
            pdu_seconds=pace.pdu_seconds,
            is_stopping=self._must_end,
        )
        dialogue = Dialogue(reader, session, send=sock.sendall, pace=pace, on_rest=self._note_rest)
        try:
            pdu = dialogue.run()
        except ProtocolError as error:
            log.warning("association.malformed", extra=_about(session, str(error)))
            self._end("protocol_error", event=INVALID_PDU)
        except OSError as error:
            log.warning("association.lost", extra=_about(session, str(error)))
            self._end("lost", event=TRANSPORT_CLOSED)
        except DeadlinePassed:
            self._end("timed_out")
            self.abort()
        except StopRequested:
            self._end("stopped" if self.is_stopping else GAVE_WAY)
            self.abort()
        except Exception:
            # The thread must still tear the association down.
            log.exception("association.failed", extra=_about(session, "unexpected"))
            self._end("failed")
            self.abort()
        else:
            self.dul.give_back(pdu)

    def _note_rest(self, is_resting: bool) -> None:  # noqa: FBT001  a callback's one argument
        table = self.receiver.connections
        (table.rest if is_resting else table.stir)(self.slot)

    def _must_end(self) -> bool:
        """Whether to stop reading: told to, or asked to make room and nothing has come."""
        if self.is_stopping:
            return True
        is_asked = self.receiver.connections.is_to_give_way(self.slot)
        return is_asked and not self.dul.socket.ready

    def _end(self, reason: str, *, event: str = "") -> None:
        self._reason = reason
        self.dul.give_back(event=event)

    def _end_reason(self) -> str:
        if self._reason:
            return self._reason
        return "released" if self.is_released else "aborted"

    def _serve_request(self, msg: object, context_id: int) -> None:
        """Storage of any SOP class goes to one service class; the rest is pynetdicom's.

        Only the stock path comes here: with the socket taken over no message reaches pynetdicom.
        """
        context = self._accepted_cx.get(context_id)
        if not isinstance(msg, C_STORE) or context is None:
            super()._serve_request(msg, context_id)
        elif msg.is_valid_request:
            StorageServiceClass(self).SCP(msg, context)
        else:
            self._answer_invalid(msg, context_id)

    def _answer_invalid(self, request: C_STORE, context_id: int) -> None:
        """pynetdicom leaves a request without a SOP Instance UID without an answer."""
        response = C_STORE()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.Status = int(self._store(request, self._accepted_cx[context_id].as_tuple)[0])
        self.dimse.send_msg(response, context_id)

    def on_c_store(self, event: evt.Event) -> Dataset:
        """The stock path's handler: the encoded data set through the same rules."""
        status, comment = self._store(event.request, event.context)
        answer = Dataset()
        answer.Status = int(status)
        if comment:
            answer.ErrorComment = comment
        return answer

    def _store(self, request: C_STORE, context: PresentationContext) -> tuple[Status, str]:
        session = self.session
        if session is None:
            raise RuntimeError("a message before negotiation")
        incoming = session.begin(
            StoreRequest(
                abstract_syntax=str(context.abstract_syntax),
                transfer_syntax=str(context.transfer_syntax),
                sop_class_uid=str(request.AffectedSOPClassUID or ""),
                sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
            )
        )
        with request.DataSet.getbuffer() as data:
            incoming.write(data)
        answer = incoming.finish()
        return answer.status, answer.comment


def _proposal(cx: PresentationContext) -> Proposal:
    return Proposal(
        context_id=cx.context_id,
        abstract_syntax=str(cx.abstract_syntax),
        transfer_syntaxes=tuple(map(str, cx.transfer_syntax)),
    )


def _presentation_context(context: Context) -> PresentationContext:
    answer = PresentationContext()
    answer.context_id = context.context_id
    answer.abstract_syntax = context.abstract_syntax
    answer.transfer_syntax = [context.transfer_syntax]
    answer.result = int(context.result)
    answer._as_scu = False
    answer._as_scp = context.is_accepted
    return answer


def _role_item(uid: str, role: Roles) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid = uid
    item.scu_role = role.scu
    item.scp_role = role.scp
    return item


def _about(session: Session, error: str) -> dict[str, object]:
    return {
        "association": session.facts.id,
        "remote": session.facts.remote_host,
        "error": error,
    }
