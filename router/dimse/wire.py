"""One TCP connection that carries PDUs (PS3.8 9.3), with limits on size and time.

Knows where a PDU begins and ends and nothing of what is in it. Never reads more than it was told to
accept, never waits longer than its `Patience` allows.
"""

import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from router.dimse.errors import (
    Aborted,
    DimseError,
    Lost,
    Malformed,
    Released,
    Stalled,
    Unreachable,
    Untrusted,
)
from router.dimse.pace import Pace, Patience
from router.dimse.secure import Plain, Tls, shake_hands

P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 4, 5, 6, 7
TLS_ALERT = 0x15
HEADER = struct.Struct(">BxI")
RELEASE_RQ_PDU = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
RELEASE_RP_PDU = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
ABORT_PDU = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"
VECTORS = 512
"""Buffers given to one `sendmsg`; the kernel takes 1,024."""

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Pdu:
    """One PDU as received: its type and what follows the six bytes of its header."""

    kind: int
    body: bytes


def _silence(*, reset: bool) -> str:
    return f"the peer {'reset' if reset else 'closed'} the connection"


class Wire:
    """A connection, with or without TLS, that sends vectors and reads whole PDUs.

    `until` is the moment (`time.monotonic`) at which every wait ends, whatever moves.
    """

    def __init__(self, channel: Plain, pace: Pace) -> None:
        self._channel, self.pace, self._taken = channel, pace, bytearray()
        self._sock = channel.socket
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.until = float("inf")

    @classmethod
    def connect(
        cls, host: str, port: int, *, timeout: float, pace: Pace, tls: Tls | None = None
    ) -> "Wire":
        """Connect to the first address of `host` that answers, within TLS when `tls` is given.

        Raises:
            Unreachable: name unknown, refused, no route, or no answer within `timeout` seconds.
            Untrusted, Lost, Stalled, Stopped: the TLS handshake failed.
        """
        sock = cls._connected(host, port, timeout)
        if tls is None:
            return cls(Plain(sock), pace)
        otherwise = f"the TLS handshake was not done within {timeout:g} seconds"
        patience = Patience(timeout, pace, otherwise=otherwise, until=float("inf"))
        return cls(shake_hands(sock, tls, patience=patience), pace)

    @staticmethod
    def _connected(host: str, port: int, timeout: float) -> socket.socket:
        try:
            return socket.create_connection((host, port), timeout)
        except socket.gaierror as error:
            raise Unreachable(f"the host name {host} is not known ({error.strerror})") from error
        except TimeoutError as error:
            raise Unreachable(f"no connection within {timeout:g} seconds") from error
        except ConnectionRefusedError as error:
            raise Unreachable("the connection was refused; nothing listens there") from error
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"no connection could be made ({_reason(error)})") from error

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of `buffers`, in as few system calls as the kernel allows.

        Raises:
            Aborted, Released, Lost: the peer ended the association meanwhile.
            Stalled: no byte was accepted in time. Stopped: asked to stop.
        """
        waiting = [memoryview(buffer) for buffer in buffers if len(buffer)]
        patience = self._patience(
            self.pace.stall, f"the peer accepted no byte for {self.pace.stall:g} seconds"
        )
        at = 0
        while at < len(waiting):
            patience.tick()
            moved = self._push(waiting[at : at + VECTORS])
            if moved:
                self.pace.progress(moved)
                patience.renew()
                at = _advance(waiting, at, moved)
            else:
                self._wait_writable(patience.tick())

    def listen(self) -> None:
        """Hear what the peer said unasked, without waiting.

        Raises:
            Aborted, Released, Lost: the peer ended the association.
        """
        self._heed_farewell()
        self._wait_writable(0)

    def _push(self, buffers: list[memoryview]) -> int:
        try:
            return self._channel.push(buffers)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._last_words(_silence(reset=True)) from error

    def _wait_writable(self, seconds: float) -> None:
        """Wait until bytes are accepted; listen meanwhile, for a peer that gives up says so."""
        heard = select.POLLIN if len(self._taken) < HEADER.size else 0
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT | heard)
        for _fd, event in poll.poll(seconds * 1000):
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._take(4096)
        self._heed_farewell()

    def _heed_farewell(self) -> None:
        if self._taken and self._taken[0] in (RELEASE_RQ, ABORT):
            raise self._last_words(_silence(reset=False))

    def read_pdu(self, *, timeout: float, most: int, otherwise: str) -> Pdu:
        """Return the next PDU.

        Raises:
            Malformed: longer than `most` bytes, or of no known type. Lost: the connection ended.
            Stalled: not there whole within `timeout` seconds. Stopped: asked to stop.
        """
        patience = self._patience(timeout, otherwise)
        self._fill(HEADER.size, patience)
        kind, length = HEADER.unpack_from(self._taken)
        if kind == TLS_ALERT:
            raise Malformed("the peer speaks TLS on this port (tls: true)")
        if not 1 <= kind <= ABORT:
            raise Malformed(f"the peer sent a PDU of the unknown type {kind:#04x}")
        if length > most:
            raise Malformed(f"the peer sent a PDU of {length} bytes where {most} are allowed")
        self._fill(HEADER.size + length, patience)
        body = bytes(self._taken[HEADER.size : HEADER.size + length])
        del self._taken[: HEADER.size + length]
        return Pdu(kind, body)

    def is_spoken_to(self, seconds: float) -> bool:
        """Wait until the peer has said something, for so many seconds; tell whether it has.

        Raises:
            Lost: the connection ended. Stopped: asked to stop.
        """
        patience = self._patience(seconds, "")
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        with suppress(Stalled):
            while not self._taken:
                if self._channel.holds_more() or poll.poll(patience.tick() * 1000):
                    self._take(4096)
            return True
        return False

    def _fill(self, needed: int, patience: Patience) -> None:
        while len(self._taken) < needed:
            seconds = patience.tick()
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if self._channel.holds_more() or poll.poll(seconds * 1000):
                self._take(max(4096, needed - len(self._taken)))

    def _take(self, most: int) -> None:
        # Linux forgets TCP_QUICKACK; without it a peer that writes an answer in two pieces waits
        # for our delayed acknowledgement of the first.
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            got = self._channel.take(most)
        except BlockingIOError:
            return
        except OSError as error:
            raise Lost(_silence(reset=True)) from error
        if not got:
            raise Lost(_silence(reset=False))
        self._taken += got

    def _last_words(self, otherwise: str) -> Aborted | Released | Lost | Untrusted:
        """After the connection broke: what the peer said before, if it said something."""
        try:
            while True:
                pdu = self._next_taken()
                if pdu.kind == ABORT and len(pdu.body) >= 4:
                    return Aborted(pdu.body[2], pdu.body[3])
                if pdu.kind == RELEASE_RQ:
                    return Released()
        except Untrusted as refusal:  # with TLS 1.3 it comes only now
            return refusal
        except DimseError:
            return Lost(otherwise)

    def _next_taken(self) -> Pdu:
        return self.read_pdu(timeout=0.05, most=1 << 16, otherwise="")

    def _patience(self, seconds: float, otherwise: str) -> Patience:
        return Patience(seconds, self.pace, otherwise=otherwise, until=self.until)

    def say(self, pdu: bytes) -> None:
        """Send a short PDU if the connection takes it; used on the way out, so it never raises."""
        with suppress(OSError):
            self._channel.push([memoryview(pdu)])

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _advance(buffers: list[memoryview], at: int, moved: int) -> int:
    """Return the index of the first buffer not wholly sent, cutting off what has left."""
    while at < len(buffers) and moved >= len(buffers[at]):
        moved -= len(buffers[at])
        at += 1
    if moved:
        buffers[at] = buffers[at][moved:]
    return at


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
