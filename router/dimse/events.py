"""N-ACTION as a user, and the N-EVENT-REPORTs that may come meanwhile (PS3.7 10.1.1 and 10.1.4).

The peer may report before it has answered our request, for the two directions are independent; so
every wait for an answer takes reports too. Knows no service: what an event means, and with which
status it is answered, is the caller's business.
"""

import time
from collections.abc import Callable

from router.dimse import commands
from router.dimse.association import Association
from router.dimse.commands import Event, Message, Response
from router.dimse.errors import DimseError, Lost, Released

Take = Callable[[Event], int]
"""Takes an event over, durably, and returns the status to answer it with."""


def act(
    association: Association,
    context_id: int,
    data: bytes,
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    type_id: int,
    take: Take,
) -> Response:
    """Send an N-ACTION with its Action Information and return the answer.

    Raises:
        DimseError: no answer, and why. The association is over.
    """
    message_id = association.next_message_id()
    command = commands.action_request(
        sop_class_uid, sop_instance_uid, type_id=type_id, message_id=message_id
    )
    association.say(context_id, command, data)
    while True:
        heard = association.hear(context_id)
        if not _is_taken(association, context_id, heard, take):
            return association.judged(heard, field=commands.N_ACTION_RSP, message_id=message_id)


def attend(
    association: Association,
    context_id: int,
    *,
    take: Take,
    is_done: Callable[[], bool],
    seconds: float,
) -> None:
    """Take events until `is_done`, or for so many seconds, or until the peer ends the association.

    Raises:
        DimseError: the peer said something else, or nothing whole. The association is over.
    """
    end = time.monotonic() + seconds
    try:
        while not is_done() and association.is_spoken_to(end - time.monotonic()):
            heard = association.hear(context_id)
            if not _is_taken(association, context_id, heard, take):
                association.refuse("the peer sent something else than a report")
    except (Lost, Released):
        return  # it need not wait for us; what it has yet to report comes another way


def _is_taken(association: Association, context_id: int, heard: Message, take: Take) -> bool:
    """Answer the peer's message if it is a report; tell whether it was."""
    try:
        event = commands.event_of(heard)
    except DimseError:
        association.abort()
        raise
    if event is None:
        return False
    association.say(context_id, commands.event_response(event, status=take(event)))
    return True
