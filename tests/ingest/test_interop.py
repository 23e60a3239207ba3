"""Other people's senders, and real objects in every transfer syntax."""

import hashlib
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from tests.ingest.conftest import StartReceiver
from tests.receivers import Running
from tests.senders import RawObject, read_raw, send_raw

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("ROUTER_TEST_DATA", ROOT.parent / "shared" / "data" / "real"))
# Objects of the real set without a lawful SOP Instance UID, or whose data ends early.
UNFIT = {
    "bad_sequence.dcm": 0x0117,  # letters in its SOP Instance UID
    "emri_small_jpeg_2k_lossless_too_short.dcm": 0xC000,  # cut off
}
SHIPPED = [
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
]


def shipped(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str), name
    return Path(path)


def is_storable(item: RawObject) -> bool:
    return bool(item.sop_instance_uid and item.sop_class_uid)


def assert_same_bytes(running: Running, items: list[RawObject]) -> None:
    got = Counter(
        hashlib.sha256(running.data(spooled)).hexdigest() for spooled in running.intake.objects
    )
    assert got == Counter(hashlib.sha256(item.data).hexdigest() for item in items)
    for spooled in running.intake.objects:
        assert spooled.sha256 == hashlib.sha256(running.data(spooled)).hexdigest()


@pytest.mark.parametrize("takes_over", [True, False], ids=["taken_over", "stock"])
def test_shipped_files_arrive_byte_for_byte(
    start_receiver: StartReceiver, takes_over: bool
) -> None:
    running = start_receiver(takes_over=takes_over)
    items = [read_raw(shipped(name)) for name in SHIPPED]
    sent = send_raw(HOST, running.port, items)
    assert [(s.item.path, s.status, s.comment) for s in sent if s.status != 0] == []
    running.intake.wait_closed()
    assert_same_bytes(running, items)
    assert {s.transfer_syntax for s in running.intake.objects} == {i.transfer_syntax for i in items}


def test_the_real_set_arrives_byte_for_byte(running: Running) -> None:
    if not REAL.is_dir():
        assert "CI" not in os.environ, f"{REAL} is missing"
        return
    items = [read_raw(path) for path in sorted(REAL.glob("*.dcm"))]
    sent = send_raw(HOST, running.port, [item for item in items if is_storable(item)])
    running.intake.wait_closed()
    refused = {s.item.path.name: (s.status, s.comment) for s in sent if s.status and s.item.path}
    assert {name: status for name, (status, _) in refused.items()} == UNFIT
    assert all(comment for _, comment in refused.values())
    assert_same_bytes(running, [s.item for s in sent if s.status == 0])
    assert len(running.intake.refusals) == len(UNFIT)


def test_a_file_without_a_uid_is_refused_with_a_reason(running: Running) -> None:
    item = read_raw(shipped("CT_small.dcm"))
    nameless = RawObject(item.data, item.sop_class_uid, "", item.transfer_syntax)
    (sent,) = send_raw(HOST, running.port, [nameless])
    assert (sent.status, sent.comment) == (0x0117, "Affected SOP Instance UID is empty")


@pytest.mark.parametrize("takes_over", [True, False], ids=["taken_over", "stock"])
def test_pynetdicom_sends(start_receiver: StartReceiver, takes_over: bool) -> None:
    running = start_receiver(takes_over=takes_over)
    ds = dcmread(shipped("CT_small.dcm"))
    ae = AE("PYNETDICOM")
    ae.add_requested_context(Verification)
    ae.add_requested_context(CTImageStorage, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate(HOST, running.port, ae_title="DICOMROUTER")
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0
    assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    running.intake.wait_closed()
    assert running.intake.closed[0][1] == "released"
    (spooled,) = running.intake.objects
    assert dcmread(spooled.path).PixelData == ds.PixelData


def dcmtk(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    # The full path: pynetdicom installs scripts with DCMTK's names into the environment.
    return subprocess.run(
        [f"/usr/bin/{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_dcmtk_echoes(running: Running) -> None:
    done = dcmtk("echoscu", "-aec", "DICOMROUTER", HOST, running.port)
    assert done.returncode == 0, done.stderr
    wrong = dcmtk("echoscu", "-aec", "WRONG", HOST, running.port)
    assert wrong.returncode != 0
    assert "Called AE Title Not Recognized" in wrong.stderr


def test_dcmtk_sends_files_as_they_are(running: Running) -> None:
    names = ["CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "image_dfl.dcm"]
    paths = [shipped(name) for name in names]
    done = dcmtk("dcmsend", "-nh", "-aec", "DICOMROUTER", HOST, running.port, *paths)
    assert done.returncode == 0, done.stderr
    running.intake.wait_closed()
    items = [read_raw(path) for path in paths]
    assert {s.transfer_syntax for s in running.intake.objects} == {i.transfer_syntax for i in items}
    for spooled in running.intake.objects:
        original = dcmread(
            next(i.path for i in items if i.sop_instance_uid == spooled.sop_instance_uid)
        )
        assert dcmread(spooled.path).PixelData == original.PixelData


def test_dcmtk_storescu_sends(running: Running) -> None:
    path = shipped("CT_small.dcm")
    done = dcmtk("storescu", "-aec", "DICOMROUTER", HOST, running.port, path)
    assert done.returncode == 0, done.stderr
    running.intake.wait_closed()
    assert [s.sop_instance_uid for s in running.intake.objects] == [dcmread(path).SOPInstanceUID]
