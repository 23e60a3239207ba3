"""A hospital's afternoon in rows: what the console shows when much has happened. No files.

``seed()`` is used by the browser tests; the names are invented.
"""

from datetime import datetime, timedelta

from router.models import (
    AttemptOutcome,
    Cause,
    CounterKind,
    Destination,
    Instance,
    InstanceState,
    ItemState,
    LaneState,
    PairState,
    ProofGrade,
    ReceiptOutcome,
    Replay,
    ReplayOnly,
    ReplayPair,
    ReplayState,
    Study,
)
from router.services import clock
from tests import factories

PATIENTS = (
    ("Okafor^Ngozi", "CT", "CT thorax with contrast"),
    ("Lindqvist^Anna Maria", "MR", "MR brain"),
    ("Yamada^Tarou=山田^太郎", "CR", "Chest PA"),  # the Standard's own example name, PS3.5 H.3
    ("Smith^John", "CT", "CT abdomen"),
    ("Dvorak^Petr", "US", "US abdomen"),
    ("Martinez^Elena", "MG", "Screening mammography"),
    ("Haddad^Layla", "MR", "MR lumbar spine"),
    ("Novak^Jan", "DX", "Left wrist, two views"),
    ("Ferrari^Giulia", "XA", "Coronary angiography"),
)
SOURCES = {"CT": "ct-1", "MR": "mr-north", "CR": "cr-2", "US": "us-er", "MG": "mammo"}
FOLDER = {"path": "/srv/out", "layout": "{StudyDate}/{SOPInstanceUID}.dcm", "mode": "0640"}
NO_TITLE = (
    "pacs-2 rejects our AE title DICOMROUTER (A-ASSOCIATE-RJ 1/1/3): it does not know our AE title "
    "DICOMROUTER. Add DICOMROUTER with our address there, or correct calling_ae here."
)


def outcome(
    rule: str, result: str, field: str = "", seen: str = "", wanted: str = ""
) -> dict[str, object]:
    """Return one line of an explanation, as the router writes it."""
    reason = {"field": field, "op": "in", "wanted": wanted, "seen": [seen], "note": ""}
    reasons = [reason | {"ok": result == "matched"}] if field else []
    return {
        "rule": rule, "state": "live", "result": result, "reasons": reasons, "stopped_by": "",
    }  # fmt: skip


def seed() -> Study:
    """Fill the database and return the study with the longest story."""
    now = clock.now()
    pacs, archive, folder = _destinations(now)
    factories.group("archives", members=[pacs, archive])
    _configuration()
    _processes(now)
    _counts(now)
    studies = [_study(index, now) for index in range(len(PATIENTS))]
    for index, study in enumerate(studies):
        _deliver(study, archive, ItemState.DELIVERED, now)
        if index % 3 == 0:
            _deliver(study, pacs, ItemState.PARKED, now, reason=NO_TITLE)
        elif index % 3 == 1:
            _deliver(study, folder, ItemState.LEASED, now)
        else:
            _deliver(study, folder, ItemState.WAITING, now)
    _story(studies[0], pacs, archive, now)
    _apart(studies[0], now)
    _unmatched(studies[4])
    for event in ("login.success", "study.viewed", "association.rejected", "config.applied"):
        factories.audit_event(event=event, outcome="4" if "rejected" in event else "0")
    return studies[0]


def _destinations(now: datetime) -> tuple[Destination, Destination, Destination]:
    stopped = {"state": LaneState.STOPPED, "reason": NO_TITLE, "last_failure_at": now}
    backoff = {
        "state": LaneState.BACKOFF,
        "reason": "Connection refused by 10.2.0.9:104.",
        "resume_at": now + timedelta(minutes=4),
        "last_failure_at": now - timedelta(minutes=1),
    }
    pacs = factories.destination("pacs-2", lane=stopped)
    archive = factories.destination("archive", lane={"last_success_at": now})
    folder = factories.destination("research", kind="folder", settings=FOLDER, lane=backoff)
    return pacs, archive, folder


def _configuration() -> None:
    for name, title in (("ct-1", "CT1"), ("mr-north", "MRN*"), ("cr-2", "CR2")):
        factories.source(name, ae_title=title)
    wants = {"field": "Modality", "op": "in", "value": ["CT", "MR"]}
    factories.rule("all-to-archive", send=["archive"], priority=10)
    factories.rule("ct-to-pacs", send=["pacs-2"], priority=20, when={"all": [wants]})
    factories.rule("mr-to-research", send=["research"], priority=30, state="shadow", when=wants)
    factories.rule("night-shift", send=["pacs-2"], priority=40, state="draft")
    first = {"version": 1, "destinations": [{"name": "archive", "kind": "dicom", "port": 104}]}
    second = {"version": 1, "destinations": [{"name": "archive", "kind": "dicom", "port": 4242}]}
    factories.revision(document=first, changes=["+ destination archive"])
    factories.revision(document=second, changes=["~ destination archive"], reason="New port")


def _processes(now: datetime) -> None:
    factories.heartbeat("receiver", name="receiver-router1-411")
    factories.heartbeat("worker", name="worker-router1-412")
    factories.heartbeat("web", name="web-router1-413", at=now - timedelta(minutes=3))


def _counts(now: datetime) -> None:
    hour = now.replace(minute=0, second=0, microsecond=0)
    for back in range(24):
        busy = 40 + abs(12 - back) * 35 + (back * 7919) % 90
        for modality, share in (("CT", 6), ("MR", 3), ("CR", 1)):
            number = busy * share
            factories.hour_count(
                hour=hour - timedelta(hours=back),
                modality=modality,
                objects_count=number,
                bytes=number * 524_288,
                source=SOURCES[modality],
            )
            factories.hour_count(
                CounterKind.DELIVERED,
                hour=hour - timedelta(hours=back),
                modality=modality,
                objects_count=number - back % 5,
                bytes=number * 524_288,
                destination="archive" if share > 1 else "research",
            )


def _study(index: int, now: datetime) -> Study:
    name, modality, description = PATIENTS[index]
    at = now - timedelta(minutes=7 * index, seconds=20)
    study = factories.study(
        patient_name=name,
        modalities=modality,
        study_description=description,
        source=SOURCES.get(modality, "ct-1"),
        first_received_at=at - timedelta(seconds=40),
        last_received_at=at,
        instances_count=12,
        bytes=12 * 524_288,
    )
    series = factories.series(study, modality=modality, instances_count=12)
    association = factories.association(
        calling_ae=modality + "1",
        source=study.source,
        started_at=at - timedelta(seconds=40),
        ended_at=None if index == 0 else at,
        seen_at=at,
        objects_count=12,
        bytes=12 * 524_288,
    )
    for number in range(1, 13):
        instance = factories.instance(series, instance_number=number, received_at=at)
        factories.receipt(instance, association=association)
    return study


def _deliver(
    study: Study, destination: Destination, state: ItemState, now: datetime, reason: str = ""
) -> None:
    job = factories.job(study, destination=destination, rule=f"all-to-{destination.name}")
    for instance in Instance.objects.filter(study=study):
        done = state == ItemState.DELIVERED
        item = factories.item(
            job,
            instance=instance,
            state=state,
            reason=reason,
            due_at=now + timedelta(minutes=4) if state == ItemState.WAITING else None,
            proof=ProofGrade.ACCEPTED if done else ProofGrade.NONE,
            finished_at=now if done else None,
        )
        if done:
            factories.attempt(item)


def _story(study: Study, pacs: Destination, archive: Destination, now: datetime) -> None:
    explanation = [
        outcome("all-to-archive", "matched"),
        outcome("ct-to-pacs", "matched", "Modality", "CT", "CT or MR"),
        outcome("mr-to-research", "not matched", "Modality", "CT", "MR"),
        outcome("vip", "not matched", "PatientName", "Okafor^Ngozi", "Doe^Jane"),
    ]
    factories.decision(
        study,
        explanation=explanation,
        destinations={"archive": "all-to-archive", "pacs-2": "ct-to-pacs"},
        instances_count=12,
        chosen_count=24,
        revision=factories.revision(),
    )
    for item in pacs.items.filter(job__study=study)[:3]:
        factories.attempt(
            item,
            outcome=AttemptOutcome.REFUSED,
            status=None,
            detail="A-ASSOCIATE-RJ 1/1/3: it does not know our AE title DICOMROUTER",
        )


def _apart(study: Study, now: datetime) -> None:
    series = study.series.get()
    known = Instance.objects.filter(study=study).first()
    assert known is not None
    for _copy in range(2):
        instance = factories.instance(
            series,
            sop_instance_uid=known.sop_instance_uid,
            state=InstanceState.QUARANTINED,
            reason="Other bytes under a known SOP Instance UID; the first stays.",
            received_at=now - timedelta(minutes=2),
        )
        factories.receipt(instance, outcome=ReceiptOutcome.QUARANTINED)
    Study.objects.filter(pk=study.pk).update(quarantined_count=2)


def _unmatched(study: Study) -> None:
    explanation = [outcome("ct-to-pacs", "not matched", "Modality", "US", "CT or MR")]
    held = factories.decision(study, outcome="held", explanation=explanation, chosen_count=0)
    for instance in Instance.objects.filter(study=study)[:5]:
        factories.mark(instance, decision=held)


def replays() -> dict[str, Replay]:
    """Add one replay that runs, one that waits for a yes, one that is done; by state."""
    now, made = clock.now(), dict[str, Replay]()
    studies, archive = list(Study.objects.order_by("pk")), Destination.objects.get(name="archive")
    by, meant = "operator", {"destination": "archive", "received_from": "2026-03-01T02:00:00+00:00"}
    for state, age in ((ReplayState.RUNNING, 6), (ReplayState.PLANNED, 3), (ReplayState.DONE, 90)):
        row = Replay.objects.create(
            state=state,
            created_by=by,
            created_at=now - timedelta(minutes=age),
            selection=meant,
            only=ReplayOnly.MISSING,
            rate=20.0,
            studies_total=len(studies),
            studies_seen=len(studies),
            planned_at=now - timedelta(minutes=age - 1),
            studies_count=len(studies),
            objects_count=12 * len(studies) - 8,
            bytes=(12 * len(studies) - 8) * 524_288,
            endpoints={str(archive.pk): archive.endpoint},
        )
        if state != ReplayState.PLANNED:
            row.confirmed_at, row.confirmed_by = row.planned_at, by
        if state == ReplayState.DONE:
            row.finished_at, row.results = now, {"delivered": 96, "parked": 4}
        row.save()
        _pairs(row, studies, archive, now)
        made[state.value] = row
    return made


def _pairs(row: Replay, studies: list[Study], archive: Destination, now: datetime) -> None:
    for at, study in enumerate(studies):
        job = factories.job(study, destination=archive, cause=Cause.REPLAY, rule="", replay=row)
        for number, instance in enumerate(Instance.objects.filter(study=study)[:12]):
            pair = ReplayPair(
                replay=row, destination=archive, study=study, instance=instance, size=524_288
            )
            pair.detail = "archive does not find it (C-FIND)."
            pair.state = PairState.PLANNED
            if number > 9 and at < 2:
                pair.state, pair.detail = PairState.THERE, "archive finds it (C-FIND)."
            elif number > 9 and at < 4:
                pair.state = PairState.UNKNOWN
                pair.detail = "archive did not answer within 30 s (C-FIND)."
            elif row.state != ReplayState.PLANNED and (row.finished_at or at < 5):
                pair.state = PairState.ENDED
                failed = number == 0 and at < 4
                pair.item = factories.item(
                    job,
                    instance=instance,
                    state=ItemState.PARKED if failed else ItemState.DELIVERED,
                    reason="archive answered A900: the object does not match." if failed else "",
                    status=0xA900 if failed else 0,
                    finished_at=None if failed else now,
                )
                if not failed:
                    factories.attempt(pair.item)
            pair.save()
