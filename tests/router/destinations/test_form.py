"""The settings forms: what a configuration file may say, and what comes out again."""

import json

import pytest

from router.destinations import KINDS
from router.destinations.fields import duration_text, seconds

DICOM = {"host": "127.0.0.1", "port": 4242, "ae_title": "ORTHANC"}
FOLDER = {"path": "/srv/out"}


@pytest.mark.parametrize(("kind", "given"), [("dicom", DICOM), ("folder", FOLDER)])
def test_fills_defaults_and_exports_what_was_given(kind: str, given: dict[str, object]) -> None:
    form = KINDS[kind].form(given)
    assert form.is_valid(), form.errors
    assert form.cleaned_data["associations"] == 2
    assert form.cleaned_data["retry"] == ["30s", "1m", "5m", "15m", "30m"]
    assert json.loads(json.dumps(form.cleaned_data)) == form.cleaned_data
    assert form.export() == given


@pytest.mark.parametrize(("kind", "given"), [("dicom", DICOM), ("folder", FOLDER)])
def test_is_canonical(kind: str, given: dict[str, object]) -> None:
    first = KINDS[kind].form(given | {"retry": ["60s", "120s"], "outcomes": {"b007": "retry"}})
    assert first.is_valid(), first.errors
    assert first.cleaned_data["retry"] == ["1m", "2m"]
    assert first.cleaned_data["outcomes"] == {"B007": "retry"}
    again = KINDS[kind].form(first.export())
    assert again.is_valid()
    assert again.cleaned_data == first.cleaned_data
    stored = KINDS[kind].form(first.cleaned_data)
    assert stored.is_valid()
    assert stored.export() == first.export()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_complete(kind: str) -> None:
    assert KINDS[kind].name == kind
    assert set(KINDS[kind].endpoint_fields) <= set(KINDS[kind].form.base_fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", ""),
        ("host", "a b"),
        ("host", ["a"]),
        ("host", "http://a"),
        ("port", 0),
        ("port", 70000),
        ("port", True),
        ("port", "x"),
        ("ae_title", "SEVENTEEN_LETTERS"),
        ("ae_title", "A\\B"),
        ("ae_title", "ÄÖ"),
        ("calling_ae", "SEVENTEEN_LETTERS"),
        ("associations", 0),
        ("associations", 17),
        ("max_pdu", 100),
        ("connect_timeout", "10"),
        ("connect_timeout", 10),
        ("connect_timeout", "0s"),
        ("response_timeout", "2h"),
        ("retry", []),
        ("retry", ["soon"]),
        ("retry", 30),
        ("outcomes", ["B007"]),
        ("outcomes", {"B007": "unknown"}),
        ("outcomes", {"B007": ["retry"]}),
        ("outcomes", {82: "retry"}),
        ("outcomes", {"xxxx": "delivered"}),
        ("outcomes", {"B0": "retry"}),
        ("transfer_syntax", "compressed"),
        ("transfer_syntax", []),
        ("transfer_syntax", ["JPEG2000Lossless"]),
        ("transfer_syntax", ["ExplicitVRLittleEndian", "1.2.840.10008.1.2.1"]),
        ("transfer_syntax", ["ExplicitVRLittleEndian", "CTImageStorage"]),
        ("transfer_syntax", ["ExplicitVRLittleEndian", 1.2]),
        ("sop_classes", ["CTImageStorage"]),
        ("sop_classes", {"allow": []}),
        ("sop_classes", {"allow": ["CTImageStorage"], "deny": ["MRImageStorage"]}),
        ("sop_classes", {"only": ["CTImageStorage"]}),
        ("sop_classes", {"deny": ["CT"]}),
        ("tls", "maybe"),
        ("tls", 1),
        ("tls_ca", "ca.pem"),
        ("tls_ca", "/etc/ca.pem"),
        ("tls_pin", "00:11"),
        ("tls_verify", False),
    ],
)
def test_dicom_refuses(key: str, value: object) -> None:
    form = KINDS["dicom"].form(DICOM | {key: value})
    assert list(form.errors) == [key]


TLS = {"tls": True, "tls_ca": "/etc/ca.pem"}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (TLS | {"tls_key_file": "/etc/key.pem"}, ["tls_key_file"]),
        (TLS | {"tls_verify": False}, ["tls_ca"]),
        (
            TLS
            | {"tls_certificate": "/c.pem", "tls_key_env": "PACS_KEY", "tls_key_file": "/k.pem"},
            ["tls_key_file"],
        ),
        ({"tls_pin": "ab" * 32, "tls_server_name": "pacs"}, ["tls_pin", "tls_server_name"]),
        (TLS | {"tls_certificate": "key.pem"}, ["tls_certificate"]),
    ],
)
def test_dicom_refuses_tls_that_has_no_effect(given: dict[str, object], wrong: list[str]) -> None:
    form = KINDS["dicom"].form(DICOM | given)
    assert sorted(form.errors) == wrong


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ({"transfer_syntax": "uncompressed"}, {"transfer_syntax": "uncompressed"}),
        (
            {"transfer_syntax": ["JPEG2000Lossless", "ExplicitVRLittleEndian"]},
            {"transfer_syntax": ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1"]},
        ),
        (
            {"transfer_syntax": "JPEG2000Lossless, 1.2.840.10008.1.2"},
            {"transfer_syntax": ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2"]},
        ),
        (
            {"sop_classes": {"deny": ["RawDataStorage", "1.2.3.4"]}},
            {"sop_classes": {"deny": ["1.2.3.4", "1.2.840.10008.5.1.4.1.1.66"]}},
        ),
        (
            {"sop_classes": "allow: CTImageStorage, 1.2.3.4"},
            {"sop_classes": {"allow": ["1.2.3.4", "1.2.840.10008.5.1.4.1.1.2"]}},
        ),
        (TLS | {"tls_pin": "AB:" * 31 + "AB"}, TLS | {"tls_pin": "ab" * 32}),
        ({"tls": "true", "tls_verify": "false"}, {"tls": True, "tls_verify": False}),
    ],
)
def test_dicom_is_canonical_from_file_and_page(
    given: dict[str, object], canonical: dict[str, object]
) -> None:
    form = KINDS["dicom"].form(DICOM | given)
    assert form.is_valid(), form.errors
    assert form.export() == DICOM | canonical
    again = KINDS["dicom"].form(form.export())
    assert again.is_valid()
    assert again.cleaned_data == form.cleaned_data
    assert json.loads(json.dumps(form.cleaned_data)) == form.cleaned_data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "relative/path"),
        ("path", "/"),
        ("path", "/srv/../etc"),
        ("path", None),
        ("layout", "../{SOPInstanceUID}"),
        ("layout", "{NoSuchKeyword}.dcm"),
        ("layout", "/abs/{SOPInstanceUID}"),
        ("mode", 416),
        ("mode", "0999"),
        ("mode", "rw"),
    ],
)
def test_folder_refuses(key: str, value: object) -> None:
    form = KINDS["folder"].form(FOLDER | {key: value})
    assert list(form.errors) == [key]


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("90s", 90)]
)
def test_durations_go_both_ways(text: str, value: int) -> None:
    assert (seconds(text), duration_text(value)) == (value, text)
