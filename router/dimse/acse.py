"""Association negotiation as requestor: the A-ASSOCIATE PDUs (PS3.8 9.3.2 to 9.3.4).

pynetdicom writes and reads the PDUs; nothing of it runs, no thread and no state machine, so that
the connection is ours from the first byte. What a peer sends is judged here and raises only our
errors.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

from router.dimse.contexts import Proposal
from router.dimse.errors import Aborted, Malformed, Rejected
from router.dimse.wire import ABORT, HEADER, Pdu

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
ASSOCIATE_AC, ASSOCIATE_RJ = 2, 3
MOST_ASSOCIATE_BYTES = 64 * 1024
LEAST_PDU = 128
"""A peer that takes less than this could not even take a command."""

PYNETDICOM_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pynetdicom raises when it decodes what is not what it should be."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the peer agreed to: transfer syntax by context id, and the longest P-DATA it takes
    (0: any)."""

    contexts: Mapping[int, str]
    most_pdu: int


def request(
    *,
    calling_ae: str,
    called_ae: str,
    most_pdu: int,
    implementation: tuple[str, str],
    proposals: Sequence[Proposal],
) -> bytes:
    """Return the A-ASSOCIATE-RQ that proposes `proposals` and takes PDUs up to `most_pdu` bytes.

    `implementation` is our implementation class UID and version name (PS3.7 D.3.3.2).
    """
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling_ae, called_ae
    primitive.presentation_context_definition_list = [_context(p) for p in proposals]
    length, class_uid, version = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = most_pdu
    class_uid.implementation_class_uid, version.implementation_version_name = implementation
    primitive.user_information = [length, class_uid, version]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def _context(proposal: Proposal) -> PresentationContext:
    context = PresentationContext()
    context.context_id = proposal.context_id
    context.abstract_syntax = proposal.abstract_syntax
    context.transfer_syntax = list(proposal.transfer_syntaxes)
    return context


def answer(pdu: Pdu, proposals: Iterable[Proposal]) -> Accepted:
    """Read the answer to our request.

    Raises:
        Rejected: A-ASSOCIATE-RJ. Aborted: A-ABORT. Malformed: anything else but a sound AC.
    """
    if pdu.kind == ASSOCIATE_RJ and len(pdu.body) == 4:
        raise Rejected(*pdu.body[1:4])
    if pdu.kind == ABORT and len(pdu.body) == 4:
        raise Aborted(*pdu.body[2:4])
    if pdu.kind != ASSOCIATE_AC:
        raise Malformed(f"the peer answered the association request with PDU type {pdu.kind}")
    try:
        decoded = A_ASSOCIATE_AC()
        decoded.decode(HEADER.pack(pdu.kind, len(pdu.body)) + pdu.body)
        contexts = {
            int(item.presentation_context_id): str(item.transfer_syntax)
            for item in decoded.presentation_context
            if item.result == 0
        }
        most_pdu = int(decoded.to_primitive().maximum_length_received or 0)
    except PYNETDICOM_ERRORS as error:
        raise Malformed("the peer's A-ASSOCIATE-AC cannot be read") from error
    if 0 < most_pdu < LEAST_PDU:
        raise Malformed(f"the peer takes PDUs of {most_pdu} bytes only")
    return Accepted(_only_proposed(contexts, proposals), most_pdu)


def _only_proposed(contexts: Mapping[int, str], proposals: Iterable[Proposal]) -> dict[int, str]:
    """Drop what the peer "accepted" without having been asked."""
    return {
        proposal.context_id: contexts[proposal.context_id]
        for proposal in proposals
        if contexts.get(proposal.context_id) in proposal.transfer_syntaxes
    }
