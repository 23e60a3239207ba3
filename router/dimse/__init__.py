"""DIMSE as a service class user: associations that we request (PS3.7, PS3.8).

Speaks the protocol and reports what the peer did; what that means for an item is judged elsewhere.
"""

from router.dimse.association import (
    Association,
    Damaged,
    Parcel,
    Peer,
    Readable,
    Sent,
    Unreadable,
    associate,
)
from router.dimse.commands import VERIFICATION, Response
from router.dimse.contexts import Plan, Proposal, choose, plan
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
)
from router.dimse.pace import Pace

__all__ = [
    "VERIFICATION",
    "Aborted",
    "Association",
    "Damaged",
    "DimseError",
    "Lost",
    "Malformed",
    "Pace",
    "Parcel",
    "Peer",
    "Plan",
    "Proposal",
    "Readable",
    "Rejected",
    "Released",
    "Response",
    "Sent",
    "Stalled",
    "Stopped",
    "Unreachable",
    "Unreadable",
    "associate",
    "choose",
    "plan",
]
