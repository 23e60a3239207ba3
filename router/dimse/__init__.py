"""DIMSE as a service class user: associations that we request (PS3.7, PS3.8).

Speaks the protocol and reports what the peer did; what that means for an item is judged elsewhere.
"""

from router.dimse.association import Association, Found, Peer, associate
from router.dimse.commands import VERIFICATION, Event, Message, Response
from router.dimse.contexts import AS_STORED, Plan, Preference, Proposal, choose, plan
from router.dimse.errors import (
    Aborted,
    DimseError,
    Lost,
    Malformed,
    Rejected,
    Released,
    Stalled,
    Stopped,
    Unreachable,
    Untrusted,
)
from router.dimse.events import Take, act, attend
from router.dimse.pace import Pace
from router.dimse.parcel import Damaged, Parcel, Readable, Sent, Unreadable
from router.dimse.secure import Tls

__all__ = [
    "AS_STORED",
    "VERIFICATION",
    "Aborted",
    "Association",
    "Damaged",
    "DimseError",
    "Event",
    "Found",
    "Lost",
    "Malformed",
    "Message",
    "Pace",
    "Parcel",
    "Peer",
    "Plan",
    "Preference",
    "Proposal",
    "Readable",
    "Rejected",
    "Released",
    "Response",
    "Sent",
    "Stalled",
    "Stopped",
    "Take",
    "Tls",
    "Unreachable",
    "Unreadable",
    "Untrusted",
    "act",
    "associate",
    "attend",
    "choose",
    "plan",
]
