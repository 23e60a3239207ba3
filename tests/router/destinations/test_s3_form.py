"""The settings of a bucket: what a configuration file may say, and what comes out again."""

import io
import json
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command

from router.destinations import KINDS

S3 = {"bucket": "images", "access_key_env": "S3_KEY", "secret_key_env": "S3_SECRET"}
FULL = S3 | {
    "endpoint": "https://127.0.0.1:9000",
    "region": "eu-central-1",
    "prefix": "in/ct/",
    "layout": "{StudyDate}/{SOPInstanceUID}.dcm",
    "addressing": "path",
    "encryption": "aws:kms",
    "kms_key": "alias/images",
    "storage_class": "STANDARD_IA",
    "tags": {"kind": "image", "site": "north"},
    "checksum": "md5",
    "overwrite_guard": "head",
    "part_size": 64,
    "ca_file": "/etc/ssl/own.pem",
    "connect_timeout": "5s",
    "response_timeout": "2m",
}


@pytest.mark.parametrize("given", [S3, FULL])
def test_exports_what_was_given(given: dict[str, object]) -> None:
    form = KINDS["s3"].form(given)
    assert form.is_valid(), form.errors
    assert json.loads(json.dumps(form.cleaned_data)) == form.cleaned_data
    assert form.export() == given
    again = KINDS["s3"].form(form.cleaned_data)
    assert again.is_valid()
    assert again.export() == given


@pytest.mark.parametrize(
    ("key", "given", "canonical"),
    [
        ("endpoint", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("prefix", "in", "in/"),
        ("tags", "site=north, kind=image", {"kind": "image", "site": "north"}),
        ("encryption", "", "none"),
        ("region", "", "us-east-1"),
    ],
)
def test_is_canonical(key: str, given: object, canonical: object) -> None:
    form = KINDS["s3"].form(S3 | {key: given})
    assert form.is_valid(), form.errors
    assert form.cleaned_data[key] == canonical


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", "127.0.0.1:9000"),
        ("endpoint", "ftp://127.0.0.1"),
        ("endpoint", "http://user:password@127.0.0.1"),
        ("endpoint", "http://169.254.169.254"),
        ("endpoint", "http://127.0.0.1/path"),
        ("endpoint", "http://127.0.0.1/?x=1"),
        ("bucket", ""),
        ("bucket", "a"),
        ("bucket", "a/b"),
        ("bucket", "arn:aws:s3:::b"),
        ("region", "Frankfurt"),
        ("prefix", "/in"),
        ("prefix", "in//ct"),
        ("prefix", "../in"),
        ("prefix", "{StudyDate}"),
        ("layout", "../{SOPInstanceUID}"),
        ("layout", "{NoSuchKeyword}.dcm"),
        ("access_key_env", ""),
        ("secret_key_env", "not a name"),
        ("secret_key_file", "/run/secrets/s3"),
        ("addressing", "other"),
        ("encryption", "aes256"),
        ("kms_key", "alias/images"),
        ("storage_class", "standard ia"),
        ("tags", ["a"]),
        ("tags", {"a": 7}),
        ("tags", {"": "b"}),
        ("tags", {"a": "b&c"}),
        ("tags", {str(number): "x" for number in range(11)}),
        ("checksum", "crc32"),
        ("overwrite_guard", True),
        ("part_size", 4),
        ("part_size", 513),
        ("ca_file", "relative.pem"),
        ("connect_timeout", "0s"),
        ("response_timeout", 60),
    ],
)
def test_refuses(key: str, value: object) -> None:
    form = KINDS["s3"].form(S3 | {key: value})
    assert list(form.errors) == [key]


def test_a_changed_store_holds_open_items() -> None:
    assert set(KINDS["s3"].endpoint_fields) == {"endpoint", "region", "bucket", "prefix"}


@pytest.mark.django_db
def test_what_is_exported_applies_without_a_change(tmp_path: Path) -> None:
    file = tmp_path / "now.yaml"
    destination = {"name": "cloud", "kind": "s3", **FULL}
    file.write_text(yaml.safe_dump({"version": 1, "destinations": [destination]}))
    call_command("apply_config", str(file), stdout=io.StringIO())
    call_command("export_config", str(file))
    assert yaml.safe_load(file.read_text())["destinations"] == [destination]
    out = io.StringIO()
    call_command("apply_config", str(file), stdout=out)
    assert out.getvalue() == "no change\n"
