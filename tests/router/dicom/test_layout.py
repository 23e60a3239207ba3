"""Layouts: what is refused, and that no value can leave its folder."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom.errors import RuleError
from router.dicom.header import Header
from router.dicom.layout import clean, parse_layout, render
from router.dicom.walk import Raw


def header(patient_id: bytes) -> Header:
    return Header({0x00100020: Raw(b"LO", patient_id, len(patient_id))})


@pytest.mark.parametrize(
    "text",
    ["", "/a", "a/", "a//b", "..", "a/../b", "../{PatientID}", ".hidden", "a\\b", "a\0b", "{Nope}",
     "{PatientID", "PatientID}", "{}", "{PixelData}", "{}/x", "a\nb", "x" * 2000],
)  # fmt: skip
def test_refuses_templates_that_lead_astray(text: str) -> None:
    with pytest.raises(RuleError):
        parse_layout(text)


def test_renders_the_layout_of_the_contract() -> None:
    layout = parse_layout("{ReceivedDate}/{Source}/in box/{PatientID}-{StudyDate}.dcm")
    path = render(layout, header(b"A/B C "), received_date="20260102", source="ct 1")
    assert path == "20260102/ct_1/in_box/A_B_C-UNKNOWN.dcm"


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [("", "UNKNOWN"), ("..", "UNKNOWN"), ("../x", "_x"), ("é", "_"), ("a" * 70, "a" * 64)],
)
def test_cleans_values(value: str, cleaned: str) -> None:
    assert clean(value) == cleaned


@given(
    st.binary(max_size=100),
    st.text(max_size=80),
    st.sampled_from(["{PatientID}/x.dcm", "a{PatientID}{Source}"]),
)
def test_no_value_leaves_its_folder(patient_id: bytes, source: str, template: str) -> None:
    path = render(
        parse_layout(template), header(patient_id), received_date="20260102", source=source
    )
    assert re.fullmatch(r"[A-Za-z0-9._/-]+", path)
    assert path.count("/") == template.count("/")
    assert not any(part.startswith(".") for part in PurePosixPath(path).parts)
