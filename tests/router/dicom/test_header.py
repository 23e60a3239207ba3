"""The structure reader against pydicom, cuts, bombs and hostile nesting."""

import io
import pickle
import random
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom import header, part10, uids
from router.dicom.errors import DicomError, MalformedDataSet, TruncatedDataSet
from router.dicom.limits import Limits
from router.dicom.walk import PIXEL_DATA, Raw
from tests.corpus import damaged_files, whole_files

KEYWORDS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "SeriesDate",
    "StudyTime",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "InstitutionName",
    "ReferringPhysicianName",
    "StudyDescription",
    "SeriesDescription",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "SliceThickness",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyID",
    "SeriesNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "WindowCenter",
    "ImageType",
    "RescaleIntercept",
)
WHOLE = whole_files()


def examine(data: bytes, transfer_syntax: str, **limits: int) -> header.Structure:
    return header.examine(
        io.BytesIO(data),
        offset=0,
        size=len(data),
        transfer_syntax=transfer_syntax,
        limits=Limits(**limits),
    )


def load(path: Path) -> tuple[bytes, str]:
    data = path.read_bytes()
    meta = part10.read_meta(io.BytesIO(data))
    return data[meta.offset :], meta.transfer_syntax


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in {b"SQ", b"OB", b"OW", b"UN", b"UT"}:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_every_whole_object_passes_and_reads_as_pydicom_reads_it(path: Path) -> None:
    data, syntax = load(path)
    found = examine(data, syntax)
    assert found.opaque is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, force=True)
        for keyword in KEYWORDS:
            ours = found.header.text(keyword)
            if keyword.endswith("Name"):
                ours = ours.rstrip("=")  # pydicom leaves an empty last group of a name out
            assert ours == _pydicom_text(ds, keyword), keyword
    assert (found.pixel_data is not None) == any(tag in ds for tag in PIXEL_DATA)


def _pydicom_text(ds: pydicom.Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    if value is None:
        return ""
    many = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    return "\\".join(str(one).rstrip(" \0") for one in many)


@pytest.mark.parametrize("path", damaged_files(), ids=lambda path: path.name)
def test_every_damaged_object_is_refused(path: Path) -> None:
    with pytest.raises(MalformedDataSet):
        examine(*load(path))


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_cuts_at_random_places_are_refused(path: Path) -> None:
    data, syntax = load(path)
    rng = random.Random(path.name)
    borders = _borders(data, syntax)
    for _ in range(20):
        cut = rng.randrange(1, len(data))
        if cut in borders:
            continue
        with pytest.raises(MalformedDataSet):
            examine(data[:cut], syntax)


def _borders(data: bytes, syntax: str) -> set[int]:
    """Where a cut leaves a lawful shorter data set: between top-level elements, by pydicom's word.

    An image whose pixels are lost there is refused all the same, which its own test shows.
    """
    if uids.is_deflated(syntax):
        return set()
    stream = io.BytesIO(data)
    borders = {0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in pydicom.filereader.data_element_generator(
            stream, uids.is_implicit(syntax), not uids.is_big_endian(syntax), defer_size=None
        ):
            borders.add(stream.tell())
    end = len(data.rstrip(b"\0"))
    return borders | set(
        range(end, len(data)) if len(data) - max(borders - {len(data)}) > 8 else []
    )


def test_an_image_cut_before_its_pixels_is_refused() -> None:
    data, syntax = load(next(path for path in WHOLE if path.name == "CT_small.dcm"))
    found = examine(data, syntax)
    assert found.pixel_data is not None
    with pytest.raises(TruncatedDataSet, match="Rows and Columns announce"):
        examine(data[: found.pixel_data[1] - 12], syntax)


@given(
    st.binary(max_size=400),
    st.sampled_from([uids.IMPLICIT_LE, uids.EXPLICIT_LE, uids.EXPLICIT_BE, uids.DEFLATED_LE]),
)
def test_no_bytes_make_it_fail_otherwise(data: bytes, syntax: str) -> None:
    try:
        found = examine(data, syntax)
    except DicomError:
        return
    for tag in found.header.tags():
        found.header.text(tag)
        found.header.sequence(tag)


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_no_text_and_no_character_set_makes_decoding_raise(name: bytes, charset: bytes) -> None:
    data = element(0x00080005, b"CS", charset) + element(0x00100010, b"PN", name)
    assert isinstance(examine(data, uids.EXPLICIT_LE).header.text("PatientName"), str)


def test_undecodable_text_is_replaced_and_told() -> None:
    data = element(0x00080005, b"CS", b"ISO_IR 192") + element(0x00100010, b"PN", b"M\xfcller")
    found = examine(data, uids.EXPLICIT_LE).header
    assert found.text("PatientName") == "M\ufffdller"
    assert found.character_problem


def test_a_backslash_inside_a_gb18030_character_does_not_split() -> None:
    name = "\u8a89\u4e02"
    encoded = name.encode("gb18030")
    data = element(0x00080005, b"CS", b"GB18030 ") + element(0x00100020, b"LO", encoded)
    assert examine(data, uids.EXPLICIT_LE).header.values("PatientID") == [name]


def test_deep_nesting_is_opaque_and_keeps_its_header() -> None:
    nested = b""
    for _ in range(3000):
        nested = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested
        nested = element(0x00081140, b"SQ", nested)
    data = element(0x00080060, b"CS", b"CT") + nested
    found = examine(data, uids.EXPLICIT_LE)
    assert found.opaque is not None
    assert "deeper than 64" in found.opaque
    assert found.header.text("Modality") == "CT"


def test_too_many_elements_are_opaque() -> None:
    data = element(0x00080060, b"CS", b"CT") + element(0x00100010, b"PN", b"") * 200_001
    found = examine(data, uids.EXPLICIT_LE)
    assert found.opaque == "more than 200000 elements"
    assert found.header.text("Modality") == "CT"


@pytest.mark.parametrize(
    "limits",
    [{"inflated_bytes": 1 << 20}, {"inflated_bytes_hard": 1 << 20}],
    ids=["ratio", "absolute"],
)
def test_deflate_bombs_are_to_be_kept_apart(limits: dict[str, int]) -> None:
    plain = element(0x00080018, b"UI", b"1.2.3\0") + element(0x7FE00010, b"OW", bytes(8 << 20))
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = squeezed.compress(plain) + squeezed.flush()
    assert examine(data, uids.DEFLATED_LE).pixel_data == (0x7FE00010, 26, 8 << 20)
    found = examine(data, uids.DEFLATED_LE, **limits)
    assert found.quarantine is not None
    assert "inflates beyond" in found.quarantine
    assert (found.sop_instance_uid, found.opaque) == ("1.2.3", None)


_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
_ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_SQ = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
_UN = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
_IMPLICIT = struct.pack("<HHI", 0x0008, 0x0060, 2) + b"CT"
_FIRST = element(0x00080060, b"CS", b"CT")


@pytest.mark.parametrize(
    "data",
    [
        _SQ + _ITEM + _FIRST + _ITEM_END + _END,
        _SQ + _ITEM + _IMPLICIT + _ITEM_END + _END,
        _UN + _ITEM + _IMPLICIT + _ITEM_END + _END,
        _FIRST + element(0xFFFCFFFC, b"OB", bytes(6)),
        _FIRST + bytes(8),
        _FIRST + element(0x00100010, b"PN", b"odd"),
        element(0x00080000, b"UL", bytes(4)) + _FIRST,
        struct.pack("<HH2sHI", 0x0009, 0x1001, b"ZZ", 0, 2) + b"ab" + _FIRST,
    ],
    ids=["sequence", "implicit-item", "un", "padding", "nuls", "odd", "group-length", "new-vr"],
)
def test_lawful_quirks_pass(data: bytes) -> None:
    assert examine(data, uids.EXPLICIT_LE).opaque is None


@pytest.mark.parametrize(
    "data",
    [
        _FIRST + b"\0",
        _FIRST + b"\x08\0\x61\0",
        _SQ + _ITEM + _FIRST,
        _SQ,
        _FIRST + _END,
        _FIRST[:-1],
    ],
    ids=["one-nul", "half-tag", "open-item", "open-sequence", "stray-end", "short-value"],
)
def test_what_is_cut_or_misplaced_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedDataSet):
        examine(data, uids.EXPLICIT_LE)


def test_sequences_inherit_the_character_set_and_survive_pickling() -> None:
    item = element(0x00081030, b"LO", "\u0416".encode("iso8859_5"))
    sequence = element(0x00081110, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
    data = element(0x00080005, b"CS", b"ISO_IR 144") + sequence
    found = pickle.loads(pickle.dumps(examine(data, uids.EXPLICIT_LE).header))  # noqa: S301
    (inner,) = found.sequence("ReferencedStudySequence")
    assert inner.text("StudyDescription") == "\u0416"


def test_private_elements_are_found_by_their_creator() -> None:
    data = element(0x00090011, b"LO", b"ACME") + element(0x00091101, b"UN", b"left")
    found = examine(data, uids.EXPLICIT_LE).header
    assert found.text((0x0009, 0x01, "ACME")) == "left"
    assert found.text((0x0009, 0x01, "OTHER")) == ""


def test_long_values_are_known_by_their_length_only() -> None:
    data = element(0x00104000, b"UT", b"x" * 70_000)
    found = examine(data, uids.EXPLICIT_LE).header
    raw = found.raw("PatientComments")
    assert raw == header.RawElement(0x00104000, "UT", None, 70_000, True)
    assert found.field("PatientComments").problem == header.TOO_LONG


def test_read_header_stops_before_the_pixels() -> None:
    data, syntax = load(next(path for path in WHOLE if path.name == "CT_small.dcm"))
    pixels = examine(data, syntax).pixel_data
    assert pixels is not None
    broken = data[: pixels[1] - 4] + b"\xfe\xff\xff\xff" + data[pixels[1] :]
    with pytest.raises(TruncatedDataSet):
        examine(broken, syntax)
    found = header.read_header(
        io.BytesIO(broken), offset=0, size=len(broken), transfer_syntax=syntax
    )
    assert found.text("Modality") == "CT"


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_a_packed_header_answers_as_the_one_that_was_packed(path: Path) -> None:
    found = examine(*load(path)).header
    again = header.unpack(header.pack(found))
    assert again.tags() == found.tags()
    assert _everything(again) == _everything(found)
    assert again.character_problem == found.character_problem


def _everything(found: header.Header) -> list[object]:
    return [
        (found.raw(tag), found.field(tag), [_everything(item) for item in found.sequence(tag)])
        for tag in found.tags()
    ]


@pytest.mark.parametrize("codecs", [b"ISO_IR 192", b"\\ISO 2022 IR 87", b"nonsense"])
@pytest.mark.parametrize("length", [0, 70_000, 1 << 33])
def test_items_and_values_that_were_not_kept_are_packed_too(length: int, codecs: bytes) -> None:
    item = element(0x00100010, b"PN", b"\x1b$B;3ED\x1b(B") + element(0x00081030, b"LO", b"\xd0\x96")
    sequence = element(0x00081110, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
    outer = examine(element(0x00080005, b"CS", codecs) + sequence, uids.EXPLICIT_LE).header
    (inner,) = outer.sequence("ReferencedStudySequence")
    value = None if length else b""
    far = header.Header({0x00080060: Raw(b"", value, length), 0x00104000: Raw(b"UT", None, 3)})
    for one in (outer, inner, far, header.Header({}, implicit=True, little=False)):
        again = header.unpack(header.pack(one))
        assert (again.implicit, again.little) == (one.implicit, one.little)
        assert _everything(again) == _everything(one)
        assert again.character_problem == one.character_problem


def test_what_is_no_packed_header_is_told() -> None:
    packed = header.pack(examine(_FIRST, uids.EXPLICIT_LE).header)
    cut = [packed[:end] for end in range(len(packed))]
    for wrong in (*cut, packed + b"\0", b"\x02" + packed[1:]):
        with pytest.raises(ValueError, match="packed header"):
            header.unpack(wrong)
