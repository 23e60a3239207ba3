"""Many small objects, five kinds of far end, rules drawn by chance, faults on: who got what?

`python -m tests.faults.oracle_run --objects 20000` sends generated objects under several calling
AE titles through 10 to 20 random rules to two pynetdicom sinks, DCMTK's storescp, Orthanc and a
folder, while roles are killed and lines are cut. What each far end holds in the end is read from
itself and held against `tests.oracle`, which knows nothing of the product's rules.
"""
# ruff: noqa: T201 - it talks to whoever ran it

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydicom import Dataset, dcmread

from tests.faults.ending import end_in_order
from tests.faults.ledger import DONE
from tests.faults.load import Far
from tests.faults.mishaps import Mishaps
from tests.faults.postgres import PostgreSQL
from tests.faults.proxy import FaultProxy
from tests.faults.site import FOLDER, Background, Site
from tests.oracle import Pair, destinations_of
from tests.orthanc import Orthanc
from tests.ports import free_port
from tests.product import AE_TITLE, HOST, Config, wait_until
from tests.proof.delivered import data_set, folder_destination
from tests.proof.objects import CT, EXPLICIT_LITTLE, dataset, new_uid, raw
from tests.senders import AssociationRejected, ConnectionEnded, RawAssociation, RawObject

SINKS = ("s1", "s2")
PEERS = ("storescp", "orthanc")
NAMES = (*SINKS, *PEERS, FOLDER)
CLASSES = {  # by modality
    "CT": CT,
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}
SOURCES = {"CT1": "ct", "CT2": "ct", "MR_A": "mr", "PACSX": "old-pacs"}  # calling AE and source
DESCRIPTIONS = ("THORAX", "CT THORAX NATIV", "ABDOMEN", "Kopf^nativ", "KNEE LEFT", "")
PARTS = ("CHEST", "ABDOMEN", "HEAD", "KNEE", "")
DATES = ("20240229", "20251231", "20260101", "20260615", "20261120")
STUDY_SIZE = 40
MODALITIES_AT_ONCE = 3
SETTLES = 180.0  # seconds without any progress
PAUSES = (2.0, 8.0)
MOST_DEATHS = 30
SYSTEM = "/usr/bin:/usr/local/bin"  # pynetdicom brings a program of the same name
FAULTS_UNTIL = 0.9  # of the pairs are delivered
LONGEST = 10.0  # seconds that a far end is away


# --- objects --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Made:
    """One object and who sends it."""

    item: RawObject
    ds: Dataset
    calling_ae: str

    @property
    def facts(self) -> Mapping[str, str]:
        """What is known of it beside its data set."""
        return {
            "calling_ae": self.calling_ae,
            "called_ae": AE_TITLE,
            "source": SOURCES[self.calling_ae],
            "remote_host": HOST,
            "origin": "dimse",
        }


def study(size: int, chance: random.Random) -> list[Made]:
    """Return the objects of one study; what rules may look at varies by study and by object."""
    modality, calling = chance.choice(list(CLASSES)), chance.choice(list(SOURCES))
    study_uid, series = new_uid(), [new_uid(), new_uid()]
    common = {
        "Modality": modality,
        "SOPClassUID": CLASSES[modality],
        "StudyDescription": chance.choice(DESCRIPTIONS),
        "StudyDate": chance.choice(DATES),
        "InstitutionName": chance.choice(("NORTH", "SOUTH", "north wing")),
    }
    return [_object(study_uid, chance.choice(series), calling, common, chance) for _ in range(size)]


def _object(
    study_uid: str, series: str, calling: str, common: Mapping[str, object], chance: random.Random
) -> Made:
    pixels = 64 * chance.randint(20, 300)
    ds = dataset(study=study_uid, series=series, pixels=pixels, **common)
    ds.BodyPartExamined = chance.choice(PARTS)
    ds.ImageType = chance.choice((["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "MPR"]))
    if chance.random() < 0.7:
        ds.SliceThickness = chance.choice(("0.5", "1.0", "3", "5.00"))
    if chance.random() < 0.5:
        ds.AcquisitionTime = f"{chance.randrange(24):02}{chance.randrange(60):02}00"
    item = raw(ds)
    del ds.PixelData
    return Made(item, ds, calling)


# --- rules ----------------------------------------------------------------------------------------
def configuration(destinations: Sequence[Config], chance: random.Random) -> Config:
    """Return sources, destinations and 10 to 20 random rules."""
    sources: dict[str, list[str]] = {}
    for calling, name in SOURCES.items():
        sources.setdefault(name, []).append(calling)
    listed = [
        {"name": name, "ae_title": "CT?" if name == "ct" else callings[0], "hosts": ["127.0.0.0/8"]}
        for name, callings in sources.items()
    ]
    names = [str(one["name"]) for one in destinations]
    drawn = [_rule(number, names, chance) for number in range(chance.randint(10, 20))]
    return {
        "version": 1,
        "defaults": {"quiet_cap": "30s"},
        "sources": listed,
        "destinations": list(destinations),
        "rules": drawn,
    }


def _rule(number: int, names: Sequence[str], chance: random.Random) -> Config:
    rule: Config = {
        "name": f"rule-{number}",
        "priority": chance.choice((10, 20, 20, 30, 40)),
        "state": chance.choices(("live", "shadow", "draft"), (8, 1, 1))[0],
        "enabled": chance.random() > 0.05,
        "on": chance.choices(("instance", "series", "study"), (6, 2, 2))[0],
        "send": chance.sample(list(names), chance.randint(1, 3)),
        "stop": chance.random() < 0.1,
    }
    if rule["on"] != "instance":
        rule["quiet"] = f"{chance.randint(1, 5)}s"
    if chance.random() > 0.05:
        rule["when"] = _condition(chance, depth=2)
    return rule


def _condition(chance: random.Random, *, depth: int) -> Config:
    word = chance.choices(("leaf", "all", "any", "not"), (6, 2, 2, 1))[0]
    if word == "leaf" or not depth:
        return _leaf(chance)
    if word == "not":
        return {"not": _condition(chance, depth=depth - 1)}
    parts = [_condition(chance, depth=depth - 1) for _ in range(chance.randint(1, 3))]
    return {word: parts}


def _leaf(chance: random.Random) -> Config:
    field, op, value = chance.choice(LEAVES)
    if value is None:
        return {"field": field, "op": op}
    copied = list(value) if isinstance(value, list) else value  # YAML of ours knows no aliases
    return {"field": field, "op": op, "value": copied}


LEAVES: Sequence[tuple[str, str, Any]] = (  # Any: as in YAML
    ("Modality", "equals", "CT"),
    ("Modality", "not_equals", "MR"),
    ("Modality", "in", ["CR", "OT"]),
    ("(0008,0060)", "matches", "?R"),
    ("calling_ae", "matches", "CT*"),
    ("calling_ae", "equals", "PACSX"),
    ("source", "equals", "mr"),
    ("source", "not_equals", "ct"),
    ("origin", "equals", "dimse"),
    ("StudyDescription", "contains", "THORAX"),
    ("StudyDescription", "regex", "^(KNEE|ABD)"),
    ("StudyDescription", "missing", None),
    ("BodyPartExamined", "exists", None),
    ("BodyPartExamined", "in", ["CHEST", "HEAD"]),
    ("ImageType", "equals", "PRIMARY"),
    ("ImageType", "matches", "DER*"),
    ("InstitutionName", "contains", "north"),
    ("StudyDate", "lt", "20260101"),
    ("StudyDate", "gte", "20260101"),
    ("SliceThickness", "lte", 1),
    ("SliceThickness", "equals", 5),
    ("SliceThickness", "missing", None),
    ("AcquisitionTime", "gt", "1200"),
    ("Rows", "equals", 32),
    ("RequestAttributesSequence.ScheduledProcedureStepID", "exists", None),
)


# --- far ends -------------------------------------------------------------------------------------
class Storescp:
    """DCMTK's storescp, a file an object, the bits as they came."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.deaths = 0
        self._folder = folder

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._start()
        return self

    def _start(self) -> None:
        program = shutil.which("storescp", path=SYSTEM) or "storescp of DCMTK is not installed"
        command = [program, "+B", "--fork", "--output-directory", str(self._folder)]
        self._process = subprocess.Popen(
            [*command, str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def look_after(self) -> None:
        """Start it again: it ends when an association request is cut short."""
        if self._process.poll() is not None:
            self.deaths += 1
            assert self.deaths < MOST_DEATHS, "storescp does not stay alive"
            self._start()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every stored data set by SOP Instance UID."""
        found = {}
        for path in self._folder.iterdir():
            uid = str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            found[uid] = hashlib.sha256(data_set(path)).hexdigest()
        return found


class PatientOrthanc(Orthanc):
    """Orthanc, which takes its time on a machine that is busy."""

    def __enter__(self) -> "PatientOrthanc":
        try:
            super().__enter__()
        except AssertionError:
            try:
                assert self._process.poll() is None, "Orthanc ended"
                wait_until(self._answers, seconds=120, what="Orthanc")
            except BaseException as error:
                self.__exit__()
                said = (self._folder / "log").read_text()[-800:]
                raise AssertionError(f"{error}; it said {said}") from error
        return self


class Ground(Site):
    """A site with two sinks, two peers behind proxies, and a folder."""

    def __init__(self, folder: Path, *, server: str, chance: random.Random) -> None:
        super().__init__(folder, server=server)
        self.far = {name: Far(name, [*CLASSES.values()]) for name in SINKS}
        self.storescp = Storescp(folder / "storescp")
        self.orthanc = PatientOrthanc(folder / "orthanc", router_port=self.product.port)
        self.lines: dict[str, FaultProxy] = {}
        self.chance = chance
        self.config: Config = {}

    def configuration(self) -> Config:
        """Drawn once."""
        if not self.config:
            destinations = [far.destination() for far in self.far.values()]
            like = dict(destinations[0])
            for name in PEERS:
                port = self.lines[name].port
                destinations.append({**like, "name": name, "port": port, "ae_title": name.upper()})
            destinations.append({**folder_destination(FOLDER, self.out), "retry": ["1s", "2s"]})
            self.config = configuration(destinations, self.chance)
        return self.config

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(self.storescp)
            stack.enter_context(self.orthanc)
            for name, port in zip(PEERS, (self.storescp.port, self.orthanc.port), strict=True):
                self.lines[name] = stack.enter_context(FaultProxy(port))
            super().__enter__()
            self._peers = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._peers.close()

    def delivered(self) -> dict[str, dict[str, str]]:
        """What each far end holds: SHA-256 of the data set by SOP Instance UID."""
        found = {name: far.hashes() for name, far in self.far.items() if isinstance(far, Far)}
        found |= {"storescp": self.storescp.hashes(), "orthanc": self.orthanc.hashes()}
        files = list(self.out.rglob("*.dcm"))
        found[FOLDER] = {
            path.name.removesuffix(".dcm"): hashlib.sha256(data_set(path)).hexdigest()
            for path in files
        }
        return found


# --- the run --------------------------------------------------------------------------------------
class Run:
    """Sends everything while faults are on, and compares."""

    def __init__(self, ground: Ground, server: PostgreSQL | None, *, count: int, seed: int) -> None:
        self.ground, self.count = ground, count
        self.mishaps = Mishaps(
            ground, server, seed, pauses=PAUSES, longest=LONGEST, lines=[*ground.lines.values()]
        )
        self.made: dict[str, tuple[str, frozenset[str]]] = {}  # by UID: hash and destinations
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._delivered = 0

    def send(self) -> None:
        """Several modalities, each a study at a time, until all objects are acknowledged."""
        chances = [random.Random(self._chance.random()) for _ in range(MODALITIES_AT_ONCE)]
        modalities = [Background(partial(self._modality, chance)) for chance in chances]
        while any(one.is_running for one in modalities):
            self._turn()
        for one in modalities:
            one.join(1)

    def _turn(self) -> None:
        self.mishaps.turn()
        self.ground.storescp.look_after()
        time.sleep(0.2)

    def settle(self) -> None:
        """Faults go on until most pairs are delivered; then wait for the rest."""
        expected, seen, limit = self.expected(), -1, 0.0
        while said := self._undone(expected):
            if self._delivered > seen:
                seen, limit = self._delivered, time.monotonic() + SETTLES
            assert time.monotonic() < limit, (
                f"nothing delivered for {SETTLES:g} s: {said}, storescp died "
                f"{self.ground.storescp.deaths} times\n{self.ground.product.log()[-3000:]}"
            )
            for _ in range(10):
                if self._delivered < FAULTS_UNTIL * len(expected):
                    self._turn()
                else:
                    self.mishaps.finish()
                    self.ground.storescp.look_after()
                    time.sleep(0.2)
        self.mishaps.finish()

    def _modality(self, chance: random.Random) -> None:
        while True:
            with self._lock:
                left = self.count - len(self.made)
                some = study(min(left, STUDY_SIZE, chance.randint(1, STUDY_SIZE)), chance)
                for one in some:
                    self._note(one)
            if not some:
                return
            self._send_study(some)

    def _note(self, one: Made) -> None:
        digest = hashlib.sha256(one.item.data).hexdigest()
        chosen = frozenset(destinations_of(one.ds, one.facts, self.ground.config))
        self.made[one.item.sop_instance_uid] = (digest, chosen)

    def _send_study(self, objects: list[Made]) -> None:
        limit = time.monotonic() + 120
        while objects:
            assert time.monotonic() < limit, f"{len(objects)} not acknowledged within 120 s"
            try:
                self._send_once(objects)
            except (ConnectionEnded, AssociationRejected, OSError):
                time.sleep(0.3)

    def _send_once(self, objects: list[Made]) -> None:
        first = objects[0]
        contexts = [(first.item.sop_class_uid, [EXPLICIT_LITTLE])]
        port, calling = self.ground.product.port, first.calling_ae
        with RawAssociation(HOST, port, contexts=contexts, calling_ae=calling) as assoc:
            while objects:
                status, _ = assoc.store(objects[0].item)
                if status:
                    time.sleep(0.3)
                    return
                objects.pop(0)

    def expected(self) -> set[Pair]:
        """The oracle's pairs."""
        return {(uid, name) for uid, (_, names) in self.made.items() for name in names}

    def compare(self) -> dict[str, int]:
        """Hold what the far ends have against the oracle, and recount the ledger."""
        expected = self.expected()
        delivered = self.ground.delivered()
        found = {(uid, name) for name, some in delivered.items() for uid in some}
        missing, strangers = expected - found, found - expected
        assert not missing | strangers, (
            f"{len(missing)} pairs are missing, {len(strangers)} were not expected: "
            f"{sorted(missing)[:3]} {sorted(strangers)[:3]}"
        )
        changed = [
            (uid, name)
            for name, some in delivered.items()
            for uid, digest in some.items()
            if digest != self.made[uid][0]
        ]
        assert not changed, f"{len(changed)} objects changed on their way: {changed[:3]}"
        self.ground.product.verify("--deep")
        return {name: len(some) for name, some in delivered.items()}

    def _undone(self, expected: set[Pair]) -> str:
        """What is still to be done, in words."""
        try:
            page = self.ground.ledger.read()
        except OSError as error:
            return str(error)
        unknown = len(expected - page.states.keys())
        states = Counter(page.states.values())
        self._delivered = sum(states[state] for state in DONE)
        objects = len(self.made) - len(page.stored)
        if page.is_settled and not unknown and not objects:
            return ""
        why = Counter(page.reasons.values()).most_common(3)
        return (
            f"{objects} objects to be indexed, {page.undecided} to be decided, "
            f"{unknown} pairs to be chosen, {dict(states)} {why}"
        )


def run(folder: Path, *, database: str, count: int, seed: int) -> dict[str, object]:
    """Run it; return its figures. Raises AssertionError when a pair is missing or too many."""
    chance = random.Random(seed)
    began = time.monotonic()
    with ExitStack() as stack:
        server = None
        if database == "postgresql":
            server = stack.enter_context(PostgreSQL(folder / "server"))
        url = server.url if server else ""
        ground = stack.enter_context(Ground(folder / "site", server=url, chance=chance))
        running = Run(ground, server, count=count, seed=seed)
        started = time.monotonic()
        running.send()
        sent = time.monotonic()
        running.settle()
        settled = time.monotonic()
        by_destination = running.compare()
        return {
            "objects": count,
            "rules": len(ground.config["rules"]),
            "pairs": len(running.expected()),
            "nowhere": sum(not names for _, names in running.made.values()),
            "delivered": by_destination,
            "storescp_deaths": ground.storescp.deaths,
            "mishaps": dict(running.mishaps.counts),
            "send_seconds": round(sent - started, 1),
            "settle_seconds": round(settled - sent, 1),
            "compare_seconds": round(time.monotonic() - settled, 1),
            "wall": round(time.monotonic() - began, 1),
        }


def prove(folder: Path, database: str, name: str, seed: int) -> dict[str, object]:
    """A case of `make prove`; the name says how many: "20000 objects"."""
    return run(folder, database=database, count=int(name.split()[0]), seed=seed)


def main() -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.oracle_run", description=__doc__)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    wanted = parser.parse_args()
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="oracle-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        found = run(Path(folder), database=wanted.database, count=wanted.objects, seed=wanted.seed)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
