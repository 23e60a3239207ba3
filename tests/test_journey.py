"""The journey of a stranger: start the product, send a real set, find it at both destinations.

Real objects are those of `ROUTER_TEST_DATA` when they are there and pydicom's own otherwise. The
data sets at the far ends are compared by hash with what was sent.
"""

import hashlib
import re
import shutil
import subprocess
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.errors import InvalidDicomError

from tests.corpus import real_data_folder
from tests.product import AE_TITLE, HOST, Product
from tests.proof.delivered import by_hash, dicom_destination, folder_destination, to_every
from tests.proof.objects import new_uid, study_of
from tests.senders import RawObject, Sent, read_raw, send_raw
from tests.sinks import Script, Sink

DCMSEND, ECHOSCU = "/usr/bin/dcmsend", "/usr/bin/echoscu"
# Not whole, or under a SOP Instance UID that is none: refused, with a reason.
DAMAGED = {"emri_small_jpeg_2k_lossless_too_short.dcm", "bad_sequence.dcm"}
SHIPPED = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "JPEG2000.dcm",
    "JPEG-lossy.dcm",
    "image_dfl.dcm",
    "rtplan.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
)
LAYOUT = "{StudyInstanceUID}/{SOPInstanceUID}.dcm"
pytestmark = [pytest.mark.database, pytest.mark.timeout(240)]


def real_set() -> list[Path]:
    """The real set where it is, else pydicom's."""
    found = sorted(real_data_folder().glob("*.dcm"))
    return found or [Path(str(get_testdata_file(name, download=False))) for name in SHIPPED]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with Product(tmp_path_factory.mktemp("journey")) as product:
        yield product


def test_the_product_says_where_it_is_and_answers(running: Product) -> None:
    said = "\n".join(running.lines)
    assert f"http://127.0.0.1:{running.http_port}/" in said
    assert "/dicom-web" in said
    assert f"{AE_TITLE}@{HOST}:{running.port}" in said
    assert "login admin" in said
    assert [line for line in running.lines if "ready" in line] == ["ready"]
    assert running.lines[-1] == "ready"
    echo = [ECHOSCU, "-aec", AE_TITLE, HOST, str(running.port)]
    assert subprocess.run(echo, check=False, timeout=20).returncode == 0
    assert running.get("/healthz")
    assert running.get("/readyz")


def test_a_real_set_reaches_both_destinations(running: Product, tmp_path: Path) -> None:
    objects = [read_raw(path) for path in real_set()]
    with Sink(Script(ae_title="JOURNEY")) as sink:
        folder = tmp_path / "out"
        disk = {**folder_destination("disk", folder), "layout": LAYOUT}
        config = to_every(dicom_destination("pacs", sink), disk)
        running.apply(config)
        before = running.counts()

        sent = send_raw(HOST, running.port, objects)
        assert_answers(sent)
        whole = [one.item for one in sent if one.status == 0]
        first, others = by_uid(whole)
        running.wait_idle()
        arrived = hashed(first)
        assert by_hash(folder) == arrived
        assert Counter(one.sha256 for one in sink.objects) == arrived
        after = running.counts()
        assert after["quarantined"] - before["quarantined"] == len(others)
        assert after["current"] - before["current"] == len(first)
        assert_explained(running, first)

        unique = [under_a_new_uid(one) for one in whole]
        assert [one for one in send_raw(HOST, running.port, unique) if one.status != 0] == []
        running.wait_idle()
        arrived += hashed(unique)
        assert by_hash(folder) == arrived
        assert Counter(one.sha256 for one in sink.objects) == arrived

        originals = tmp_path / "originals"
        originals.mkdir()
        for path in real_set():
            shutil.copy(path, originals)
        dcmsend(running, originals)
        running.wait_idle()
        assert by_hash(folder) == arrived, "nothing known was sent again"

        copies = tmp_path / "copies"
        taken = dcmsend(running, rewritten(real_set(), copies))
        running.wait_idle()
        assert taken > 0
        assert by_hash(folder).total() == arrived.total() + taken
        assert by_hash(folder) == Counter(one.sha256 for one in sink.objects)
    running.verify("--deep")


def test_what_no_rule_takes_is_explained(running: Product, tmp_path: Path) -> None:
    config = to_every(folder_destination("disk", tmp_path / "out"))
    config["rules"][0]["when"] = {"field": "Modality", "op": "equals", "value": "XX"}
    running.apply(config)
    (one,) = study_of(1)
    assert send_raw(HOST, running.port, [one])[0].status == 0
    running.wait_idle()
    said = running.command("routing_report", one.sop_instance_uid)
    assert "Modality" in said
    assert "XX" in said
    assert "disk: not sent" in said
    assert list((tmp_path / "out").rglob("*.dcm")) == []
    running.verify()


def test_an_unknown_study_is_no_report(running: Product) -> None:
    assert running.run("routing_report", "1.2.3.4.5.6.7.8.9").returncode == 1


def assert_answers(sent: Sequence[Sent]) -> None:
    """What has a UID and is whole was taken; the rest was refused, each with a reason."""
    for one in sent:
        assert one.status is not None, one.error
        assert one.item.path is not None
        fit = one.item.sop_instance_uid and one.item.path.name not in DAMAGED
        assert (one.status == 0) == bool(fit), f"{one.item.path.name}: {one.status:04X}"
        assert fit or one.comment, f"{one.item.path.name} was refused without a reason"


def by_uid(objects: Sequence[RawObject]) -> tuple[list[RawObject], list[RawObject]]:
    """Of each UID the first, and what came later under it with other bytes."""
    first: dict[str, RawObject] = {}
    others: list[RawObject] = []
    for one in objects:
        known = first.setdefault(one.sop_instance_uid, one)
        if (known.data, known.transfer_syntax) != (one.data, one.transfer_syntax):
            others.append(one)
    return list(first.values()), others


def hashed(objects: Sequence[RawObject]) -> Counter[str]:
    return Counter(hashlib.sha256(one.data).hexdigest() for one in objects)


def under_a_new_uid(one: RawObject) -> RawObject:
    """The same bytes but for the SOP Instance UID, which keeps its length."""
    old = one.sop_instance_uid
    digits = new_uid().removeprefix("2.25.") * 2
    new = (old[: len(old) // 2].rstrip(".") + "." + digits)[: len(old)].replace("..", ".1")
    if one.transfer_syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return deflated_under(one, new)
    where = one.data.find(old.encode())
    assert where > 0, one.path
    data = one.data[:where] + new.encode() + one.data[where + len(old) :]
    return replace(one, data=data, sop_instance_uid=new)


def deflated_under(one: RawObject, uid: str) -> RawObject:
    plain = zlib.decompress(one.data, -zlib.MAX_WBITS)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = packer.compress(plain.replace(one.sop_instance_uid.encode(), uid.encode(), 1))
    data += packer.flush()
    return replace(one, data=data + b"\0" * (len(data) % 2), sop_instance_uid=uid)


def assert_explained(running: Product, objects: Sequence[RawObject]) -> None:
    """Every study has a report that names the reason and both destinations."""
    studies: dict[str, str] = {}
    for one in objects:
        assert one.path is not None
        studies.setdefault(study_uid(one.path) or one.sop_instance_uid, one.sop_instance_uid)
    for uid in list(studies)[:6]:
        said = running.command("routing_report", uid)
        assert "to pacs because of rule every" in said
        assert "to disk because of rule every" in said


def study_uid(path: Path) -> str:
    with warnings.catch_warnings(action="ignore"):
        ds = pydicom.dcmread(path, force=True, specific_tags=["StudyInstanceUID"])
        return str(ds.get("StudyInstanceUID") or "")


def rewritten(paths: Sequence[Path], folder: Path) -> Path:
    """A copy of the set, each under a SOP Instance UID of its own."""
    folder.mkdir()
    for path in paths:
        with warnings.catch_warnings(action="ignore"):
            try:
                ds = pydicom.dcmread(path)
            except InvalidDicomError:
                continue
            if not ds.get("SOPInstanceUID") or path.name in DAMAGED:
                continue
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
            ds.save_as(folder / path.name)
    return folder


def dcmsend(running: Product, folder: Path) -> int:
    """Send a folder with DCMTK; return how many objects it saw acknowledged."""
    report = running.folder / "dcmsend.txt"
    command = [DCMSEND, "-nh", "+sd", "+r", "-aec", AE_TITLE, "+crf", str(report)]
    subprocess.run(
        [*command, HOST, str(running.port), str(folder)],
        check=False,
        capture_output=True,
        timeout=120,
    )
    found = re.search(r"with status SUCCESS\s*:\s*(\d+)", report.read_text())
    assert found, report.read_text()
    return int(found[1])
