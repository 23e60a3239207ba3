"""Reading the answers of origin servers: both forms, what servers do, and what attackers do."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom import store_answer
from router.dicom.store_answer import Said, UnreadableAnswer

JSON = "application/dicom+json"
XML = "application/dicom+xml"

ANSWER = {
    "00081190": {"vr": "UR", "Value": ["http://host/studies/1.2"]},
    "00081199": {
        "vr": "SQ",
        "Value": [
            {"00081155": {"vr": "UI", "Value": ["1.1"]}},
            {
                "00081155": {"vr": "UI", "Value": ["1.2"]},
                "00081196": {"vr": "US", "Value": [45056]},
            },
        ],
    },
    "00081198": {
        "vr": "SQ",
        "Value": [
            {
                "00081155": {"vr": "UI", "Value": ["1.3"]},
                "00081197": {"vr": "US", "Value": [42752]},
            },
            {"00081197": {"vr": "US", "Value": [272]}},
        ],
    },
    "0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [49152]}}]},
}
ORTHANC_LIKE = b"""<?xml version="1.0" encoding="utf-8"?>
<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">
  <DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence">
    <Item number="1">
      <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.3</Value></DicomAttribute>
      <DicomAttribute tag="00081197" vr="US"><Value number="1">42752</Value></DicomAttribute>
    </Item>
  </DicomAttribute>
  <DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">
    <Item number="1">
      <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.1</Value></DicomAttribute>
      <DicomAttribute tag="0040A730" vr="SQ"><Item number="1">
        <DicomAttribute tag="00081155" vr="UI"><Value number="1">9.9</Value></DicomAttribute>
      </Item></DicomAttribute>
    </Item>
  </DicomAttribute>
</NativeDicomModel>"""


@pytest.mark.parametrize("wrapped", [False, True])
def test_reads_json(wrapped: bool) -> None:
    text = json.dumps([ANSWER] if wrapped else ANSWER).encode()
    read = store_answer.read(text, JSON)
    assert read.instances == {
        "1.1": Said(stored=True, reason=None),
        "1.2": Said(stored=True, reason=0xB000),
        "1.3": Said(stored=False, reason=0xA700),
    }
    assert sorted(read.others, key=str) == [0x0110, 0xC000]


def test_reads_xml() -> None:
    read = store_answer.read(ORTHANC_LIKE, XML)
    assert read.instances == {
        "1.1": Said(stored=True, reason=None),
        "1.3": Said(stored=False, reason=0xA700),
    }
    assert read.others == ()


def test_the_first_byte_tells_the_form_where_the_content_type_is_wrong() -> None:
    assert store_answer.read(ORTHANC_LIKE, JSON).instances
    assert store_answer.read(json.dumps(ANSWER).encode(), "text/xml").instances


def test_named_twice_counts_as_failed() -> None:
    both = {
        "00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.1"]}}]},
        "00081198": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.1"]}}]},
    }
    read = store_answer.read(json.dumps(both).encode(), JSON)
    assert read.instances == {"1.1": Said(stored=False, reason=None)}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"stored",
        b"12",
        b'"text"',
        b"[1]",
        b"{",
        b"[" * 100_000,
        b"<html></html>",
        b"<NativeDicomModel>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><NativeDicomModel/>',
        b"<NativeDicomModel>" + b"<a>" * 1000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        store_answer.read(body, "")


@pytest.mark.parametrize("value", ["x", -1, 70000, True, None, [], {}, 1.5])
def test_a_reason_that_is_no_status_is_none(value: object) -> None:
    item = {"00081155": {"Value": ["1.1"]}, "00081197": {"Value": [value]}}
    body = json.dumps({"00081198": {"Value": [item]}}).encode()
    assert store_answer.read(body, JSON).instances == {"1.1": Said(stored=False, reason=None)}


_leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
_json = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["00081198", "00081199", "0008119A", "00081155", "00081197", "Value", "vr"]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(_json)
def test_any_json_is_read_or_refused(content: object) -> None:
    try:
        read = store_answer.read(json.dumps(content).encode(), JSON)
    except UnreadableAnswer:
        return
    assert all(isinstance(uid, str) and uid for uid in read.instances)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        store_answer.read(b"<NativeDicomModel>" + body, XML)
    except UnreadableAnswer:
        return
