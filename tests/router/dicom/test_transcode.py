"""Re-encoding, checked against pydicom's reading of both sides, and on broken input."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from router.dicom import part10
from router.dicom.syntaxes import REENCODABLE, TARGETS
from router.dicom.transcode import TranscodeError, reencode
from tests.router.destinations.objects import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    J2K,
    encoded,
    pixels_of,
    real_files,
)

SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def turn(data: bytes, stored: str, wanted: str) -> bytes:
    return b"".join(reencode(io.BytesIO(data), stored=stored, wanted=wanted))


def uncompressed() -> list[Path]:
    found = []
    for path in real_files():
        with path.open("rb") as file:
            if part10.read_meta(file).transfer_syntax in REENCODABLE:
                found.append(path)
    return found


def data_set(path: Path) -> tuple[bytes, str]:
    with path.open("rb") as file:
        meta = part10.read_meta(file)
        file.seek(meta.offset)
        return file.read(), meta.transfer_syntax


def assert_same(left: Dataset, right: Dataset) -> None:
    """Both hold the same elements but group lengths; values agree wherever the VR does."""
    tags = [tag for tag in tuple(left.keys()) if tag.element]
    assert tags == list(right.keys())
    for tag in tags:
        one, other = left[tag], right[tag]
        if one.VR == other.VR == "SQ":
            assert len(one.value) == len(other.value)
            for ours, theirs in zip(one.value, other.value, strict=True):
                assert_same(ours, theirs)
        elif one.VR == other.VR:
            assert one.value == other.value, tag


@pytest.mark.parametrize("wanted", sorted(TARGETS))
@pytest.mark.parametrize("path", uncompressed(), ids=lambda path: path.name)
def test_real_files_say_the_same_in_every_encoding(path: Path, wanted: str) -> None:
    data, stored = data_set(path)
    turned = turn(data, stored, wanted)
    with warnings.catch_warnings(action="ignore"):  # pydicom's, about what real files hold
        assert_same(pydicom.dcmread(path, force=True), pixels_of(turned, wanted))
    assert turn(data, stored, wanted) == turned
    assert turn(turned, wanted, wanted) == turned


def nested() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.3", "1.2.4"
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "T"
    outer.ConceptNameCodeSequence = [inner, inner]
    ds.ContentSequence = [outer, Dataset()]
    ds.PixelRepresentation = 1
    ds.add_new(0x00280106, "SS", -5)
    ds.add_new(0x00291010, "OB", b"\1\2")
    ds.add_new(0x00290010, "LO", "ACME")
    ds.add_new(0x00281052, "DS", "1.5")
    ds.add_new(0x00189087, "FD", 2.5)
    ds.add_new(0x00209165, "AT", 0x00100020)
    ds.PixelData = bytes(range(8))
    return ds


@pytest.mark.parametrize("stored", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("wanted", [EXPLICIT, IMPLICIT])
def test_nested_sequences_and_numbers(stored: str, wanted: str) -> None:
    turned = pixels_of(turn(encoded(nested(), stored), stored, wanted), wanted)
    assert [len(i.get("ConceptNameCodeSequence", [])) for i in turned.ContentSequence] == [2, 0]
    assert turned.ContentSequence[0].ConceptNameCodeSequence[1].CodeValue == "T"
    assert turned[0x00280106].value == -5
    assert turned[0x00189087].value == 2.5
    assert turned[0x00209165].value == 0x00100020
    assert turned[0x00291010].value == b"\1\2"


def test_deflated_is_inflated() -> None:
    data = encoded(nested(), EXPLICIT)
    squeeze = zlib.compressobj(wbits=-15)
    deflated = squeeze.compress(data) + squeeze.flush()
    assert turn(deflated + b"\0", DEFLATED, EXPLICIT) == turn(data, EXPLICIT, EXPLICIT)


def test_an_unknown_sequence_of_undefined_length_becomes_a_sequence() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item += struct.pack("<HHI", 0x0008, 0x0100, 2) + b"T "
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + SEQUENCE_END
    data = struct.pack("<HH2sHI", 0x0029, 0x1010, b"UN", 0, 0xFFFFFFFF) + item
    turned = turn(data, EXPLICIT, EXPLICIT)
    assert turned[4:6] == b"SQ"
    assert pixels_of(turned, EXPLICIT)[0x00291010].value[0].CodeValue == "T"
    assert turn(data, EXPLICIT, IMPLICIT)[8:] == item


def test_a_value_too_long_for_its_representation_becomes_unknown() -> None:
    data = struct.pack("<HHI", 0x0028, 0x3002, 70000) + bytes(70000)
    assert turn(data, IMPLICIT, EXPLICIT)[4:6] == b"UN"


def test_group_lengths_are_dropped() -> None:
    data = struct.pack("<HHII", 0x0008, 0, 4, 99) + struct.pack("<HHI", 0x0008, 0x0060, 2) + b"CT"
    assert turn(data, IMPLICIT, IMPLICIT) == data[12:]


@pytest.mark.parametrize(
    ("stored", "data"),
    [
        (J2K, b""),
        (EXPLICIT, b"\x08\x00"),
        (EXPLICIT, struct.pack("<HH2sH", 8, 0x60, b"CS", 4) + b"CT"),
        (EXPLICIT, struct.pack("<HH2sH", 8, 0x60, b"ZZ", 2) + b"CT"),
        (EXPLICIT, struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)),
        (EXPLICIT, struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)),
        (EXPLICIT, SEQUENCE_END),
        (IMPLICIT, struct.pack("<HHI", 0xFFFE, 0xE000, 0)),
        (IMPLICIT, struct.pack("<HHI", 8, 0x60, 0xFFFFFFF0)),
        (IMPLICIT, struct.pack("<HHIHHI", 0x0040, 0xA730, 10, 0xFFFE, 0xE000, 200) + bytes(300)),
        (BIG, struct.pack(">HH2sHB", 0x28, 0x10, b"US", 1, 0)),
        (DEFLATED, b"not deflated at all"),
        (DEFLATED, zlib.compress(b"12345678" * 9, wbits=-15)[:-3]),
    ],
)
def test_what_is_broken_is_refused(stored: str, data: bytes) -> None:
    with pytest.raises(TranscodeError):
        turn(data, stored, EXPLICIT)


def test_bombs_are_refused_before_they_go_off() -> None:
    squeeze = zlib.compressobj(9, wbits=-15)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFF0)
    deflated = squeeze.compress(head)
    deflated += b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(300)) + squeeze.flush()
    sizes: list[int] = []
    with pytest.raises(TranscodeError, match="beyond"):
        sizes.extend(map(len, reencode(io.BytesIO(deflated), stored=DEFLATED, wanted=EXPLICIT)))
    assert max(sizes) < 1 << 20


def test_depth_is_limited_without_recursion() -> None:
    level = struct.pack("<HHI", 0x0040, 0xA730, 0xFFFFFFFF)
    level += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(TranscodeError, match="deeper"):
        turn(level * 5000, IMPLICIT, EXPLICIT)


@given(
    st.binary(max_size=400), st.sampled_from(sorted(REENCODABLE)), st.sampled_from(sorted(TARGETS))
)
def test_any_bytes_are_turned_or_refused_by_name(data: bytes, stored: str, wanted: str) -> None:
    try:
        turn(data, stored, wanted)
    except TranscodeError:
        return


@given(st.data())
def test_a_damaged_data_set_is_turned_or_refused_by_name(data: st.DataObject) -> None:
    stored = data.draw(st.sampled_from([EXPLICIT, IMPLICIT, BIG]))
    damaged = bytearray(encoded(nested(), stored))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        turn(bytes(damaged), stored, EXPLICIT)
    except TranscodeError:
        return
