"""A storage SCP that is not the limit: it reads, counts and forgets, one process an association.

A program: listens on a free port of the loopback, prints it, and keeps its counts in a small
file that others map, so that reading them costs it nothing. `Sink` starts and reads it.
"""

import contextlib
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bench import processes

SLOTS = 512
SLOT = struct.Struct("<QQdddd")  # objects, bytes, connected, first, last byte, last answer
BUFFER_BYTES = 1 << 20
PREFERRED = b"1.2.840.10008.1.2.1"
P_DATA, ASSOCIATE_RQ, RELEASE_RQ = 4, 1, 5


class Sink:
    """One such process, seen from outside: `with Sink(folder) as sink: ... sink.count()`."""

    def __init__(self, folder: Path, *, most_pdu: int = 131072, name: str = "sink") -> None:
        self.path = folder / f"{name}.counts"
        self.path.write_bytes(bytes(SLOTS * SLOT.size))
        command = [sys.executable, "-m", "bench.sink", str(self.path), str(most_pdu)]
        self.child: subprocess.Popen[bytes] = processes.start(command, piped=True)
        self.port = int(processes.read_line(self.child, 30.0))
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        processes.end(self.child)
        self._map.close()

    def clear(self) -> None:
        """Forget what was counted; only between measurements."""
        self._map[:] = bytes(SLOTS * SLOT.size)

    def count(self) -> int:
        """How many objects were answered."""
        return sum(row[0] for row in self._rows())

    def connected(self) -> float:
        """When the first association was opened that brought an object."""
        return min(row[2] for row in self._rows() if row[0])

    def first(self) -> float:
        """When the first byte of an object arrived."""
        return min(row[3] for row in self._rows() if row[0])

    def last_byte(self) -> float:
        """When the last byte of the last object arrived."""
        return max(row[4] for row in self._rows() if row[0])

    def last_answer(self) -> float:
        """When the last object was answered."""
        return max(row[5] for row in self._rows() if row[0])

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until `count` objects were answered."""
        processes.wait_until(lambda: self.count() >= count, seconds, f"{count} objects at a sink")

    def _rows(self) -> Iterator[tuple[int, int, float, float, float, float]]:
        for number in range(SLOTS):
            yield SLOT.unpack_from(self._map, number * SLOT.size)


# --- the program itself ---------------------------------------------------------------------------
class Service:
    """One association as acceptor."""

    def __init__(self, sock: socket.socket, counts: memoryview, most_pdu: int) -> None:
        self._sock, self._counts, self._most_pdu = sock, counts, most_pdu
        self._buffer = bytearray(BUFFER_BYTES)
        self._have = self._at = 0
        self._pdu_left = self._skip = 0
        self._command, self._control, self._context = b"", 0, 0
        self._begun, self._size = 0.0, 0
        self._connected = time.monotonic()
        self._is_open = True

    def run(self) -> None:
        """Serve until the far end is done."""
        view = memoryview(self._buffer)
        while self._is_open:
            got = self._sock.recv_into(view[self._have :])
            if not got:
                return
            self._have += got
            while self._is_open and self._step():
                pass
            rest = self._have - self._at
            self._buffer[:rest] = self._buffer[self._at : self._have]
            self._have, self._at = rest, 0

    def _step(self) -> bool:
        """Take one piece from the buffer; False when it is not there whole."""
        if self._skip:
            return self._skip_data()
        if self._pdu_left:
            return self._begin_pdv()
        return self._begin_pdu()

    def _skip_data(self) -> bool:
        taken = min(self._skip, self._have - self._at)
        self._at += taken
        self._skip -= taken
        if not self._skip and self._control & 2:
            self._answer_store()
        return taken > 0

    def _begin_pdv(self) -> bool:
        if self._have - self._at < 6:
            return False
        length, context, control = struct.unpack_from(">IBB", self._buffer, self._at)
        size = length - 2
        if control & 1 and self._have - self._at < 6 + size:
            return False
        self._at += 6
        self._pdu_left -= 6 + size
        self._context, self._control = context, control
        if control & 1:
            self._take_command(size)
        else:
            self._begun = self._begun or time.monotonic()
            self._skip = size
            self._size += size
            if not size and control & 2:
                self._answer_store()
        return True

    def _begin_pdu(self) -> bool:
        if self._have - self._at < 6:
            return False
        kind, length = struct.unpack_from(">BxI", self._buffer, self._at)
        if kind == P_DATA:
            self._at += 6
            self._pdu_left = length
            return True
        if self._have - self._at < 6 + length:
            return False
        body = bytes(self._buffer[self._at + 6 : self._at + 6 + length])
        self._at += 6 + length
        if kind == ASSOCIATE_RQ:
            self._sock.sendall(_acceptance(body, self._most_pdu))
        else:
            self._is_open = False
            if kind == RELEASE_RQ:
                self._sock.sendall(bytes.fromhex("0600 00000004 00000000"))
        return True

    def _take_command(self, size: int) -> None:
        self._command += bytes(self._buffer[self._at : self._at + size])
        self._at += size
        if not self._control & 2:
            return
        if _element(self._command, 0x0100) == b"\x30\x00":
            self._answer(0x8030)

    def _answer_store(self) -> None:
        arrived = time.monotonic()
        self._answer(0x8001)
        count, size, _, first, _, _ = SLOT.unpack_from(self._counts, 0)
        first = first if count else self._begun
        times = (self._connected, first, arrived, time.monotonic())
        SLOT.pack_into(self._counts, 0, count + 1, size + self._size, *times)
        self._begun, self._size = 0.0, 0

    def _answer(self, field: int) -> None:
        values = {0x0002: _element(self._command, 0x0002), 0x0100: struct.pack("<H", field)}
        values[0x0120] = _element(self._command, 0x0110)
        values |= {0x0800: b"\x01\x01", 0x0900: b"\x00\x00"}
        if field == 0x8001:
            values[0x1000] = _element(self._command, 0x1000)
        body = b"".join(struct.pack("<HHI", 0, t, len(v)) + v for t, v in values.items())
        command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
        head = struct.pack(">BxIIBB", P_DATA, len(command) + 6, len(command) + 2, self._context, 3)
        self._sock.sendall(head + command)
        self._command = b""


def _element(command: bytes, wanted: int) -> bytes:
    at = 0
    while at + 8 <= len(command):
        _, tag, length = struct.unpack_from("<HHI", command, at)
        if tag == wanted:
            return command[at + 8 : at + 8 + length]
        at += 8 + length
    return b""


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length


def _acceptance(body: bytes, most_pdu: int) -> bytes:
    """Accept every context in Explicit VR Little Endian, else in what is proposed first."""
    parts = [_item(0x10, b"1.2.840.10008.3.1.1.1")]
    for kind, value in _items(body[68:]):
        if kind != 0x20:
            continue
        syntaxes = [uid for sub, uid in _items(value[4:]) if sub == 0x40]
        chosen = PREFERRED if PREFERRED in syntaxes else syntaxes[0]
        parts.append(_item(0x21, bytes((value[0], 0, 0, 0)) + _item(0x40, chosen)))
    parts.append(_item(0x50, _item(0x51, struct.pack(">I", most_pdu)) + _item(0x52, b"1.2.3.4")))
    accepted = body[:68] + b"".join(parts)
    return struct.pack(">BxI", 2, len(accepted)) + accepted


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def main() -> None:
    """Be the sink until SIGTERM."""
    path, most_pdu = Path(sys.argv[1]), int(sys.argv[2])
    with path.open("r+b") as file:
        counts = memoryview(mmap.mmap(file.fileno(), 0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    number = 0
    while True:
        sock, _ = listener.accept()
        if not os.fork():
            _serve(sock, counts[number * SLOT.size : (number + 1) * SLOT.size], most_pdu)
        sock.close()
        number = (number + 1) % SLOTS


def _serve(sock: socket.socket, counts: memoryview, most_pdu: int) -> None:
    """Serve one association and exit."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            Service(sock, counts, most_pdu).run()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
