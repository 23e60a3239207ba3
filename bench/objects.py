"""What is sent: synthetic instances made from a real header, with UIDs of our own per run.

Each file's UIDs hold the number of a run as ten digits; `renumbered` swaps them in the bytes, so
that each measurement sends objects nobody has seen, without writing them anew.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

ROOT = "1.2.826.0.1.3680043.10.1444"
FIRST_RUN = 1_000_000_000
HEADER_BYTES = 64 * 1024
IMAGES_A_STUDY = 100
FRAME_BYTES = 512 * 512 * 2
PATTERN_FRAMES = 16

SIDES = {"ct": (512,), "small": (256, 128)}
COUNTS = {"ct": 500, "small": 1000, "study": 200}
BIG_FRAMES = 1000


@dataclass(frozen=True)
class Objects:
    """Files of one kind, in the order in which they are sent, and what they weigh together."""

    kind: str
    files: tuple[Path, ...]
    size: int

    def shares(self, count: int) -> list[list[str]]:
        """Cut the files into consecutive shares, one an association."""
        names = [str(path) for path in self.files]
        edges = [len(names) * n // count for n in range(count + 1)]
        return [names[start:end] for start, end in pairwise(edges)]


def count(kind: str, scale: float) -> int:
    """Return how many objects of a kind are sent at a scale."""
    return max(4, round(COUNTS[kind] * scale))


def make(kind: str, folder: Path, *, scale: float = 1.0) -> Objects:
    """Write the objects of a kind below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = _big(folder, scale) if kind == "big" else _images(kind, folder, scale)
    files = tuple(made)
    return Objects(kind, files, sum(path.stat().st_size for path in files))


def renumbered(data: bytes, run: int) -> bytes:
    """Return a file's bytes with the UIDs of another run."""
    head, tail = data[:HEADER_BYTES], data[HEADER_BYTES:]
    return head.replace(_token(0), _token(run)) + tail


def write_run(objects: Objects, folder: Path, run: int) -> Objects:
    """Write the objects of a run as files of their own, for senders that read files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in objects.files:
        files.append(folder / path.name)
        files[-1].write_bytes(renumbered(path.read_bytes(), run))
    return Objects(objects.kind, tuple(files), objects.size)


def write_studies(folder: Path, number: int, *, images: int) -> None:
    """Write small instances, `images` of them a study."""
    folder.mkdir(parents=True)
    ds = _template()
    for at in range(number):
        _name(ds, _KINDS["marks"], at // images, at)
        _save(ds, folder, at)


def _token(run: int) -> bytes:
    return f"{ROOT}.{FIRST_RUN + run}.".encode()


def _uid(*parts: int) -> str:
    return ".".join([ROOT, str(FIRST_RUN), *map(str, parts)])


def _template() -> Dataset:
    ds = dcmread(str(get_testdata_file("CT_small.dcm")))
    del ds["DataSetTrailingPadding"]
    return ds


def _images(kind: str, folder: Path, scale: float) -> Iterator[Path]:
    ds, sides = _template(), SIDES.get(kind, (512,))
    batch = COUNTS["study"] if kind == "study" else IMAGES_A_STUDY
    for number in range(count(kind, scale)):
        side = sides[number % len(sides)]
        _name(ds, _KINDS[kind], number // batch, number)
        ds.Rows = ds.Columns = side
        ds.PixelData = random.Random(number).randbytes(side * side * 2)
        yield _save(ds, folder, number)


def _big(folder: Path, scale: float) -> Iterator[Path]:
    ds = _template()
    frames = max(2, round(BIG_FRAMES * scale))
    _name(ds, _KINDS["big"], 0, 0)
    ds.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    ds.Rows, ds.Columns, ds.NumberOfFrames = 512, 512, frames
    pattern = random.Random(0).randbytes(FRAME_BYTES * min(PATTERN_FRAMES, frames))
    ds.PixelData = (pattern * (frames // PATTERN_FRAMES + 1))[: frames * FRAME_BYTES]
    yield _save(ds, folder, 0)


_KINDS = {"ct": 1, "small": 2, "big": 3, "study": 4, "marks": 5}


def _name(ds: Dataset, kind: int, study: int, number: int) -> None:
    ds.SOPClassUID = CTImageStorage
    ds.StudyInstanceUID = _uid(kind, study + 1)
    ds.SeriesInstanceUID = _uid(kind, study + 1, 1)
    ds.SOPInstanceUID = _uid(kind, study + 1, 1, number + 1)
    ds.PatientID = f"BENCH{kind}{study:04d}"
    ds.InstanceNumber = number + 1


def _save(ds: Dataset, folder: Path, number: int) -> Path:
    path = folder / f"{number:05d}.dcm"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path
