"""Association negotiation as requestor: the A-ASSOCIATE PDUs (PS3.8 9.3.2 to 9.3.4).

pynetdicom writes and reads the PDUs; nothing of it runs, no thread and no state machine, so that
the connection is ours from the first byte. What a peer sends is judged here and raises only our
errors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from router.dimse.contexts import Proposal
from router.dimse.errors import Aborted, Malformed, Rejected
from router.dimse.wire import ABORT, Pdu

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
ASSOCIATE_AC, ASSOCIATE_RJ = 2, 3
MOST_ASSOCIATE_BYTES = 64 * 1024
LEAST_PDU = 128
"""A peer that takes less than this could not even take a command."""

_FIXED_BYTES = 68
_PRESENTATION_CONTEXT, _TRANSFER_SYNTAX = 0x21, 0x40
_USER_INFORMATION, _MAXIMUM_LENGTH = 0x50, 0x51
_ACCEPTANCE = 0


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
    primitive.user_information = [length, class_uid, version, *_roles(proposals)]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def _roles(proposals: Iterable[Proposal]) -> Iterator[SCP_SCU_RoleSelectionNegotiation]:
    """Yield one role selection a SOP class (PS3.7 D.3.3.4)."""
    roles = {one.abstract_syntax: one.role for one in proposals if one.role is not None}
    for sop_class_uid, (is_scu, is_scp) in roles.items():
        item = SCP_SCU_RoleSelectionNegotiation()
        item.sop_class_uid = sop_class_uid
        item.scu_role, item.scp_role = is_scu, is_scp
        yield item


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
    contexts, most_pdu = _read_acceptance(pdu.body)
    if 0 < most_pdu < LEAST_PDU:
        raise Malformed(f"the peer takes PDUs of {most_pdu} bytes only")
    return Accepted(_only_proposed(contexts, proposals), most_pdu)


def _read_acceptance(body: bytes) -> tuple[dict[int, str], int]:
    """Return the accepted contexts and the peer's maximum length (PS3.8 9.3.3, PS3.8 D.1)."""
    if len(body) < _FIXED_BYTES:
        raise Malformed("the peer's A-ASSOCIATE-AC ends too soon")
    contexts: dict[int, str] = {}
    most_pdu = 0
    for kind, value in _items(body[_FIXED_BYTES:]):
        if kind == _PRESENTATION_CONTEXT and len(value) >= 4 and value[2] == _ACCEPTANCE:
            syntaxes = [uid for sub, uid in _items(value[4:]) if sub == _TRANSFER_SYNTAX]
            contexts[value[0]] = b"".join(syntaxes).rstrip(b"\0 ").decode("ascii", "replace")
        elif kind == _USER_INFORMATION:
            lengths = [most for sub, most in _items(value) if sub == _MAXIMUM_LENGTH]
            most_pdu = int.from_bytes(b"".join(lengths)[:4], "big")
    return contexts, most_pdu


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 + length > len(data):
            raise Malformed("the peer's A-ASSOCIATE-AC does not add up")
        yield data[at], data[at + 4 : at + 4 + length]
        at += 4 + length


def _only_proposed(contexts: Mapping[int, str], proposals: Iterable[Proposal]) -> dict[int, str]:
    """Drop what the peer "accepted" without having been asked."""
    return {
        proposal.context_id: contexts[proposal.context_id]
        for proposal in proposals
        if contexts.get(proposal.context_id) in proposal.transfer_syntaxes
    }
