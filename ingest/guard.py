"""Limits on connections, judged before a thread exists.

A table in memory shared by all receiver processes holds one slot a connection, so the limits are
those of the whole receiver. It refuses to know DICOM beyond the one PDU with which a peer over
the limit is turned away.
"""

import contextlib
import fcntl
import ipaddress
import mmap
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator

# A-ASSOCIATE-RJ, PS3.8 9.3.4: rejected-transient, presentation related, local-limit-exceeded
REJECT_LIMIT = bytes.fromhex("0300 00000004 00 02 03 02")
LINGER_SECONDS = 2.0
MOST_LINGERING = 64
# process, address, since when its association rests (0: it does not), whether it is to give way
_SLOT = struct.Struct("=I16sd?")
_REST = struct.Struct("=d?")
_REST_AT = 20
_FREE = (0, b"", 0.0, 0)


class ConnectionTable:
    """Who is connected, over all processes forked after this object was made."""

    def __init__(self, *, most: int, most_per_address: int) -> None:
        self.most = most
        self.most_per_address = most_per_address
        # Anonymous memory that forked processes share; its record lock is held by a process and
        # given up by the kernel when the process dies.
        self._fd = os.memfd_create("connections")
        os.ftruncate(self._fd, most * _SLOT.size)
        self._slots = mmap.mmap(self._fd, most * _SLOT.size)
        self._thread_lock = threading.Lock()

    def close(self) -> None:
        """Give the memory back in this process."""
        self._slots.close()
        os.close(self._fd)

    def acquire(self, host: str) -> int | None:
        """Take a slot for a connection from `host`; None when a limit is reached."""
        packed = _packed(host)
        with self._locked():
            free, of_host = None, 0
            for slot in range(self.most):
                pid, address, _, _ = _SLOT.unpack_from(self._slots, slot * _SLOT.size)
                if not pid:
                    free = slot if free is None else free
                elif address == packed:
                    of_host += 1
            if free is None or of_host >= self.most_per_address:
                return None
            _SLOT.pack_into(self._slots, free * _SLOT.size, os.getpid(), packed, 0.0, 0)
            return free

    def is_full_for(self, host: str) -> bool:
        """Whether an address has as many connections as one may."""
        packed = _packed(host)
        with self._locked():
            mine = sum(
                1 for pid, who, *_ in _SLOT.iter_unpack(self._slots[:]) if pid and who == packed
            )
        return mine >= self.most_per_address

    def release(self, slot: int) -> None:
        with self._locked():
            _SLOT.pack_into(self._slots, slot * _SLOT.size, *_FREE)

    def rest(self, slot: int) -> None:
        """The association of a slot waits for its peer's next message from now on."""
        self._set_rest(slot, time.monotonic())

    def stir(self, slot: int) -> None:
        """It has something to do, so it need not give way any more."""
        self._set_rest(slot, 0.0)

    def is_to_give_way(self, slot: int) -> bool:
        """Whether the association of a slot rests and was asked to make room."""
        since, is_asked = _REST.unpack_from(self._slots, slot * _SLOT.size + _REST_AT)
        return bool(is_asked and since)

    def ask_idlest(self, host: str | None, *, resting: float) -> bool:
        """Ask the association that has rested longest, and at least `resting` seconds, to end.

        Of those from `host` only, or from anywhere. It may be of another process; it ends within
        a tick of its own unless its peer speaks before. False when there is none to ask.
        """
        packed, latest = host and _packed(host), time.monotonic() - resting
        with self._locked():
            rows = enumerate(_SLOT.iter_unpack(self._slots[:]))
            found = [
                (since, slot)
                for slot, (pid, address, since, is_asked) in rows
                if pid and 0 < since <= latest and not is_asked and packed in {None, address}
            ]
            if not found:
                return False
            since, slot = min(found)
            _REST.pack_into(self._slots, slot * _SLOT.size + _REST_AT, since, 1)
            return True

    def _set_rest(self, slot: int, since: float) -> None:
        """Without the lock: a question that goes under was one to an association in motion."""
        _REST.pack_into(self._slots, slot * _SLOT.size + _REST_AT, since, 0)

    def forget(self, pid: int) -> None:
        """Free the slots of a process that died."""
        with self._locked():
            for slot in range(self.most):
                if _SLOT.unpack_from(self._slots, slot * _SLOT.size)[0] == pid:
                    _SLOT.pack_into(self._slots, slot * _SLOT.size, *_FREE)

    def __len__(self) -> int:
        with self._locked():
            return sum(1 for pid, *_ in _SLOT.iter_unpack(self._slots[:]) if pid)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._thread_lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)


class Turnstile:
    """Peers turned away: told so at once, their sockets closed when they have had time to read.

    Closing with unread bytes would reset the connection and could take the answer with it.
    """

    def __init__(self) -> None:
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self._lock = threading.Lock()

    def turn_away(self, sock: socket.socket, last_word: bytes = REJECT_LIMIT) -> None:
        """Say `last_word`, if any, and close the connection now or a little later."""
        try:
            sock.settimeout(0.0)
            if last_word:
                sock.send(last_word)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        with self._lock:
            self._lingering.append((time.monotonic() + LINGER_SECONDS, sock))
            while len(self._lingering) > MOST_LINGERING:
                self._lingering.popleft()[1].close()

    def close_due(self) -> None:
        """Close those who had their time."""
        now = time.monotonic()
        with self._lock:
            while self._lingering and self._lingering[0][0] <= now:
                self._lingering.popleft()[1].close()

    def close(self) -> None:
        """Close everyone."""
        with self._lock:
            while self._lingering:
                self._lingering.popleft()[1].close()


def _packed(host: str) -> bytes:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed
