"""Rows with their querysets; no input or output beyond the database."""

from router.models.audit import AuditEvent, AuditOutcome
from router.models.config import ConfigRevision, RoutingDefaults, Unmatched
from router.models.counters import Bell, CounterKind, Heartbeat, HourCount, LedgerCheck
from router.models.destinations import Destination, DestinationVersion, Lane, LaneSlot, LaneState
from router.models.jobs import (
    DONE_STATES,
    OPEN_STATES,
    Attempt,
    AttemptOutcome,
    Cause,
    Decision,
    DecisionOutcome,
    DecisionPhase,
    ItemState,
    Job,
    JobItem,
    ProofGrade,
    QuietTimer,
    TimerItem,
)
from router.models.priorities import Priority
from router.models.receipts import (
    Association,
    OriginKind,
    Receipt,
    ReceiptOutcome,
    RoutingMark,
)
from router.models.replays import (
    PairState,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayPair,
    ReplayRoute,
    ReplayState,
)
from router.models.rules import Rule, RuleState, Trigger
from router.models.secrets import Secret
from router.models.sources import DuplicatePolicy, Source
from router.models.studies import Instance, InstanceState, Series, Study, location_of
from router.models.users import ApiToken, Permission, Role, Scope, User

__all__ = [
    "DONE_STATES",
    "OPEN_STATES",
    "ApiToken",
    "Association",
    "Attempt",
    "AttemptOutcome",
    "AuditEvent",
    "AuditOutcome",
    "Bell",
    "Cause",
    "ConfigRevision",
    "CounterKind",
    "Decision",
    "DecisionOutcome",
    "DecisionPhase",
    "Destination",
    "DestinationVersion",
    "DuplicatePolicy",
    "Heartbeat",
    "HourCount",
    "Instance",
    "InstanceState",
    "ItemState",
    "Job",
    "JobItem",
    "Lane",
    "LaneSlot",
    "LaneState",
    "LedgerCheck",
    "OriginKind",
    "PairState",
    "Permission",
    "Priority",
    "ProofGrade",
    "QuietTimer",
    "Receipt",
    "ReceiptOutcome",
    "Replay",
    "ReplayContent",
    "ReplayOnly",
    "ReplayPair",
    "ReplayRoute",
    "ReplayState",
    "Role",
    "RoutingDefaults",
    "RoutingMark",
    "Rule",
    "RuleState",
    "Scope",
    "Secret",
    "Series",
    "Source",
    "Study",
    "TimerItem",
    "Trigger",
    "Unmatched",
    "User",
    "location_of",
]
