"""Receiving: objects a second from the first byte to the last answer, and the memory it takes."""

import psutil

from bench import machine, objects
from bench.measure import Bench, used
from bench.peers import Orthanc, Receiver, Storescp, make_tls
from bench.processes import BenchError, Usage, watched
from bench.product import Product
from bench.sender import Report, send, storescu

WORKLOADS = (("ct", 1), ("ct", 4), ("small", 1), ("small", 4), ("big", 1))
WARM_UP = 8
STARTER = "up"
"""The process that starts the others: it handles no object; its peak is one hashed password."""


def run(bench: Bench) -> None:
    """Measure every workload with everyone."""
    for kind, associations in WORKLOADS:
        print(f"  receive {kind}, {associations} association(s)", flush=True)
        for name in bench.interleaved(["ours", *bench.installed("Orthanc", "storescp")]):
            _measure(bench, bench.receiver(name), kind, associations)
    _run_secure(bench)


def _run_secure(bench: Bench) -> None:
    """Measure `ct` over TLS, 4 associations, with those that offer it to a sender like ours."""
    tls = make_tls(bench.place("certificates"))
    print("  receive ct over TLS, 4 associations", flush=True)
    for name in bench.interleaved(["ours", *bench.installed("Orthanc")]):
        receiver: Receiver = (
            Product(bench.installation, tls=tls)
            if name == "ours"
            else Orthanc(bench.place("orthanc"), tls=tls)
        )
        _measure(bench, receiver, "ct", 4, ca=str(tls.ca))


def run_as_shipped(bench: Bench) -> None:
    """Measure `ct` with DCMTK's storescu as the sender, nobody's socket tuned."""
    sent = bench.objects("ct")
    print("  receive ct as shipped, 1 association", flush=True)
    for name in bench.interleaved(["ours", *bench.installed("Orthanc", "storescp")]):
        folder = bench.place("files")
        objects.write_run(sent, folder, bench.next_run())
        with _shipped(bench, name) as receiver:
            machine.settle()
            seconds, code = storescu("storescu", receiver.port, receiver.called, folder)
        if code:
            raise BenchError(f"storescu ended with {code}")
        bench.note("receive shipped", name, len(sent.files) / seconds, seconds=seconds)


def _shipped(bench: Bench, name: str) -> Receiver:
    if name == "ours":
        return Product(bench.installation)
    kind = Orthanc if name == "Orthanc" else Storescp
    return kind(bench.place(name.lower()), as_shipped=True)


def _measure(bench: Bench, peer: Receiver, kind: str, associations: int, *, ca: str = "") -> None:
    sent = bench.objects(kind)
    with peer as receiver:
        _warm_up(bench, receiver, ca)
        machine.settle()
        psutil.cpu_percent()
        with watched([receiver.child]) as usage:
            report = _send(bench, receiver, kind, associations, ca=ca)
            busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
        after = _finish(receiver, report)
        with watched([receiver.child]) as later:
            pass
    seconds = report.finished - report.started
    value = sent.size / 1e6 / seconds if kind == "big" else report.count / seconds
    details = {**used(usage), "machine_cores": round(busy, 2), "sender_cpu": report.cpu, **after}
    secure = " tls" if ca else ""
    bench.note(f"receive {kind}{secure} {associations}", receiver.name, value, **details)
    if not ca:
        _note_memory(bench, receiver.name, f"{kind} {associations}", later)


def _send(bench: Bench, receiver: Receiver, kind: str, associations: int, *, ca: str) -> Report:
    shares = bench.objects(kind).shares(associations)
    report = send(receiver.port, receiver.called, shares, bench.next_run(), ca=ca)
    if report.failed:
        raise BenchError(f"{receiver.name} refused {report.failed} objects")
    return report


def _warm_up(bench: Bench, receiver: Receiver, ca: str) -> None:
    share = [str(path) for path in bench.objects("small").files[:WARM_UP]]
    send(receiver.port, receiver.called, [share], bench.next_run(), ca=ca)
    if isinstance(receiver, Product):
        receiver.wait_idle()


def _finish(receiver: Receiver, report: Report) -> dict[str, object]:
    """For ours: how long after the last answer everything was indexed and decided."""
    if not isinstance(receiver, Product):
        return {}
    settled = receiver.wait_idle()
    rate = report.count / (settled - report.started)
    return {"routed_per_second": round(rate, 1), "behind": round(settled - report.finished, 3)}


def _note_memory(bench: Bench, name: str, what: str, usage: Usage) -> None:
    peaks = {role: peak for role, peak in usage.peak_mib.items() if role != STARTER}
    if what in {"big 1", "ct 4"} and peaks:
        bench.note(f"memory {what}", name, max(peaks.values()), **used(usage))
