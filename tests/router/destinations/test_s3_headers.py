"""What an object is put with, against moto: encryption, storage class, tags, checksums. Swift knows
none of these; moto in turn checks neither signatures nor MD5."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from router.destinations import KINDS
from router.destinations.base import Confirming, Context, Outgoing, Sender
from tests.router.destinations.objects import made

BUCKET = "images"
KEY = "in/x.dcm"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of an empty bucket; Any: boto3 makes the methods when the program runs."""
    monkeypatch.setenv("S3_KEY", "key")
    monkeypatch.setenv("S3_SECRET", "secret")
    resource = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    resource.create_bucket(Bucket=BUCKET).objects.all().delete()
    return resource.meta.client


def sender(endpoint: str, **settings: object) -> Sender:
    form = KINDS["s3"].form(
        {
            "endpoint": endpoint,
            "bucket": BUCKET,
            "prefix": "in",
            "layout": "x.dcm",
            "part_size": 5,
            "access_key_env": "S3_KEY",
            "secret_key_env": "S3_SECRET",
        }
        | settings
    )
    assert form.is_valid(), form.errors
    return KINDS["s3"].sender(form.cleaned_data)


def put(endpoint: str, item: Outgoing, **settings: object) -> None:
    sending = sender(endpoint, **settings)
    [result] = sending.send([item], Context())
    assert result.outcome == "delivered", result.detail
    assert isinstance(sending, Confirming)
    [confirmed] = sending.confirm([item], Context())
    assert confirmed.state == "present", confirmed.detail


SIZES = pytest.mark.parametrize("size", [256, 12 << 20])


@SIZES
@pytest.mark.parametrize(
    ("settings", "header", "value"),
    [
        ({"encryption": "AES256"}, "ServerSideEncryption", "AES256"),
        ({"encryption": "aws:kms"}, "ServerSideEncryption", "aws:kms"),
        ({"encryption": "aws:kms", "kms_key": "alias/images"}, "SSEKMSKeyId", "alias/images"),
        ({"storage_class": "STANDARD_IA"}, "StorageClass", "STANDARD_IA"),
        ({}, "ServerSideEncryption", None),
        ({}, "StorageClass", None),
    ],
)
def test_objects_are_put_with_headers(
    endpoint: str,
    store: Any,
    tmp_path: Path,
    size: int,
    settings: dict[str, object],
    header: str,
    value: str | None,
) -> None:
    put(endpoint, made(tmp_path, PixelData=bytes(size)), **settings)
    assert store.head_object(Bucket=BUCKET, Key=KEY).get(header) == value


@SIZES
def test_objects_are_put_with_tags(endpoint: str, store: Any, tmp_path: Path, size: int) -> None:
    tags = {"site": "north 1", "kind": "image/dicom+x"}
    put(endpoint, made(tmp_path, PixelData=bytes(size)), tags=tags)
    found = store.get_object_tagging(Bucket=BUCKET, Key=KEY)["TagSet"]
    assert {one["Key"]: one["Value"] for one in found} == tags


def test_the_store_keeps_the_sha256_of_the_file(endpoint: str, store: Any, tmp_path: Path) -> None:
    item = made(tmp_path)
    put(endpoint, item)
    with item.open() as file:
        digest = hashlib.sha256(file.read()).digest()
    kept = store.head_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")["ChecksumSHA256"]
    assert base64.b64decode(kept) == digest


def test_a_key_taken_between_look_and_put_is_not_replaced(
    endpoint: str, store: Any, tmp_path: Path
) -> None:
    def meanwhile(count: int) -> None:
        if count:
            store.put_object(Bucket=BUCKET, Key=KEY, Body=b"theirs")

    [result] = sender(endpoint).send([made(tmp_path)], Context(progress=meanwhile))
    assert result.outcome == "warning"
    assert store.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == b"theirs"
    assert store.head_object(Bucket=BUCKET, Key="in/x-2.dcm")["ContentType"] == "application/dicom"


def test_the_test_object_is_put_with_the_same_headers(endpoint: str, store: Any) -> None:
    verification = sender(endpoint, encryption="AES256", storage_class="STANDARD_IA").verify()
    assert verification.ok, verification
    [head] = [step for step in verification.steps if step.name == "head"]
    assert "AES256" in head.detail
    assert "STANDARD_IA" in head.detail
    assert "SHA-256: kept" in head.detail


def test_a_store_that_replaces_objects_is_found_out(endpoint: str, store: Any) -> None:
    assert sender(endpoint, overwrite_guard="head").verify().ok
