"""What lies at the far ends: hashes of data sets in a folder destination, and configurations."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.product import Config
from tests.sinks import Sink

LAYOUT = "{SOPInstanceUID}.dcm"
TO_EVERY = "every"


def in_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of the data set by SOP Instance UID; a second file for one UID is an error."""
    found: dict[str, str] = {}
    for path in _files(folder):
        uid = path.name.removesuffix(".dcm")
        assert "-" not in uid, f"{path} is a second file for one object"
        found[uid] = hashlib.sha256(data_set(path)).hexdigest()
    return found


def names_in(folder: Path) -> set[str]:
    """The SOP Instance UIDs in a folder, without reading the files."""
    return {path.name.removesuffix(".dcm") for path in _files(folder)}


def by_hash(folder: Path) -> Counter[str]:
    """How many files have a data set of each SHA-256."""
    return Counter(hashlib.sha256(data_set(path)).hexdigest() for path in _files(folder))


def data_set(path: Path) -> bytes:
    """What follows the file meta of a Part 10 file (PS3.10 7.1): group 2 ends at its length."""
    data = path.read_bytes()
    assert data[128:132] == b"DICM", path
    assert data[132:140] == b"\x02\0\0\0UL\x04\0", path
    return data[144 + int.from_bytes(data[140:144], "little") :]


def folder_destination(name: str, path: Path) -> Config:
    """A folder destination whose file names are SOP Instance UIDs; the folder must be there."""
    path.mkdir(parents=True, exist_ok=True)
    return {"name": name, "kind": "folder", "path": str(path), "layout": LAYOUT}


def dicom_destination(name: str, sink: Sink, **settings: Any) -> Config:
    """A DICOM destination that leads to a sink."""
    return {"name": name, "kind": "dicom", **sink.settings, **settings}


def to_every(*destinations: Config, **others: Any) -> Config:
    """A configuration whose one rule sends every instance to every destination."""
    names = [one["name"] for one in destinations]
    rule = {"name": TO_EVERY, "state": "live", "send": names}
    return {"version": 1, "destinations": list(destinations), "rules": [rule], **others}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.dcm") if path.is_file()]
