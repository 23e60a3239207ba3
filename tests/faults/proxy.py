"""A TCP proxy that spoils what passes: slow, cut, reset, half closed, stuck, dripping, garbled.

It can count PDUs (PS3.8 9.3.1), so that a cut falls on a boundary or a byte beside it.

One thread a direction. `proxy.fault` may be changed at any moment; a connection keeps the fault it
began with, except that `heal()` also ends the connections that a fault holds.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

CHUNK = 16384
GARBAGE = 65536
PDU_HEAD = 6  # type, reserved, length
LINGER_NOW = struct.pack("ii", 1, 0)
End = Literal["close", "reset", "half", "stall", "garbage"]


@dataclass(frozen=True)
class Fault:
    """What happens to a connection. `up` is what the client sends, `down` what it gets.

    `delay` seconds before each piece, `rate` bytes a second, `chunk` the longest piece (1 is a
    drip). After `up_bytes` or `down_bytes` have passed in that direction, `end` comes about:
    `close`, `reset` (linger 0), `half` (this direction only is closed), `stall` (nothing is read
    any more, the connection stays), `garbage` (64 KiB of other bytes instead of the real ones,
    then nothing). `up_pdus` and `down_pdus` are the same counted in PDUs, give or take `shift`
    bytes; a connection then passes PDU by PDU.
    """

    name: str
    delay: float = 0.0
    rate: float = 0.0
    chunk: int = CHUNK
    up_bytes: int | None = None
    down_bytes: int | None = None
    up_pdus: int | None = None
    down_pdus: int | None = None
    shift: int = 0
    end: End = "close"


NONE = Fault("none")


class Connection:
    """One client and its server."""

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        self.client, self.server, self.fault = client, server, fault
        self.ended, self.was_cut = threading.Event(), threading.Event()

    def run(self) -> None:
        """Pass bytes both ways until both have ended."""
        down = threading.Thread(target=self._pass, args=(self.server, self.client, "down"))
        down.daemon = True
        down.start()
        self._pass(self.client, self.server, "up")
        down.join()
        self.end()

    def end(self) -> None:
        """Close both sides."""
        self.ended.set()
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        pdus = self.fault.up_pdus if way == "up" else self.fault.down_pdus
        if pdus is not None:
            self._pass_pdus(source, target, pdus)
            return
        left = self.fault.up_bytes if way == "up" else self.fault.down_bytes
        with suppress(OSError):
            while left is None or left > 0:
                size = self.fault.chunk if left is None else min(left, self.fault.chunk)
                data = source.recv(size)
                if not data:
                    if not self.ended.is_set():
                        target.shutdown(socket.SHUT_WR)
                    return
                left = None if left is None else left - len(data)
                self._wait(len(data))
                target.sendall(data)
            ENDS[self.fault.end](self, target)

    def _pass_pdus(self, source: socket.socket, target: socket.socket, count: int) -> None:
        shift = self.fault.shift
        with suppress(OSError), source.makefile("rb") as stream:
            for number in range(1, count + 1):
                head = stream.read(PDU_HEAD)
                pdu = head + stream.read(int.from_bytes(head[2:], "big"))
                if not pdu:
                    if not self.ended.is_set():
                        target.shutdown(socket.SHUT_WR)
                    return
                is_last = number == count
                target.sendall(pdu[:shift] if is_last and shift < 0 else pdu)
            if shift > 0:
                target.sendall(stream.read(shift))
            self.was_cut.set()
            ENDS[self.fault.end](self, target)

    def _wait(self, size: int) -> None:
        pause = self.fault.delay + (size / self.fault.rate if self.fault.rate else 0.0)
        if pause:
            self.ended.wait(pause)


def _reset(connection: Connection, _target: socket.socket) -> None:
    connection.ended.set()
    for one in (connection.client, connection.server):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOW)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RD)  # wakes the other thread; the reset leaves after that
        one.close()


def _close(connection: Connection, _target: socket.socket) -> None:
    connection.end()


def _half(connection: Connection, target: socket.socket) -> None:
    target.shutdown(socket.SHUT_WR)
    connection.ended.wait()


def _stall(connection: Connection, _target: socket.socket) -> None:
    connection.ended.wait()


def _garbage(connection: Connection, target: socket.socket) -> None:
    for _ in range(GARBAGE // 256):
        target.sendall(bytes((17 * number + 5) % 256 for number in range(256)))
    connection.ended.wait()


ENDS: dict[str, Callable[[Connection, socket.socket], None]] = {
    "close": _close,
    "reset": _reset,
    "half": _half,
    "stall": _stall,
    "garbage": _garbage,
}


class FaultProxy:
    """Listens on a free port and leads to `target`: `with FaultProxy(port) as proxy: ...`."""

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self.fault = NONE
        self.passed = 0
        self._target = (host, port)
        self._listener = socket.create_server((host, 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self._open: list[Connection] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        self._thread.join(5)

    def heal(self) -> None:
        """Take the fault away and end the connections that have one."""
        self.fault = NONE
        for one in [one for one in self._open if one.fault is not NONE]:
            one.end()
        self._open = [one for one in self._open if not one.ended.is_set()]

    def wait_for_connections(self, count: int, seconds: float) -> bool:
        """Wait until `count` connections have come since the start."""
        limit = time.monotonic() + seconds
        while self.passed < count and time.monotonic() < limit:
            time.sleep(0.02)
        return self.passed >= count

    def has_cut(self) -> bool:
        """Whether a connection with the present fault has come to its end by PDUs."""
        return any(one.was_cut.is_set() for one in self._open if one.fault is self.fault)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.passed += 1
                try:
                    server = socket.create_connection(self._target, timeout=5)
                except OSError:
                    client.close()
                    continue
                self._begin(client, server)

    def _begin(self, client: socket.socket, server: socket.socket) -> None:
        for one in (client, server):
            one.settimeout(None)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client, server, self.fault)
        self._open.append(connection)
        threading.Thread(target=connection.run, daemon=True).start()
