"""Forwarding: stored objects to one sink over one association, and straight through to two."""

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, objects, processes
from bench.measure import Bench, used
from bench.objects import Objects
from bench.peers import Orthanc, Storescp
from bench.processes import BenchError, watched
from bench.product import Product
from bench.sender import send, storescu
from bench.sink import Sink

STUDIES = 10
SECONDS = 1200.0


def run(bench: Bench) -> None:
    """Measure `ct` to a sink that is not the limit."""
    print("  forward ct, 1 association", flush=True)
    with Sink(bench.folder) as sink:
        for name in bench.interleaved(["ours", *bench.installed("dcmsend", "Orthanc")]):
            sink.clear()
            _forward(bench, name, sink.port, bench.objects("ct"), "forward ct", sink=sink)


def run_as_shipped(bench: Bench) -> None:
    """Measure to a storescp as Debian ships it, which answers late for want of TCP_NODELAY."""
    if not bench.installed("storescp"):
        return
    sent = bench.objects("ct")
    print("  forward ct to a peer as shipped, 1 association", flush=True)
    for name in bench.interleaved(["ours", *bench.installed("dcmsend", "Orthanc")]):
        with Storescp(bench.place("shipped"), as_shipped=True) as peer:
            _forward(bench, name, peer.port, sent, "forward shipped", as_shipped=True)


def run_fan_out(bench: Bench) -> None:
    """Measure from the first byte in to the last answer of two destinations."""
    print("  receive → 2 destinations", flush=True)
    with Sink(bench.folder, name="a") as one, Sink(bench.folder, name="b") as two:
        for name in bench.interleaved(["ours", *bench.installed("Orthanc")]):
            _fan_out(bench, name, (one, two))


def run_latency(bench: Bench) -> None:
    """Measure from the last byte in to the last byte out, study after study."""
    print("  last byte in → last byte out, 200-image studies", flush=True)
    studies = -(-max(2, round(STUDIES * min(1.0, bench.scale * 2))) // bench.rounds)
    seconds: dict[str, list[float]] = {}
    with Sink(bench.folder, name="latency") as sink:
        for name in bench.interleaved(["ours", *bench.installed("Orthanc")]):
            for one in _latencies(bench, name, sink, studies):
                seconds.setdefault(name, []).append(one)
                bench.note("latency", name, one)
    for name, values in seconds.items():
        bench.note("latency p95", name, percentile(values, 95), studies=len(values))
        bench.note("latency p50", name, statistics.median(values))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


# --- one sink -------------------------------------------------------------------------------------
def _forward(
    bench: Bench,
    name: str,
    port: int,
    sent: Objects,
    metric: str,
    *,
    sink: Sink | None = None,
    as_shipped: bool = False,
) -> None:
    if name == "ours":
        _forward_ours(bench, port, sent, metric, sink)
    elif name == "Orthanc":
        _forward_orthanc(bench, port, sent, metric, as_shipped=as_shipped)
    else:
        _forward_dcmsend(bench, port, sent, metric, as_shipped=as_shipped)
    if sink is not None and sink.count() != len(sent.files):
        raise BenchError(f"{name}: {sink.count()} of {len(sent.files)} objects at the sink")


def _forward_ours(bench: Bench, port: int, sent: Objects, metric: str, sink: Sink | None) -> None:
    """From resuming a paused lane to the last item delivered in the ledger."""
    with Product(bench.installation, sinks=(port,), held=True) as ours:
        _fill(bench, ours, sent)
        ours.wait_idle()
        machine.settle()
        with watched([ours.child]) as usage:
            started = float(ours.driver.ask("resume", name="sink0"))
            if sink is not None:
                sink.wait_for(len(sent.files), SECONDS)
            ended = ours.wait_delivered(len(sent.files), SECONDS)
    details = used(usage)
    if sink is not None:
        details |= {
            "begun_after": sink.first() - started,
            "wire": sink.last_answer() - sink.first(),
        }
    bench.note(metric, "ours", len(sent.files) / (ended - started), **details)


def _forward_orthanc(
    bench: Bench, port: int, sent: Objects, metric: str, *, as_shipped: bool
) -> None:
    """One synchronous request to store everything."""
    place = bench.place("orthanc")
    with Orthanc(place, as_shipped=as_shipped, sinks=[port]) as orthanc:
        _fill(bench, orthanc, sent)
        machine.settle()
        with watched([orthanc.child]) as usage:
            started = time.monotonic()
            orthanc.store()
            ended = time.monotonic()
    bench.note(metric, "Orthanc", len(sent.files) / (ended - started), **used(usage))


def _fill(bench: Bench, receiver: Product | Orthanc, sent: Objects) -> None:
    report = send(receiver.port, receiver.called, sent.shares(1), bench.next_run())
    if report.failed:
        raise BenchError(f"{receiver.name} refused {report.failed} objects")


def _forward_dcmsend(
    bench: Bench, port: int, sent: Objects, metric: str, *, as_shipped: bool
) -> None:
    """The wall time of the program, its start included."""
    folder = bench.place("files")
    objects.write_run(sent, folder, bench.next_run())
    machine.settle()
    if as_shipped:
        seconds, code = storescu("dcmsend", port, "SINK", folder)
    else:
        seconds, code = _dcmsend_at_best(port, folder)
    if code:
        raise BenchError(f"dcmsend ended with {code}")
    bench.note(metric, "dcmsend", len(sent.files) / seconds)


def _dcmsend_at_best(port: int, folder: Path) -> tuple[float, int]:
    command = ["dcmsend", "--scan-directories", "--call", "SINK", "127.0.0.1", str(port)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, str(folder)],
        env=processes.environment({"TCP_NODELAY": "1"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=SECONDS,
    )
    return time.monotonic() - started, done.returncode


# --- straight through -----------------------------------------------------------------------------
def _router(bench: Bench, name: str, sinks: tuple[int, ...]) -> Product | Orthanc:
    if name == "ours":
        return Product(bench.installation, sinks=sinks)
    return Orthanc(bench.place("orthanc"), sinks=sinks, lua=True)


def _fan_out(bench: Bench, name: str, sinks: tuple[Sink, Sink]) -> None:
    sent = bench.objects("ct")
    with _router(bench, name, tuple(sink.port for sink in sinks)) as router:
        _warm_up(bench, router, sinks)
        machine.settle()
        with watched([router.child]) as usage:
            report = send(router.port, router.called, sent.shares(1), bench.next_run())
            for sink in sinks:
                sink.wait_for(len(sent.files), SECONDS)
    ended = max(sink.last_answer() for sink in sinks)
    received = report.finished - report.started
    rate = len(sent.files) / (ended - report.started)
    bench.note("fan-out", router.name, rate, received=received, **used(usage))


def _warm_up(bench: Bench, router: Product | Orthanc, sinks: Sequence[Sink]) -> None:
    """Send a few objects all the way; then forget them."""
    share = [str(path) for path in bench.objects("small").files[:4]]
    for sink in sinks:
        sink.clear()
    send(router.port, router.called, [share], bench.next_run())
    for sink in sinks:
        sink.wait_for(len(share), 60.0)
    if isinstance(router, Product):
        router.wait_idle()
    time.sleep(1.0)
    for sink in sinks:
        sink.clear()


def _latencies(bench: Bench, name: str, sink: Sink, studies: int) -> list[float]:
    """Return the seconds from the last byte that left the sender to the last at the sink."""
    sent, seconds = bench.objects("study"), []
    with _router(bench, name, (sink.port,)) as router:
        _warm_up(bench, router, [sink])
        for _ in range(studies):
            sink.clear()
            machine.settle()
            report = send(router.port, router.called, sent.shares(1), bench.next_run())
            sink.wait_for(len(sent.files), SECONDS)
            seconds.append(sink.last_byte() - report.last_byte)
            if isinstance(router, Product):
                router.wait_idle()
    return seconds
