"""A big multi-frame object passes through without being held in memory by any process.

160 MiB in the normal suite, 1 GiB with `PROOF_BIG=1`; in both no process may grow to 200 MiB, or,
for the smaller object, by more than half of its size.
"""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.product import HOST, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import folder_destination, to_every
from tests.proof.objects import EXPLICIT_LITTLE, dataset
from tests.senders import RawAssociation
from tests.sinks import RawSink, accept_association, receive_pdu, store_response

MIB = 1 << 20
FRAMES = 1024 if os.environ.get("PROOF_BIG") else 160  # of one MiB each
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word SC Image Storage
LIMIT = 200 * MIB
P_DATA, RELEASE_RQ = 4, 5
COMMAND, LAST = 1, 2
COMMAND_FIELD, MESSAGE_ID, ECHO_RQ, STORE_RSP = 0x0100, 0x0110, 0x0030, b"\x01\x80"
pytestmark = pytest.mark.timeout(600)


@dataclass
class Peak:
    """The most resident memory of any process, sampled, and the least where it began."""

    product: Product
    bytes: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self.start = self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, self._look())

    def _look(self) -> int:
        most = 0
        for process in self.product.processes():
            with suppress(psutil.NoSuchProcess):
                most = max(most, process.memory_info().rss)
        return most


class HashingSink:
    """A storage SCP that keeps nothing but the hash of one data set."""

    def __init__(self) -> None:
        self.sha256 = ""
        self.sink = RawSink(self._serve)

    def _serve(self, connection: socket.socket) -> None:
        accept_association(connection, most_pdu=131072)
        digest, command = hashlib.sha256(), b""
        for context, control, data in _fragments(connection):
            if control & COMMAND:
                command = data
                if element(command, COMMAND_FIELD) == ECHO_RQ:
                    connection.sendall(response(context, command))
                continue
            digest.update(data)
            if control & LAST:
                self.sha256 = digest.hexdigest()
                connection.sendall(response(context, command))


def _fragments(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Context id, control header and bytes of every fragment (PS3.8 9.3.5.1) until the release."""
    while True:
        kind, body = receive_pdu(connection)
        if kind == RELEASE_RQ:
            connection.sendall(bytes.fromhex("0600 00000004 00000000"))
        if kind != P_DATA:
            return
        at = 0
        while at < len(body):
            length = int.from_bytes(body[at : at + 4], "big")
            yield body[at + 4], body[at + 5], body[at + 6 : at + 4 + length]
            at += 4 + length


def element(command: bytes, number: int) -> int:
    """The value of a US element of a command set (Implicit VR Little Endian)."""
    head = number.to_bytes(2, "little") + b"\2\0\0\0"
    at = command.index(b"\0\0" + head) + 8
    return int.from_bytes(command[at : at + 2], "little")


def response(context: int, command: bytes) -> bytes:
    """The Success that answers a command."""
    answer = store_response(context, 0, message_id=element(command, MESSAGE_ID))
    kind = (element(command, COMMAND_FIELD) | 0x8000).to_bytes(2, "little")
    return answer.replace(STORE_RSP, kind, 1)


def test_a_big_object_is_received_and_forwarded_in_little_memory(
    product: Product, note: Note, tmp_path: Path
) -> None:
    ds = dataset(pixels=0, Rows=512, Columns=1024, NumberOfFrames=str(FRAMES))
    ds.SOPClassUID = MULTI_FRAME
    hashing = HashingSink()
    with hashing.sink as sink, Peak(product) as peak:
        folder = tmp_path / "out"
        pacs = {"name": "big", "kind": "dicom", **sink.settings}
        product.apply(to_every(pacs, folder_destination("disk", folder)))
        sent = send(product, ds)
        path = folder / f"{ds.SOPInstanceUID}.dcm"
        wait_until(
            lambda: hashing.sha256 and path.exists(), seconds=90, what="the object at both ends"
        )
        product.wait_idle()
    assert hashing.sha256 == sent
    assert hashed(path) == sent
    most, first = peak.bytes // MIB, peak.start // MIB
    note(f"{FRAMES} MiB through: at most {most} MiB in a process, {first} at first")
    assert peak.bytes < LIMIT
    assert peak.bytes - peak.start < FRAMES * MIB // 2
    path.unlink()
    product.verify()


def send(product: Product, ds: Dataset) -> str:
    """Send a data set with `FRAMES` MiB of pixels, made as they go; return its SHA-256."""
    digest = hashlib.sha256()
    contexts = [(MULTI_FRAME, [EXPLICIT_LITTLE])]
    with RawAssociation(HOST, product.port, contexts=contexts, timeout=120) as assoc:
        assoc.begin_store(1, MULTI_FRAME, str(ds.SOPInstanceUID))
        for number in range(-1, FRAMES):
            data = head(ds) if number < 0 else number.to_bytes(4, "little") * (MIB // 4)
            digest.update(data)
            assoc.send_pdata(1, data, is_command=False, is_last=number == FRAMES - 1)
        assert assoc.read_response() == (0, "")
    return digest.hexdigest()


def head(ds: Dataset) -> bytes:
    """The data set up to its pixels, whose length is announced."""
    del ds.PixelData
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue()) + b"\xe0\x7f\x10\0OW\0\0" + (FRAMES * MIB).to_bytes(4, "little")


def hashed(path: Path) -> str:
    """SHA-256 of the data set of a Part 10 file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(140)
        file.seek(144 + int.from_bytes(file.read(4), "little"))
        while data := file.read(MIB):
            digest.update(data)
    return digest.hexdigest()
