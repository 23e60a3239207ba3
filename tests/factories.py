"""Rows for tests: each function makes one valid row and whatever it hangs on.

Every argument has a default; give only what the test is about. Numbers come from one counter, so
rows never collide and a failing test reads the same each time.
"""

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

from router.models import (
    DONE_STATES,
    Association,
    Attempt,
    AttemptOutcome,
    AuditEvent,
    AuditOutcome,
    Cause,
    ConfigRevision,
    CounterKind,
    Decision,
    Destination,
    DestinationGroup,
    DestinationVersion,
    Heartbeat,
    HourCount,
    Instance,
    InstanceState,
    Job,
    JobItem,
    Lane,
    OriginKind,
    ProofGrade,
    Receipt,
    ReceiptOutcome,
    Role,
    RoutingMark,
    Rule,
    RuleState,
    Series,
    Source,
    Study,
    User,
)
from router.services import clock

# Any in this module: field values of a model, whose types the model itself checks.

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
UID_ROOT = "1.2.826.0.1.3680043.10.1234"
PASSWORD = "correct horse battery"

_numbers = count(1)


def uid() -> str:
    """Return a UID that no other row has."""
    return f"{UID_ROOT}.{next(_numbers)}"


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def role(name: str = "operator", **fields: Any) -> Role:
    """Return a role, made where it is missing; built-in ones with their permissions."""
    from router.services import users

    permissions = sorted(users.BUILT_IN.get(name, []))
    usual = {"built_in": name in users.BUILT_IN, "can_sign_in": name != "service"}
    defaults = {"permissions": permissions} | usual | fields
    return Role.objects.get_or_create(name=name, defaults=defaults)[0]


def user(
    name: str = "",
    *,
    role: str = "operator",
    limit: dict[str, list[str]] | None = None,
    password: str = PASSWORD,
) -> User:
    """Make a user of a role, who signs in with ``PASSWORD``."""
    row = User(
        username=name or f"{role}-{next(_numbers)}", role=_role(role), limit=dict(limit or {})
    )
    row.set_password(password)
    row.save()
    return row


def association(**fields: Any) -> Association:
    """Make an association that has ended."""
    now = clock.now()
    defaults = {
        "uid": uuid4().hex,
        "origin": OriginKind.DIMSE,
        "calling_ae": "CT1",
        "called_ae": "DICOMROUTER",
        "remote_host": "10.1.0.7",
        "remote_port": 40112,
        "source": "ct-1",
        "started_at": now - timedelta(minutes=5),
        "ended_at": now - timedelta(minutes=4),
        "end_reason": "released",
        "seen_at": now - timedelta(minutes=4),
    }
    return Association.objects.create(**defaults | fields)


def study(**fields: Any) -> Study:
    """Make a study without series; its counts are what the test gives."""
    number = next(_numbers)
    now = clock.now()
    defaults = {
        "study_instance_uid": uid(),
        "patient_id": f"PID-{number:05}",
        "issuer_of_patient_id": "",
        "patient_name": "Smith^John",
        "patient_birth_date": "19601231",
        "patient_sex": "M",
        "study_date": f"{now:%Y%m%d}",
        "study_time": "101500",
        "study_id": str(number),
        "accession_number": f"ACC{number:05}",
        "study_description": "CT chest",
        "referring_physician_name": "Jones^Ann",
        "institution_name": "General",
        "modalities": "CT",
        "source": "ct-1",
        "series_count": 1,
        "instances_count": 1,
        "bytes": 524_288,
        "first_received_at": now - timedelta(minutes=5),
        "last_received_at": now - timedelta(minutes=4),
    }
    merged = defaults | fields
    merged.setdefault("patient_name_search", _searchable(str(merged["patient_name"])))
    return Study.objects.create(**merged)


def series(study: Study | None = None, **fields: Any) -> Series:
    """Make a series of a study."""
    defaults = {
        "study": study or _study(),
        "series_instance_uid": uid(),
        "modality": "CT",
        "series_number": 1,
        "series_description": "Axial",
        "body_part_examined": "CHEST",
        "series_date": "",
        "instances_count": 1,
    }
    return Series.objects.create(**defaults | fields)


def instance(series: Series | None = None, **fields: Any) -> Instance:
    """Make a stored object (its row; no file)."""
    parent = series or _series()
    file_id = uuid4().hex
    defaults = {
        "study": parent.study,
        "series": parent,
        "sop_instance_uid": uid(),
        "sop_class_uid": CT_IMAGE_STORAGE,
        "transfer_syntax_uid": EXPLICIT_LITTLE,
        "instance_number": 1,
        "state": InstanceState.CURRENT,
        "file_id": file_id,
        "sha256": digest(file_id),
        "size": 524_288,
        "offset": 356,
        "received_at": clock.now() - timedelta(minutes=4),
    }
    return Instance.objects.create(**defaults | fields)


def receipt(
    instance: Instance | None = None, *, association: Association | None = None, **fields: Any
) -> Receipt:
    """Make the receipt of an object."""
    stored = instance or _instance()
    defaults = {
        "uid": stored.file_id,
        "association": association or _association(),
        "outcome": ReceiptOutcome.STORED,
        "reason": "",
        "sop_class_uid": stored.sop_class_uid,
        "sop_instance_uid": stored.sop_instance_uid,
        "study_instance_uid": stored.study.study_instance_uid,
        "series_instance_uid": stored.series.series_instance_uid,
        "transfer_syntax_uid": stored.transfer_syntax_uid,
        "sha256": stored.sha256,
        "size": stored.size,
        "instance": stored,
        "received_at": stored.received_at,
    }
    return Receipt.objects.create(**defaults | fields)


def mark(
    instance: Instance | None = None,
    *,
    association: Association | None = None,
    decision: Decision | None = None,
    **fields: Any,
) -> RoutingMark:
    """Make the "to be routed" mark of an object; undecided unless a decision is given."""
    defaults = {
        "instance": instance or _instance(),
        "association": association or _association(),
        "decision": decision,
        "created_at": clock.now(),
    }
    return RoutingMark.objects.create(**defaults | fields)


def decision(study: Study | None = None, **fields: Any) -> Decision:
    """Make a decision about a study, without rules tried unless given."""
    defaults = {
        "study": study or _study(),
        "phase": "arrival",
        "outcome": "routed",
        "explanation": [],
        "destinations": {},
        "instances_count": 1,
        "chosen_count": 1,
        "created_at": clock.now(),
    }
    return Decision.objects.create(**defaults | fields)


def destination(
    name: str = "",
    *,
    kind: str = "dicom",
    settings: dict[str, Any] | None = None,
    lane: dict[str, Any] | None = None,
    **fields: Any,
) -> Destination:
    """Make a destination with its first version and its lane."""
    row = Destination.objects.create(name=name or f"pacs-{next(_numbers)}", kind=kind, **fields)
    usual = {"host": "127.0.0.1", "port": 4242, "ae_title": "ORTHANC", "associations": 2}
    row.version = DestinationVersion.objects.create(
        destination=row,
        number=1,
        endpoint=row.endpoint,
        settings=usual if settings is None else settings,
        created_at=clock.now(),
    )
    row.save(update_fields=["version"])
    Lane.objects.create(destination=row, **lane or {})
    return row


def job(
    study: Study | None = None, *, destination: Destination | None = None, **fields: Any
) -> Job:
    """Make a job: one study for one destination."""
    defaults = {
        "key": f"test:{next(_numbers)}",
        "study": study or _study(),
        "destination": destination or _destination(),
        "cause": Cause.RULE,
        "rule": "all-to-pacs",
        "created_at": clock.now(),
    }
    return Job.objects.create(**defaults | fields)


def item(job: Job | None = None, *, instance: Instance | None = None, **fields: Any) -> JobItem:
    """Make one item of a job; ``state`` and the rest as given, pending by default."""
    parent = job or _job()
    stored = instance or _instance(_series(parent.study))
    defaults = {
        "job": parent,
        "destination": parent.destination,
        "instance": stored,
        "cause": parent.cause,
        "endpoint": parent.destination.endpoint,
        "size": stored.size,
        "created_at": clock.now(),
        "proof": ProofGrade.ACCEPTED if fields.get("state") in DONE_STATES else ProofGrade.NONE,
    }
    return JobItem.objects.create(**defaults | fields)


def attempt(item: JobItem | None = None, **fields: Any) -> Attempt:
    """Make an attempt of an item that succeeded."""
    tried = item or _item()
    now = clock.now()
    defaults = {
        "item": tried,
        "fence": next(_numbers),
        "version": tried.destination.version,
        "started_at": now - timedelta(seconds=2),
        "ended_at": now,
        "outcome": AttemptOutcome.SUCCESS,
        "status": 0,
        "bytes_sent": tried.size,
    }
    return Attempt.objects.create(**defaults | fields)


def source(name: str = "", **fields: Any) -> Source:
    """Make a source that may echo and store."""
    defaults = {"ae_title": "CT1", "hosts": ["10.1.0.0/16"], "services": ["echo", "store"]}
    return Source.objects.create(name=name or f"source-{next(_numbers)}", **defaults | fields)


def group(
    name: str = "", *, members: Iterable[Destination] = (), **fields: Any
) -> DestinationGroup:
    """Make a fail-over group of destinations, in their order."""
    names = [one.name for one in members]
    label = name or f"pool-{next(_numbers)}"
    return DestinationGroup.objects.create(name=label, members=names, **fields)


def rule(name: str = "", *, send: Iterable[str] = (), **fields: Any) -> Rule:
    """Make a live rule that takes every instance."""
    defaults = {"state": RuleState.LIVE, "send": list(send)}
    return Rule.objects.create(name=name or f"rule-{next(_numbers)}", **defaults | fields)


def revision(**fields: Any) -> ConfigRevision:
    """Make the next configuration revision."""
    last = ConfigRevision.objects.order_by("-number").values_list("number", flat=True).first()
    defaults = {
        "number": (last or 0) + 1,
        "created_at": clock.now(),
        "actor": "admin",
        "document": {"version": 1},
        "digest": digest(str(last)),
        "changes": [],
    }
    return ConfigRevision.objects.create(**defaults | fields)


def audit_event(**fields: Any) -> AuditEvent:
    """Make an audit event."""
    defaults = {
        "at": clock.now(),
        "event": "login.success",
        "code": "110114",
        "outcome": AuditOutcome.SUCCESS,
        "actor": "admin",
        "actor_kind": "user",
        "remote_address": "127.0.0.1",
    }
    return AuditEvent.objects.create(**defaults | fields)


def heartbeat(role: str = "worker", **fields: Any) -> Heartbeat:
    """Make a fresh sign of life of a process."""
    defaults = {"name": f"{role}-host-{next(_numbers)}", "role": role, "at": clock.now()}
    return Heartbeat.objects.create(**defaults | fields)


def hour_count(kind: CounterKind = CounterKind.RECEIVED, **fields: Any) -> HourCount:
    """Make a count of the current hour."""
    hour = clock.now().replace(minute=0, second=0, microsecond=0)
    defaults = {"hour": hour, "kind": kind, "modality": "CT", "source": "ct-1", "objects_count": 1}
    return HourCount.objects.create(**defaults | fields)


def _searchable(name: str) -> str:
    from router.services.header_text import searchable

    return searchable(name)


# Parameters above bear the names of their rows, so the functions go by other names inside.
_role, _study, _series, _instance = role, study, series, instance
_association, _destination, _job, _item = association, destination, job, item
