"""Orthanc at the other end: its REST API confirms what arrived, and what it sends is ours then."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orthanc import Orthanc
from tests.product import HOST, Product, wait_until
from tests.proof.delivered import folder_destination, in_folder, to_every
from tests.proof.objects import hashes, study_of
from tests.senders import RawObject, send_raw

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def orthanc(product: Product, tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc", router_port=product.port) as running:
        yield running


def test_orthanc_confirms_what_arrived(product: Product, orthanc: Orthanc) -> None:
    pacs = {"name": "orthanc", "kind": "dicom", "host": HOST, "port": orthanc.port}
    product.apply(to_every({**pacs, "ae_title": "ORTHANC", "associations": 2}))
    study = study_of(20)
    assert {one.status for one in send_raw(HOST, product.port, study)} == {0}
    wait_until(lambda: len(orthanc.get("/instances")) == len(study), seconds=30, what="the study")
    product.wait_idle()
    assert orthanc.hashes() == hashes(study)
    (one,) = orthanc.get("/studies?expand")
    (report,) = product.report(one["MainDicomTags"]["StudyInstanceUID"])
    assert report["sent"][0]["states"] == {"Delivered": len(study)}
    product.verify()


def test_what_orthanc_sends_is_ours(product: Product, orthanc: Orthanc, tmp_path: Path) -> None:
    product.apply(to_every(folder_destination("disk", tmp_path / "out")))
    study = study_of(5)
    for one in study:
        orthanc.ask("/instances", part_10(one))
    (uid,) = orthanc.get("/studies")
    answer = json.loads(orthanc.ask("/modalities/router/store", uid.encode()))
    assert answer["FailedInstancesCount"] == 0
    assert answer["InstancesCount"] == len(study)
    product.wait_idle()
    assert in_folder(tmp_path / "out") == orthanc.hashes()
    (known,) = orthanc.get("/studies?expand")
    (report,) = product.report(known["MainDicomTags"]["StudyInstanceUID"])
    assert report["instances"] == len(study)
    assert [part["calling_ae"] for part in report["received"]] == ["ORTHANC"]


def part_10(one: RawObject) -> bytes:
    """A Part 10 file (PS3.10 7.1) of an object, written out by hand."""
    pairs = (
        (0x02, one.sop_class_uid),
        (0x03, one.sop_instance_uid),
        (0x10, one.transfer_syntax),
        (0x12, "1.2.3.4"),
    )
    meta = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\1" + b"".join(_uid(*pair) for pair in pairs)
    length = b"\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little")
    return bytes(128) + b"DICM" + length + meta + one.data


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    head = b"\x02\0" + element.to_bytes(2, "little") + b"UI"
    return head + len(value).to_bytes(2, "little") + value
