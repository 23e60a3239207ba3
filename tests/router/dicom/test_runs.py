"""Runs of plain elements pass, keep and refuse exactly what the walk element by element does."""

import io
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom import part10, uids
from router.dicom.errors import DicomError
from router.dicom.limits import Limits
from router.dicom.walk import Walk
from router.dicom.window import InflatedWindow, PlainWindow, Window
from tests.corpus import every_file
from tests.faults.hostile.files import Made, data_sets

SYNTAXES = (uids.IMPLICIT_LE, uids.EXPLICIT_LE, uids.EXPLICIT_BE, uids.DEFLATED_LE)
NARROW = (
    Limits(),
    Limits(elements=40),
    Limits(depth=1),
    Limits(value_bytes=20),
    Limits(header_bytes=600),
    Limits(sequence_bytes=100),
    Limits(inflated_bytes=1 << 10, inflated_bytes_hard=1 << 12),
)


def outcome(made: Made, limits: Limits, *, by_runs: bool, stop: bool = False) -> object:
    """All that a walk comes to: what it found up to its end, and how it ended."""
    window: Window
    try:
        file = io.BytesIO(made.data)
        if uids.is_deflated(made.syntax):
            window = InflatedWindow(file, 0, len(made.data), limits=limits)
        else:
            window = PlainWindow(file, 0, len(made.data))
        walk = Walk(
            window,
            limits,
            implicit=uids.is_implicit(made.syntax),
            little=not uids.is_big_endian(made.syntax),
            stop_at_pixels=stop,
            by_runs=by_runs,
        )
    except DicomError as error:
        return repr(error)
    end = ""
    try:
        walk.run()
    except DicomError as error:
        end = f"{type(error).__name__}: {error}"
    found = (walk.opaque, walk.count, walk.deepest, walk.keeping, walk.pixel_data, walk.items)
    return end, list(walk.elements.items()), found


def assert_same(made: Made, limits: Limits) -> None:
    for stop in (False, True):
        slow = outcome(made, limits, by_runs=False, stop=stop)
        assert outcome(made, limits, by_runs=True, stop=stop) == slow


def load(path: Path) -> Made:
    data = path.read_bytes()
    try:
        meta = part10.read_meta(io.BytesIO(data))
    except DicomError:
        return Made(data, uids.EXPLICIT_LE)
    return Made(data[meta.offset :], meta.transfer_syntax)


FILES = every_file()
SMALL = [path for path in FILES if path.stat().st_size < 2500]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_the_corpus(path: Path) -> None:
    made = load(path)
    for limits in NARROW:
        assert_same(made, limits)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_read_under_another_syntax(path: Path) -> None:
    data = load(path).data[: 1 << 17]
    for syntax in SYNTAXES[:3]:
        assert_same(Made(data, syntax), Limits())


def test_small_files_cut_at_every_byte() -> None:
    chosen = {made.syntax: made for made in map(load, SMALL)}
    assert {uids.IMPLICIT_LE, uids.EXPLICIT_LE} <= set(chosen)
    for made in chosen.values():
        for end in range(len(made.data)):
            cut = Made(made.data[:end], made.syntax)
            slow = outcome(cut, Limits(), by_runs=False)
            assert outcome(cut, Limits(), by_runs=True) == slow


@given(data_sets(), st.sampled_from(NARROW))
def test_data_sets_made_at_random(made: Made, limits: Limits) -> None:
    assert_same(made, limits)


HEADERS = [Made(made.data[:6000], made.syntax) for made in map(load, FILES)]
CHANGES = st.lists(
    st.tuples(st.integers(0, 5999), st.integers(0, 2), st.binary(max_size=4)), max_size=4
)


@given(st.sampled_from(HEADERS), CHANGES, st.sampled_from(NARROW))
def test_headers_with_bytes_changed(
    made: Made, changes: list[tuple[int, int, bytes]], limits: Limits
) -> None:
    data = made.data
    for at, dropped, put in changes:
        data = data[:at] + put + data[at + dropped :]
    assert_same(Made(data, made.syntax), limits)


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes(data: bytes, syntax: str) -> None:
    assert_same(Made(data, syntax), Limits())


@pytest.mark.parametrize("tag", [0, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00001, 0xFFFFFFFF])
def test_tags_that_have_no_place_in_a_run(tag: int) -> None:
    odd = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"CS", 2) + b"CT"
    plain = struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 2) + b"CT"
    for data in (odd, plain + odd, plain + odd + plain + plain):
        assert_same(Made(data, uids.EXPLICIT_LE), Limits())


@pytest.mark.parametrize("syntax", [uids.IMPLICIT_LE, uids.EXPLICIT_LE])
def test_headers_longer_than_the_window(syntax: str) -> None:
    chance = random.Random(syntax)
    head = "<HHI" if syntax == uids.IMPLICIT_LE else "<HH2sH"
    for _ in range(10):
        parts = []
        for number in range(800):
            size = chance.choice((0, 2, 90, 400))
            shape = (size,) if syntax == uids.IMPLICIT_LE else (b"LO", size)
            parts.append(struct.pack(head, 0x0009, 0x1000 + number, *shape) + bytes(size))
        made = Made(b"".join(parts), syntax)
        assert len(made.data) > 1 << 16
        assert_same(made, Limits())


def test_a_plain_header_is_passed_in_runs() -> None:
    made = load(next(path for path in FILES if path.name == "CT_small.dcm"))

    class Counted(Walk):
        """Counts what is looked at by itself."""

        alone = 0

        def _count_element(self) -> None:
            self.alone += 1
            super()._count_element()

    walk = Counted(PlainWindow(io.BytesIO(made.data), 0, len(made.data)), Limits(), implicit=False)
    walk.run()
    assert walk.count > 200
    assert walk.alone < 12
