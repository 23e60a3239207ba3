"""Figures for Prometheus, counted in the database when they are asked for.

No process keeps a counter of its own, so every web process tells the same. No patient data: labels
are names of destinations, states and processes only.
"""

from collections.abc import Iterator

from django.conf import settings
from django.db.models import Count, Min, Sum
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.destinations import grades
from router.models import (
    OPEN_PROOFS,
    UNFINISHED_STATES,
    Decision,
    DecisionOutcome,
    Destination,
    Heartbeat,
    HourCount,
    Instance,
    JobItem,
    LedgerCheck,
    Proof,
    ProofState,
    RoutingMark,
)
from router.services import clock, health, lanes, proofs
from router.version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render() -> bytes:
    """Return all figures in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Ledger())
    return generate_latest(registry)


class _Ledger(Collector):
    """Counts the ledger on each scrape."""

    def describe(self) -> list[Metric]:
        """Promise nothing beforehand, so that registering asks the database nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from _items()
        yield from _oldest()
        yield _proofs()
        yield from _totals()
        yield from _waiting()
        yield from _machine()
        yield from _reckoning()


def _reckoning() -> Iterator[Metric]:
    check = LedgerCheck.objects.order_by("-at").first()
    if check is not None:
        yield GaugeMetricFamily(
            "router_ledger_gaps", "Gaps found by the last reckoning.", check.gaps_count
        )
        yield GaugeMetricFamily(
            "router_ledger_check_age_seconds",
            "Age of the last reckoning.",
            (clock.now() - check.at).total_seconds(),
        )


def _items() -> Iterator[Metric]:
    family = GaugeMetricFamily("router_items", "Unfinished items.", labels=["destination", "state"])
    groups = JobItem.objects.unfinished().values("destination_id", "state")
    counts = {
        (row["destination_id"], row["state"]): row["count"]
        for row in groups.annotate(count=Count("pk")).order_by()
    }
    for destination in Destination.objects.present():
        for state in UNFINISHED_STATES:
            family.add_metric(
                [destination.name, state], counts.get((destination.pk, state.value), 0)
            )
    yield family


def _proofs() -> Metric:
    family = GaugeMetricFamily(
        "router_proofs",
        "Delivered items whose proof is open, or that the far end denied and that are not mended.",
        labels=["destination", "state"],
    )
    states = [*OPEN_PROOFS, ProofState.FAILED]
    groups = Proof.objects.filter(state__in=states).values("destination_id", "state")
    counts = {
        (row["destination_id"], row["state"]): row["count"]
        for row in groups.annotate(count=Count("pk")).order_by()
    }
    for destination in Destination.objects.present().select_related("version"):
        if proofs.grade(destination) != grades.ACCEPTED:
            for state in states:
                labels = [destination.name, state.value]
                family.add_metric(labels, counts.get((destination.pk, state.value), 0))
    return family


def _oldest() -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "router_oldest_undelivered_seconds",
        "Age of the oldest item that waits to be sent.",
        labels=["destination"],
    )
    overdue = GaugeMetricFamily(
        "router_overdue",
        "Whether the oldest item waits for longer than its destination's alarm_age.",
        labels=["destination"],
    )
    groups = JobItem.objects.open().values("destination_id")
    oldest = {
        row["destination_id"]: row["oldest"]
        for row in groups.annotate(oldest=Min("created_at")).order_by()
    }
    now = clock.now()
    for destination in Destination.objects.present().select_related("version"):
        since = oldest.get(destination.pk)
        age = (now - since).total_seconds() if since else 0.0
        family.add_metric([destination.name], max(age, 0.0))
        alarm = lanes.alarm_at(destination, since)
        overdue.add_metric([destination.name], float(alarm is not None and alarm <= now))
    yield from (family, overdue)


def _totals() -> Iterator[Metric]:
    objects = CounterMetricFamily("router_objects", "Objects counted.", labels=["kind"])
    sizes = CounterMetricFamily("router_object_bytes", "Bytes counted.", labels=["kind"])
    groups = HourCount.objects.values("kind").annotate(
        number=Sum("objects_count"), total=Sum("bytes")
    )
    for row in groups.order_by("kind"):
        objects.add_metric([row["kind"]], row["number"])
        sizes.add_metric([row["kind"]], row["total"])
    yield objects
    yield sizes


def _waiting() -> Iterator[Metric]:
    undecided = RoutingMark.objects.undecided().count()
    yield GaugeMetricFamily("router_undecided_marks", "Objects not routed yet.", undecided)
    quarantined = Instance.objects.quarantined().count()
    yield GaugeMetricFamily("router_quarantined_objects", "Objects in quarantine.", quarantined)
    held = Decision.objects.filter(outcome=DecisionOutcome.HELD)
    unmatched = RoutingMark.objects.filter(decision__in=held).count()
    yield GaugeMetricFamily("router_unmatched_objects", "Held: no rule took them.", unmatched)


def _disk() -> Iterator[Metric]:
    free = health.fullest_volume().free
    yield GaugeMetricFamily("router_disk_free_bytes", "Free bytes of the fullest volume.", free)
    marks = GaugeMetricFamily(
        "router_disk_mark_bytes", "Free bytes below which intake changes.", labels=["intake"]
    )
    marks.add_metric(["slow"], settings.DISK_SLOW)
    marks.add_metric(["refuse"], settings.DISK_REFUSE)
    yield marks
    intake = GaugeMetricFamily("router_intake", "1 for what intake does.", labels=["state"])
    now = health.disk_state(free)
    for state in ("open", "slow", "refuse"):
        intake.add_metric([state], float(state == now))
    yield intake


def _machine() -> Iterator[Metric]:
    yield from _disk()
    beats = GaugeMetricFamily(
        "router_heartbeat_age_seconds", "Since a process's last sign.", labels=["role", "process"]
    )
    now = clock.now()
    for beat in Heartbeat.objects.order_by("name"):
        beats.add_metric([beat.role, beat.name], max((now - beat.at).total_seconds(), 0.0))
    yield beats
    build = GaugeMetricFamily("router_build", "What runs.", labels=["version"])
    build.add_metric([VERSION], 1)
    yield build
