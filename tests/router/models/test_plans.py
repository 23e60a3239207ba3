"""The hot queries use an index on 20,000 rows, on both databases: none reads a whole table."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import pytest
from django.db import connection, models

from router.models import (
    OPEN_STATES,
    Destination,
    Instance,
    ItemState,
    JobItem,
    Priority,
    Proof,
    ProofState,
    Receipt,
    RoutingMark,
    Study,
)
from router.services import clock, indexing, routing, triage
from tests import factories
from tests.intake import Site, image

ROWS = 20_000
BASE = 1_000_000
"""Copies have the ids from here on."""

WHOLE_TABLE = re.compile(r"(?:Seq Scan on|\bSCAN) (?:TABLE )?(\w+)(?! USING (?:COVERING )?INDEX)\b")

FILLED = {
    model._meta.db_table for model in (Study, Instance, Receipt, RoutingMark, JobItem)
}  # a small table is read whole with good reason

pytestmark = pytest.mark.django_db


class Explained(Protocol):
    """A query that can say how it would be run."""

    def explain(self) -> str: ...


def _copy(row: models.Model, changes: Mapping[str, str], *, rows: int = ROWS) -> None:
    """Copy a row; `changes` are columns as SQL over the running number `i`."""
    table, key = row._meta.db_table, row._meta.pk
    assert key is not None
    columns = [field.column for field in row._meta.concrete_fields]
    values = {key.column: f"{BASE} + i", **changes}
    chosen = ", ".join(values.get(column, f'"{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "  # noqa: S608
            f"{rows}) INSERT INTO {table} ({names}) SELECT {chosen} FROM {table}, n "
            f"WHERE {table}.{key.column} = {row.pk}"
        )


@pytest.fixture
def pacs() -> Destination:
    """Fill the tables: nearly everything is decided and delivered, a little is open."""
    stored = factories.instance()
    decision = factories.decision(stored.study)
    item = factories.item(
        factories.job(stored.study), instance=stored, state=ItemState.DELIVERED, owner="w"
    )
    other = factories.destination()
    _copy(
        stored.study,
        {
            "study_instance_uid": "'1.2.' || i",
            "accession_number": "'A' || i",
            "patient_id": "'P' || i",
        },
    )
    _copy(stored, {"sop_instance_uid": "'1.3.' || i", "file_id": "'f' || i"})
    _copy(factories.receipt(stored), {"uid": "'r' || i", "instance_id": f"{BASE} + i"})
    _copy(
        factories.mark(stored, decision=decision),
        {
            "instance_id": f"{BASE} + i",
            "decision_id": f"CASE WHEN i > {ROWS - 20} THEN NULL ELSE {decision.pk} END",
        },
    )
    _copy(
        item,
        {
            "instance_id": f"{BASE} + i",
            "destination_id": f"CASE WHEN i % 2 = 0 THEN {other.pk} ELSE {item.destination_id} END",
            "state": f"CASE WHEN i > {ROWS - 50} THEN 'pending' WHEN i % 997 = 0 THEN 'waiting' "
            "WHEN i % 991 = 0 THEN 'leased' WHEN i % 9 = 0 THEN 'cancelled' ELSE 'delivered' END",
            "due_at": "created_at",
            "lease_until": "created_at",
        },
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return item.destination


def _queries(pacs: Destination) -> dict[str, tuple[Explained, str]]:
    """Return each query with the index it must use; where several would do, with nothing."""
    now = clock.now() + timedelta(seconds=1)
    uids = [f"1.3.{number}" for number in range(1, 40)]
    items = JobItem.objects.filter(destination=pacs)
    leased = JobItem.objects.filter(state=ItemState.LEASED)
    # PostgreSQL sorts where so few are due, as well it may.
    due = "item_due" if connection.vendor == "sqlite" else "item_"
    return {
        "undecided marks": (RoutingMark.objects.undecided().oldest_first()[:1000], ""),
        "marks to be decided": (RoutingMark.objects.due(now).oldest_first()[:500], ""),
        "is a mark to be decided": (RoutingMark.objects.due(now)[:1], ""),
        "is anything due": (items.due(now).order_by()[:1], "item_"),
        "the claim": (items.due(now).in_turn()[:100], due),
        "the claim of what is low": (
            items.due(now).filter(priority=Priority.LOW).in_turn()[:100],
            "item_",
        ),
        "what failed": (triage.failures(JobItem.objects.all()), "item_"),
        "how many wait": (JobItem.objects.unfinished().values("state").order_by(), "item_open"),
        "is more urgent due": (items.due(now).filter(priority__lt=Priority.LOW)[:1], "item_"),
        "expired leases": (
            JobItem.objects.expired(now).order_by("lease_until")[:500],
            "item_leased",
        ),
        "who holds leases": (leased.order_by().values("owner").distinct(), ""),
        "what waits to be woken": (
            items.filter(state=ItemState.WAITING, due_at__gt=now),
            "",
        ),
        "current objects by UID": (
            Instance.objects.current().filter(sop_instance_uid__in=uids),
            "",
        ),
        "all objects by UID": (
            Instance.objects.kept().filter(sop_instance_uid__in=uids).order_by("id"),
            "",
        ),
        "newest studies": (Study.objects.visible().newest_first()[:50], "study_newest"),
        "a study by accession number": (Study.objects.filter(accession_number="A77"), "accession"),
        "studies of a patient": (Study.objects.filter(patient_id="P77"), "patient_id"),
        "studies of a patient, newest first": (
            Study.objects.visible().filter(patient_id="P77").newest_first()[:50],
            "patient_id",
        ),
        "receipts by id": (Receipt.objects.filter(uid__in=[f"r{i}" for i in range(40)]), "uid"),
        "items of an object": (JobItem.objects.filter(instance_id=BASE + 7), "instance_id"),
    }


def _objection(query: Explained, index: str) -> str:
    """Return the plan where it reads a whole table or misses the index."""
    plan = query.explain()
    reads_all = [name for name in WHOLE_TABLE.findall(plan) if name.startswith("router_")]
    return plan if reads_all or index not in plan else ""


def test_hot_queries_use_an_index(pacs: Destination) -> None:
    found = {name: _objection(*query) for name, query in _queries(pacs).items()}
    assert {name: plan for name, plan in found.items() if plan} == {}


def test_the_index_of_what_is_due_holds_only_what_can_become_due() -> None:
    """What was excluded, parked, held or cancelled would be stepped over by every claim."""
    (index,) = (one for one in JobItem._meta.indexes if one.name == "item_due")
    catalogue = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE name = 'item_due'",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = 'item_due'",
    }
    with connection.cursor() as cursor:
        cursor.execute(catalogue[connection.vendor])
        (definition,) = cursor.fetchone()
    condition = definition.partition("WHERE")[2]
    assert {state for state in ItemState if f"'{state.value}'" in condition} == set(OPEN_STATES)
    for state in ItemState:
        factories.item(state=state)
    assert {item.state for item in JobItem.objects.filter(index.condition)} == set(OPEN_STATES)


def test_a_plan_that_reads_a_whole_table_is_noticed(pacs: Destination) -> None:
    assert _objection(Study.objects.filter(study_description="x"), "")


def test_a_claim_of_fifty_thousand_waiting_items_sorts_nothing() -> None:
    """By priority and age, each claim reads what it takes and no more, on both databases."""
    item = factories.item()
    _copy(item.job, {"key": "'k' || i"}, rows=100_000)
    done = {"state": "'delivered'", "finished_at": "created_at"}
    waits = {
        name: f"CASE WHEN i <= 50000 THEN {value} ELSE {name} END" for name, value in done.items()
    }
    spread = {"job_id": f"{BASE} + i", "priority": "1 + i % 3", "cause": "'manual'"}
    _copy(item, spread | waits, rows=100_000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    due = JobItem.objects.filter(destination=item.destination).due(clock.now())
    for claim in (due.in_turn(), due.filter(priority=Priority.LOW).in_turn()):
        plan = claim[:100].explain()
        assert "item_due" in plan
        assert not re.search(r"\bSort\b|TEMP B-TREE", plan), plan
        priorities = list(claim.values_list("priority", flat=True)[:100])
        assert len(set(priorities)) == 1


def test_what_is_to_be_proven_is_found_among_what_is() -> None:
    """Nearly all is proven; a little waits, is asked for, or is awaited."""
    item = factories.item(state=ItemState.DELIVERED)
    _copy(item, {"cause": "'manual'", "job_id": str(item.job_id), "transform": "'t' || i"})
    proof = Proof.objects.create(
        item=item, destination=item.destination, study=item.job.study, delivery=0
    )
    state = "CASE WHEN i % 1000 = 0 THEN 'waiting' WHEN i % 1000 = 1 THEN 'awaited' "
    state += "WHEN i % 1000 = 2 THEN 'asking' ELSE 'proven' END"
    moment = "(SELECT created_at FROM router_jobitem LIMIT 1)"
    _copy(
        proof,
        {
            "state": state,
            "due_at": f"CASE WHEN i % 1000 < 2 THEN {moment} ELSE NULL END",
            "lease_until": f"CASE WHEN i % 1000 = 2 THEN {moment} ELSE NULL END",
        },
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    now = clock.now() + timedelta(seconds=1)
    proofs = Proof.objects.filter(destination=item.destination)
    queries = {
        "is a proof due": (proofs.due(now)[:1], "proof_"),
        "the claim of proofs": (proofs.due(now).order_by("due_at", "pk")[:2000], "proof_"),
        "what is overdue": (proofs.overdue(now).order_by("due_at")[:1000], "proof_"),
        "lost askers": (Proof.objects.expired(now).order_by("lease_until")[:500], "proof_leased"),
        "what is unconfirmed": (proofs.filter(state=ProofState.UNCONFIRMED), "proof_"),
    }
    found = {name: _objection(*query) for name, query in queries.items()}
    assert {name: plan for name, plan in found.items() if plan} == {}


def _run(site: Site) -> list[tuple[str, Any]]:
    """Index and route a batch; return the statements that were asked, with their values."""
    asked: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, values: Any, many: bool, context: Any) -> Any:
        if not many and sql.startswith(("SELECT", "UPDATE")) and "router_" in sql:
            asked.append((sql, values))
        return execute(sql, values, many, context)

    with connection.execute_wrapper(note):
        assert indexing.index(site.take(*(image(n, study=n) for n in range(1, 40)))) == 39
        while routing.route_batch():
            pass
    return asked


def test_a_batch_on_its_way_reads_no_whole_table(pacs: Destination, site: Site) -> None:
    """Whatever statements index and route use, those of tomorrow included."""
    factories.rule("all", send=[pacs.name])
    RoutingMark.objects.filter(decision=None).delete()
    asked = _run(site)
    assert any(sql.startswith("UPDATE") and "VALUES" in sql for sql, _values in asked)
    explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    bad = {}
    for sql, values in asked:
        with connection.cursor() as cursor:
            cursor.execute(explain + sql, values)
            plan = "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())
        if FILLED & set(WHOLE_TABLE.findall(plan)):
            bad[sql[:300]] = plan
    assert bad == {}
