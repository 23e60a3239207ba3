"""P-DATA-TF PDUs (PS3.8 9.3.5 and Annex E): a message in fragments, and fragments read."""

from collections.abc import Iterator

from router.dimse.errors import Aborted, Malformed, Released
from router.dimse.wire import ABORT, HEADER, P_DATA, RELEASE_RQ, Buffer, Pdu

PDV_HEADER_BYTES = 6
COMMAND, LAST = 1, 2


def fragments(data: memoryview, context_id: int, control: int, *, most: int) -> Iterator[Buffer]:
    """Yield `data` as PDUs of one PDV of at most `most` bytes each; `LAST` goes on the last."""
    whole = header(most, context_id, control & COMMAND)
    end = max(0, len(data) - 1) // most * most
    for at in range(0, end, most):
        yield whole
        yield data[at : at + most]
    yield header(len(data) - end, context_id, control)
    yield data[end:]


def header(length: int, context_id: int, control: int) -> bytes:
    """Return what stands before `length` bytes of a message: the heads of a PDU and its one PDV."""
    return HEADER.pack(P_DATA, length + PDV_HEADER_BYTES) + bytes(
        [*(length + 2).to_bytes(4, "big"), context_id, control]
    )


def pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield context id, control byte and data of each PDV of a P-DATA PDU.

    Raises:
        Malformed: the lengths lie.
    """
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        if length < 2 or at + 4 + length > len(body):
            raise Malformed("the peer's P-DATA does not add up")
        yield body[at + 4], body[at + 5], body[at + PDV_HEADER_BYTES : at + 4 + length]
        at += 4 + length


def refuse_unexpected(pdu: Pdu) -> None:
    """Raise what a PDU other than P-DATA means where an answer is due.

    Raises:
        Aborted, Released, Malformed.
    """
    if pdu.kind == ABORT and len(pdu.body) == 4:
        raise Aborted(*pdu.body[2:4])
    if pdu.kind == RELEASE_RQ:
        raise Released
    if pdu.kind != P_DATA:
        raise Malformed(f"the peer sent PDU type {pdu.kind} where an answer is due")
