"""Random rules over random studies: what is delivered is what the oracle says, pair by pair."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from tests.oracle import Pair, expected_pairs
from tests.product import HOST, Config, Product, wait_until
from tests.proof.delivered import folder_destination, names_in
from tests.proof.objects import dataset, new_uid, raw
from tests.senders import send_raw

ROUNDS = int(os.environ.get("PROOF_ROUNDS", "1"))
STUDIES, RULES = 50, 14
MODALITIES = ["CT", "MR", "US", "CR"]
CALLERS = ["CT1", "CT2", "MR-SCANNER"]
CREATOR = "ACME 1.1"
pytestmark = [pytest.mark.database, pytest.mark.timeout(240)]


@pytest.mark.parametrize("seed", range(1, ROUNDS + 1))
def test_what_is_delivered_is_what_the_oracle_says(
    product: Product, tmp_path: Path, *, seed: int
) -> None:
    dice = random.Random(seed)
    config = make_config(dice, tmp_path)
    product.apply(config)
    studies = [make_study(dice) for _ in range(STUDIES)]
    facts: dict[str, str] = {}
    for study in studies:
        caller = dice.choice(CALLERS)
        facts |= {str(ds.SOPInstanceUID): caller for ds in study}
        sent = send_raw(HOST, product.port, [raw(ds) for ds in study], calling_ae=caller)
        assert {one.status for one in sent} == {0}
    wanted = expected_pairs(
        ((ds, known(facts[str(ds.SOPInstanceUID)])) for study in studies for ds in study), config
    )
    wait_until(lambda: wanted <= pairs(tmp_path), seconds=45, what=lacking(tmp_path, wanted))
    wait_until(lambda: not waiting(product, studies), seconds=20, what="quiet timers have fired")
    product.wait_idle()
    assert pairs(tmp_path) == wanted
    assert len(wanted) > STUDIES, "the rules choose too little to prove anything"
    product.verify()


def test_a_late_instance_sends_only_what_is_new(product: Product, tmp_path: Path) -> None:
    config = {
        "version": 1,
        "destinations": [folder_destination("disk", tmp_path / "disk")],
        "rules": [
            {"name": "whole", "state": "live", "on": "study", "quiet": "2s", "send": ["disk"]}
        ],
    }
    product.apply(config)
    study, series = new_uid(), new_uid()
    first = [raw(dataset(study=study, series=series)) for _ in range(3)]
    late = raw(dataset(study=study, series=series))
    send_raw(HOST, product.port, first)
    uids = {one.sop_instance_uid for one in first}
    wait_until(lambda: names_in(tmp_path / "disk") == uids, seconds=15, what="the quiet study")
    send_raw(HOST, product.port, [late])
    uids.add(late.sop_instance_uid)
    wait_until(lambda: names_in(tmp_path / "disk") == uids, seconds=15, what="the late instance")
    product.wait_idle()
    (report,) = product.report(study)
    (sent,) = report["sent"]
    assert sent["attempts"] == len(uids)
    chosen = [(one["phase"], list(one["destinations"])) for one in report["decided"]]
    assert chosen[0] == ("On arrival", []), "it left before it was quiet"
    assert {places[0] for phase, places in chosen if places} == {"disk"}
    assert "On arrival" not in {phase for phase, places in chosen if places}


def make_study(dice: random.Random) -> list[Dataset]:
    """One to four instances in one or two series; attributes may lack."""
    study, series = new_uid(), [new_uid(), new_uid()]
    return [make_instance(dice, study, dice.choice(series)) for _ in range(dice.randint(1, 4))]


def make_instance(dice: random.Random, study: str, series: str) -> Dataset:
    ds = dataset(study=study, series=series, pixels=256, Modality=dice.choice(MODALITIES))
    optional: dict[str, Any] = {
        "SliceThickness": dice.choice(["0.5", "1.0", "2.50", "5"]),
        "StationName": dice.choice(["ROOM 1", "ROOM 2", "ER*"]),
        "ImageType": dice.choice([["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "MPR"]]),
        "SeriesNumber": dice.randint(1, 9),
        "ContentDate": dice.choice(["20250101", "20260615"]),
        "SeriesDescription": dice.choice(["Thorax lung", "thorax", "Head (bone)"]),
    }
    for keyword, value in optional.items():
        if dice.random() < 0.8:
            setattr(ds, keyword, value)
    if dice.random() < 0.6:
        ds.ReferencedRequestSequence = [request(f"A{n}") for n in dice.sample(range(4), 2)]
    if dice.random() < 0.5:
        block = ds.private_block(0x0019, CREATOR, create=True)
        block.add_new(0x10, "LO", dice.choice(["one", "two"]))
    return ds


def request(accession: str) -> Dataset:
    ds = Dataset()
    ds.AccessionNumber = accession
    return ds


def make_config(dice: random.Random, folder: Path) -> Config:
    names = [f"to-{n}" for n in range(5)]
    rules = [make_rule(dice, number, names) for number in range(RULES)]
    return {
        "version": 1,
        "destinations": [folder_destination(name, folder / name) for name in names],
        "rules": rules,
    }


def make_rule(dice: random.Random, number: int, names: Sequence[str]) -> Config:
    rule: Config = {
        "name": f"rule-{dice.randrange(1000)}-{number}",
        "priority": dice.randint(1, 6),
        "state": dice.choice(["live", "live", "live", "shadow", "draft"]),
        "enabled": dice.random() < 0.9,
        "on": dice.choice(["instance", "instance", "series", "study"]),
        "quiet": "1s",
        "send": dice.sample(list(names), dice.randint(0, 2)),
        "stop": dice.random() < 0.2,
    }
    if dice.random() < 0.95:
        rule["when"] = condition(dice, depth=2)
    return rule


def condition(dice: random.Random, *, depth: int) -> Config:
    kind = dice.choice(["leaf", "all", "any", "not"]) if depth else "leaf"
    if kind == "not":
        return {"not": condition(dice, depth=depth - 1)}
    if kind in {"all", "any"}:
        return {kind: [condition(dice, depth=depth - 1) for _ in range(dice.randint(1, 3))]}
    return leaf(dice)


def leaf(dice: random.Random) -> Config:
    field, op, value = dice.choice(LEAVES)
    found = {"field": field, "op": op, "value": value}
    return found if op not in {"exists", "missing"} else {"field": field, "op": op}


LEAVES: list[tuple[str, str, Any]] = [
    ("Modality", "equals", "CT"),
    ("Modality", "not_equals", "CT"),
    ("Modality", "in", ["MR", "US"]),
    ("(0008,0060)", "matches", "C?"),
    ("StationName", "equals", "ROOM 1"),
    ("StationName", "matches", "ROOM*"),
    ("StationName", "contains", "R*"),
    ("StationName", "not_equals", "ROOM 1"),
    ("StationName", "missing", None),
    ("SliceThickness", "lte", 1),
    ("SliceThickness", "gt", 2.4),
    ("SliceThickness", "equals", 2.5),
    ("SeriesNumber", "gte", 5),
    ("SeriesNumber", "lt", 3),
    ("SeriesNumber", "in", [1, 2, 3]),
    ("ImageType", "equals", "PRIMARY"),
    ("ImageType", "not_equals", "PRIMARY"),
    ("ImageType", "contains", "MP"),
    ("ContentDate", "lt", "20260101"),
    ("ContentDate", "exists", None),
    ("SeriesDescription", "regex", "^[Tt]horax"),
    ("SeriesDescription", "contains", "(bone"),
    ("SeriesDescription", "equals", "Thorax"),
    ("ReferencedRequestSequence.AccessionNumber", "equals", "A1"),
    ("ReferencedRequestSequence.AccessionNumber", "missing", None),
    ("ReferencedRequestSequence", "exists", None),
    (f'(0019,xx10, "{CREATOR}")', "equals", "two"),
    (f'(0019,xx10, "{CREATOR}")', "exists", None),
    ("calling_ae", "matches", "CT*"),
    ("calling_ae", "equals", "MR-SCANNER"),
    ("called_ae", "equals", "DICOMROUTER"),
    ("origin", "equals", "dimse"),
    ("remote_host", "equals", "127.0.0.1"),
]


def known(caller: str) -> dict[str, str]:
    return {
        "calling_ae": caller,
        "called_ae": "DICOMROUTER",
        "source": "",
        "remote_host": HOST,
        "origin": "dimse",
    }


def pairs(folder: Path) -> set[Pair]:
    """What lies in the destination folders."""
    return {(uid, path.name) for path in folder.glob("to-*") for uid in names_in(path)}


def waiting(product: Product, studies: Sequence[Sequence[Dataset]]) -> list[str]:
    """What the reports of the last studies still wait for."""
    uids = {str(study[0].StudyInstanceUID) for study in studies[-3:]}
    return [line for uid in uids for found in product.report(uid) for line in found["waiting"]]


def lacking(folder: Path, wanted: set[Pair]) -> str:
    return f"{len(wanted)} pairs below {folder}"
