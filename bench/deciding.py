"""Routing without the network: rules matched in memory, and decisions written with their jobs."""

import time
from pathlib import Path

from bench import objects, routing
from bench.measure import Bench
from bench.product import DISCARD, Driver
from router.dicom import part10
from router.dicom.header import read_header
from router.dicom.rules import Facts, RuleSpec, compile_rules, match

MATCH_SECONDS = 2.0
IMAGES = 200
STUDIES = 10


def run_match(bench: Bench) -> None:
    """Measure `rules.match` with its explanation, all 120 conditions evaluated, by core second."""
    print("  rules.match", flush=True)
    facts = _facts(bench.objects("small").files[0])
    seconds = max(0.05, MATCH_SECONDS * min(1.0, bench.scale))
    rules = compile_rules(_spec(entry) for entry in routing.rules(["a", "b"]))
    asked = sum(len(outcome.reasons) for outcome in match(rules, facts).outcomes)
    for _ in range(bench.rounds):
        started, count = time.process_time(), 0
        while time.process_time() - started < seconds:
            for outcome in match(rules, facts).outcomes:
                outcome.as_dict()
            count += 1
        bench.note("match", "ours", count / (time.process_time() - started), reasons=asked)


def run_decisions(bench: Bench) -> None:
    """Measure routing alone on marks: studies of 200 images, and each image its own study."""
    print("  decisions with jobs for 2 destinations", flush=True)
    number = max(IMAGES, round(IMAGES * STUDIES * bench.scale))
    for metric, images in (("decisions", IMAGES), ("decisions single", 1)):
        folder = bench.place("marks")
        objects.write_studies(folder, number, images=images)
        for _ in bench.interleaved(["ours"]):
            _decide(bench, metric, folder)


def _decide(bench: Bench, metric: str, folder: Path) -> None:
    env = bench.installation.fresh()
    driver = Driver(env, Path(env["ROUTER_DATA_DIR"]).with_suffix(".log"))
    try:
        driver.ask("apply", text=routing.document([DISCARD, DISCARD]))
        driver.ask("bring_in", folder=str(folder))
        done = driver.ask("route")
    finally:
        driver.end()
        bench.installation.remove(env)
    bench.note(metric, "ours", done["instances"] / done["seconds"], **done)


def _facts(path: Path) -> Facts:
    with path.open("rb") as file:
        meta = part10.read_meta(file)
        size = path.stat().st_size - meta.offset
        header = read_header(
            file, offset=meta.offset, size=size, transfer_syntax=meta.transfer_syntax
        )
    return Facts(
        header=header,
        calling_ae="BENCH",
        called_ae="DICOMROUTER",
        source="",
        remote_host="127.0.0.1",
        origin="dimse",
    )


def _spec(entry: dict[str, object]) -> RuleSpec:
    send = entry["send"]
    return RuleSpec(
        name=str(entry["name"]),
        priority=int(str(entry["priority"])),
        when=entry["when"],
        send=tuple(send) if isinstance(send, list) else (),
    )
