"""Objects that want to be more than they are: inflated, nested, rich, endless (R31, R4)."""

import random
import struct
import zlib
from io import BytesIO
from pathlib import Path

from pydicom.filereader import data_element_generator

from router.dicom.header import Structure
from tests import corpus
from tests.faults.hostile.files import DEFLATED
from tests.ingest.conftest import StartReceiver, running, start_receiver  # noqa: F401
from tests.receivers import CT, EXPLICIT_LITTLE, Running, make_object
from tests.senders import RawObject, read_raw, send_raw

HOST = "127.0.0.1"
MIB = 1 << 20


def bomb(size: int) -> RawObject:
    """An object of some kilobytes that inflates to `size` zeros."""
    named = make_object(pixels=256).data
    head = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, size)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = squeeze.compress(named + head)
    for _ in range(size // MIB):
        data += squeeze.compress(bytes(MIB))
    thing = make_object(pixels=256)
    return RawObject(data + squeeze.flush(), CT, thing.sop_instance_uid, DEFLATED)


def structure(running: Running) -> Structure:  # noqa: F811
    running.intake.wait_closed()
    (spooled,) = running.intake.objects
    assert spooled.structure is not None
    return spooled.structure


def test_a_deflate_bomb_is_acknowledged_and_kept_apart(running: Running) -> None:  # noqa: F811
    before = peak()
    (sent,) = send_raw(HOST, running.port, [bomb(300 * MIB)])
    assert sent.status == 0
    found = structure(running)
    assert found.quarantine is not None
    assert "inflates beyond" in found.quarantine
    assert running.intake.objects[0].examined().quarantine == found.quarantine
    assert peak() - before < 64 * MIB


def test_what_inflates_within_the_limits_is_not(running: Running) -> None:  # noqa: F811
    (sent,) = send_raw(HOST, running.port, [bomb(100 * MIB)])
    assert sent.status == 0
    assert structure(running).quarantine is None


def test_nesting_and_riches_are_stored_and_opaque(running: Running) -> None:  # noqa: F811
    thing = make_object()
    deep = b"".join(
        struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        for _ in range(5000)
    ) + b"".join(
        struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) for _ in range(5000)
    )  # fmt: skip
    rich = struct.pack("<HH2sH", 0x0041, 0x1010, b"LO", 0) * 200_001
    for number, extra in enumerate((deep, rich)):
        named = make_object(number).data[:-2060]
        item = RawObject(
            named[: named.index(b"\x28\x00\x10\x00")] + extra,
            CT,
            make_object(number).sop_instance_uid,
            thing.transfer_syntax,
        )
        assert [sent.status for sent in send_raw(HOST, running.port, [item])] == [0]
    running.intake.wait_closed(2)
    reasons = [spooled.structure and spooled.structure.opaque for spooled in running.intake.objects]
    assert reasons == ["sequences nested deeper than 64", "more than 200000 elements"]


def test_cut_objects_are_refused_wherever_they_are_cut(
    start_receiver: StartReceiver,  # noqa: F811
) -> None:
    """100 objects at 20 places each (R4)."""
    running = start_receiver()  # noqa: F811
    chance = random.Random(4)
    items = map(read_raw, small_files())
    whole = [
        i for i in items if i.transfer_syntax in PLAIN and i.sop_class_uid and i.sop_instance_uid
    ]
    assert len(whole) >= 20
    things = (whole * 5)[:100]
    for start in range(0, len(things), 10):
        cuts = [
            RawObject(
                item.data[:at], item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax
            )
            for item in things[start : start + 10]
            for at in places(item, chance)
        ]
        for sent in send_raw(HOST, running.port, cuts):
            assert sent.status is not None
            assert sent.status >> 12 in {0xA, 0xC}, (
                sent.item.sop_instance_uid,
                len(sent.item.data),
            )
    assert running.intake.objects == []
    assert running.files() == []


PLAIN = {EXPLICIT_LITTLE, "1.2.840.10008.1.2"}


def small_files() -> list[Path]:
    """Whole files of the corpus whose images lie in native pixels at their end."""
    return [path for path in corpus.whole_files() if path.stat().st_size < 300_000]


def places(item: RawObject, chance: random.Random) -> list[int]:
    """Twenty places, none of them exactly between two elements: that leaves a lawful data set."""
    file, borders = BytesIO(item.data), set()
    implicit = item.transfer_syntax != EXPLICIT_LITTLE
    for _ in data_element_generator(file, implicit, is_little_endian=True):
        borders.add(file.tell())
    return [at for at in chance.choices(range(1, len(item.data)), k=30) if at not in borders][:20]


def peak() -> int:
    """Resident memory of this process at its peak."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024
