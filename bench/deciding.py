"""Routing without the network: rules matched in memory, and decisions written with their jobs."""

import time
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from bench import objects, routing
from bench.measure import Bench
from bench.product import DISCARD, Driver
from router.dicom.header import read_header
from router.dicom.rules import Facts, RuleSet, RuleSpec, compile_rules, match

MATCH_SECONDS = 2.0
INSTANCES = 1000
BATCH = 100
IMAGES = 200
STUDIES = 10
STATION = "StationName"
_FIELDS: dict[str, tuple[str | int, Callable[[int], str | int | list[str]]]] = {
    "Modality": ("CT", lambda number: ["CT", f"OWN{number}"]),
    "Manufacturer": (routing.MAKER, lambda number: routing.MAKER.replace(" ", f" {number} ", 1)),
    "InstitutionName": ("JFK IMAGING CENTER", lambda number: f"IMAGING CENTER {number}"),
    "StudyDate": ("20040119", lambda number: f"{2000 + number:04d}0119"),
    STATION: ("CT01_OC0", lambda number: f"CT{number}_OC0"),
    "Rows": (128, lambda number: 128 + number),
}


def run_match(bench: Bench) -> None:
    """Measure `rules.match` with its explanation, all 120 conditions answered, by core second.

    Each instance comes from a station of its own, so none gets another's result as a whole; the
    conditions on fields that repeat are answered from memory, as they are for the images of a
    study. Noted beside it: instances of which every field is new, and such as read alike.
    """
    print("  rules.match", flush=True)
    stations = [_facts(number, STATION) for number in range(INSTANCES)]
    strangers = [_facts(number, *_FIELDS) for number in range(INSTANCES)]
    seconds = max(0.05, MATCH_SECONDS * min(1.0, bench.scale)) / 3
    rules = compile_rules(_spec(entry) for entry in routing.rules(["a", "b"]))
    asked = sum(len(outcome.reasons) for outcome in match(rules, stations[0]).outcomes)
    for _ in range(bench.rounds):
        figure = _matched(rules, stations, seconds=seconds)
        new = _matched(rules, strangers, seconds=seconds)
        alike = _matched(rules, stations[:1], seconds=seconds)
        bench.note("match", "ours", figure, reasons=asked, new=round(new), alike=round(alike))


def _matched(rules: RuleSet, facts: Sequence[Facts], *, seconds: float) -> float:
    """Instances a second of processor, asked in turn."""
    turn = cycle(facts)
    started, count = time.process_time(), 0
    while time.process_time() - started < seconds:
        for one in islice(turn, BATCH):
            match(rules, one)
        count += BATCH
    return count / (time.process_time() - started)


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


def _facts(number: int, *own: str) -> Facts:
    """Return what is known of an instance whose fields `own` have values nobody else has."""
    ds = Dataset()
    for keyword, (usual, of_its_own) in _FIELDS.items():
        setattr(ds, keyword, of_its_own(number) if keyword in own else usual)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    data = buffer.getvalue()
    header = read_header(
        BytesIO(data), offset=0, size=len(data), transfer_syntax=ExplicitVRLittleEndian
    )
    for keyword in _FIELDS:
        header.field(keyword)  # decoding is not what is measured here
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
