"""Generated load: lawful objects, each different, which say themselves where they may appear."""

import hashlib
import random

from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from tests.faults.load import allowed, make, uid
from tests.faults.tagged import allowed as allowed_by_pydicom

NAMES = ("a", "b", "c", "disk")


def test_objects_are_lawful_and_say_where_they_may_appear() -> None:
    chance = random.Random(1)
    study, series = uid(chance), uid(chance)
    for _ in range(50):
        one = make(NAMES, study=study, series=series, chance=chance)
        data = one.item.data
        ds = read_dataset(DicomBytesIO(data), is_implicit_VR=False, is_little_endian=True)
        assert (ds.StudyInstanceUID, ds.SeriesInstanceUID) == (study, series)
        assert ds.SOPInstanceUID == one.uid
        assert len(ds.PixelData) % 2048 == 0
        assert all((f"-{name}-" in ds.StationName) == (name in one.destinations) for name in NAMES)
        assert allowed(data) == allowed_by_pydicom(data) == one.destinations
        assert one.sha256 == hashlib.sha256(data).hexdigest()


def test_no_two_objects_are_alike() -> None:
    chance = random.Random(2)
    made = [make(NAMES, study=uid(chance), series=uid(chance), chance=chance) for _ in range(200)]
    assert len({one.uid for one in made}) == len({one.sha256 for one in made}) == 200
    assert all(len(one.uid) <= 64 for one in made)
