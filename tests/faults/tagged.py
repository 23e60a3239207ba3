"""Made objects that say themselves where they may appear.

Each carries the names of its destinations in a private tag and, in other words, in an attribute
that the rules look at. The rules decide by the latter; the books compare with the former, so a
wrong decision cannot vouch for itself.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from tests.product import Config
from tests.proof.objects import dataset, new_uid, raw
from tests.senders import RawObject

GROUP, CREATOR, ELEMENT = 0x0099, "FAULT KIT", 0x01
PIXELS = (256, 2048, 2048, 16384, 131072)


@dataclass(frozen=True)
class Tagged:
    """An object to be sent and where it may appear."""

    item: RawObject
    destinations: frozenset[str]
    sha256: str

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        return self.item.sop_instance_uid


def study(
    size: int,
    names: Sequence[str],
    chance: random.Random,
    *,
    pixels: Sequence[int] = PIXELS,
    everywhere: bool = False,
) -> list[Tagged]:
    """Return the objects of one study, each for some of `names`, at least one of them for all.

    `pixels` are the bytes of pixels to choose from; with `everywhere` each is for all.
    """
    study_uid, series_uid = new_uid(), new_uid()
    found = []
    for number in range(size):
        chosen = [name for name in names if number == 0 or everywhere or chance.random() < 0.8]
        ds = dataset(study=study_uid, series=series_uid, pixels=chance.choice(pixels))
        ds.StationName = "".join(f"-{name}-" for name in chosen)[:16]
        block = ds.private_block(GROUP, CREATOR, create=True)
        block.add_new(ELEMENT, "LO", chosen)
        item = raw(ds)
        digest = hashlib.sha256(item.data).hexdigest()
        found.append(Tagged(item, frozenset(chosen), digest))
    return found


def allowed(data: bytes) -> frozenset[str]:
    """Return where a data set (Explicit VR Little Endian) may appear, by its private tag."""
    buffer = DicomBytesIO(data)
    ds = read_dataset(buffer, is_implicit_VR=False, is_little_endian=True)
    value = ds.private_block(GROUP, CREATOR)[ELEMENT].value
    return frozenset([value] if isinstance(value, str) else value)


def rules(names: Sequence[str]) -> list[Config]:
    """Return one rule a destination, by the attribute."""
    return [
        {
            "name": f"to-{name}",
            "state": "live",
            "when": {"field": "StationName", "op": "contains", "value": f"-{name}-"},
            "send": [name],
        }
        for name in names
    ]
