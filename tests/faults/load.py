"""Made objects at a steady rate, for proofs that last: cheap to make, to send and to receive.

Objects are put together from pieces that pydicom wrote once, with UIDs of their own. The far ends
keep names and hashes only. As in `tagged`, the rules read one attribute and the books another.
"""

import hashlib
import random
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pynetdicom import evt

from tests.faults.books import Arrival, Books
from tests.faults.site import TAKEN, FarEnd
from tests.faults.tagged import CREATOR, ELEMENT, GROUP, Tagged
from tests.product import HOST
from tests.proof.objects import CT, EXPLICIT_LITTLE, dataset, raw
from tests.senders import AssociationRejected, ConnectionEnded, RawAssociation, RawObject
from tests.sinks import Script, Sink

SIZES = {2048: 50, 16384: 40, 131072: 9, 524288: 1}  # bytes of pixels, and how often in 100
MOST_IN_ONE = 40  # objects of one association, which is one study
BEHIND = 5.0  # seconds; who is later than this begins a new count
_STUDY, _SERIES, _INSTANCE = (f"2.25.{digit * 39}" for digit in "123")
_TAG = re.compile(rb"\x99\x00.\x10LO..([ -~]+)", re.DOTALL)
_HEAD = 4096  # bytes that hold every element before the pixels


def uid(chance: random.Random) -> str:
    """Return a UID of 44 characters."""
    return f"2.25.{10**38 + chance.randrange(2 * 10**38)}"


@cache
def _template(destinations: frozenset[str], pixels: int) -> tuple[bytes, bytes]:
    ds = dataset(study=_STUDY, series=_SERIES, pixels=pixels, SOPInstanceUID=_INSTANCE)
    ds.StationName = "".join(f"-{name}-" for name in sorted(destinations))[:16]
    block = ds.private_block(GROUP, CREATOR, create=True)
    block.add_new(ELEMENT, "LO", sorted(destinations))
    data = raw(ds).data
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at], data[at:]


def make(names: Sequence[str], *, study: str, series: str, chance: random.Random) -> Tagged:
    """Return one object for some of `names`."""
    chosen = frozenset(name for name in names if chance.random() < 0.8) or frozenset(names[:1])
    pixels = chance.choices(list(SIZES), list(SIZES.values()))[0]
    head, rest = _template(chosen, pixels)
    instance = uid(chance)
    for placeholder, value in ((_STUDY, study), (_SERIES, series), (_INSTANCE, instance)):
        head = head.replace(placeholder.encode(), value.encode())
    data = head + rest
    item = RawObject(data, CT, instance, EXPLICIT_LITTLE)
    return Tagged(item, chosen, hashlib.sha256(data).hexdigest())


def allowed(data: bytes) -> frozenset[str]:
    """Return where an object of `make` may appear, by its private tag; nowhere without one."""
    found = _TAG.search(data[:_HEAD])
    return frozenset(found[1].decode().strip().split("\\")) if found else frozenset()


class Taker(Sink):
    """A sink that keeps what it took as arrivals, and answers as `answers` says before success."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.arrivals: list[Arrival] = []
        self.answers: deque[int] = deque()

    def _on_store(self, event: evt.Event) -> int:
        data = event.request.DataSet.getvalue()
        status = 0
        with self._lock:
            if self.answers:
                status = self.answers.popleft()
            if status in TAKEN:
                uid = str(event.request.AffectedSOPInstanceUID)
                digest = hashlib.sha256(data).hexdigest()
                self.arrivals.append(Arrival(uid, digest, allowed(data)))
        return status


class Far(FarEnd):
    """A far end that remembers little."""

    sink: Taker

    def __init__(self, name: str, sop_classes: Sequence[str] = (CT,)) -> None:
        super().__init__(name)
        script = Script(
            ae_title=name.upper(),
            transfer_syntaxes=[EXPLICIT_LITTLE],
            sop_classes=sop_classes,
            most_pdu=131072,
        )
        self.sink = Taker(script)

    def arrivals(self) -> list[Arrival]:
        """What was taken."""
        return list(self.sink.arrivals)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every data set that was taken by SOP Instance UID."""
        return {one.uid: one.sha256 for one in self.sink.arrivals}


class FolderEnd:
    """A folder destination whose files are read, noted and removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrivals: list[Arrival] = []

    def collect(self) -> None:
        """Take in what lies there for two seconds or more, so that no writer is disturbed."""
        limit = time.time() - 2
        for path in self.path.rglob("*.dcm"):
            if path.stat().st_mtime < limit:
                data = _data_set(path.read_bytes())
                name = path.name.removesuffix(".dcm")
                digest = hashlib.sha256(data).hexdigest()
                self.arrivals.append(Arrival(name, digest, allowed(data)))
                path.unlink()


def _data_set(data: bytes) -> bytes:
    """What follows the file meta of a Part 10 file (PS3.10 7.1)."""
    assert data[128:132] == b"DICM"
    return data[144 + int.from_bytes(data[140:144], "little") :]


class Load:
    """Modalities that send at a steady rate together: `start`, `stop`, `join`."""

    def __init__(
        self,
        books: Books,
        port: int,
        *,
        names: Sequence[str],
        rate: float,
        associations: int,
        seed: int,
    ) -> None:
        self.books, self._port, self._names = books, port, names
        self._pause = associations / rate
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.errors = self.late = 0
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed + number),), daemon=True)
            for number in range(associations)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing new; what is under way is sent until it is acknowledged."""
        self._stopping.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end of all; return whether it came."""
        limit = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, chance: random.Random) -> None:
        pace = _Pace(self._pause, chance.random() * self._pause)
        waiting: deque[Tagged] = deque()
        while waiting or not self._stopping.is_set():
            try:
                self._associate(waiting, pace, chance)
            except (ConnectionEnded, AssociationRejected, OSError):
                self._count_error()
                time.sleep(0.5)
        self.late += pace.late

    def _associate(self, waiting: deque[Tagged], pace: "_Pace", chance: random.Random) -> None:
        """One association: what an earlier one left, then a new study."""
        study, series = uid(chance), uid(chance)
        left = chance.randint(5, MOST_IN_ONE)
        with RawAssociation(HOST, self._port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
            while waiting or (left > 0 and not self._stopping.is_set()):
                if not waiting:
                    left -= 1
                    pace.wait()
                    waiting.append(self._new(study, series, chance))
                self._send(assoc, waiting)

    def _new(self, study: str, series: str, chance: random.Random) -> Tagged:
        one = make(self._names, study=study, series=series, chance=chance)
        light = RawObject(b"", one.item.sop_class_uid, one.uid, one.item.transfer_syntax)
        with self._lock:
            self.books.note([Tagged(light, one.destinations, one.sha256)])
        return one

    def _send(self, assoc: RawAssociation, waiting: deque[Tagged]) -> None:
        status, _ = assoc.store(waiting[0].item)
        if status == 0:
            with self._lock:
                self.books.acknowledged[waiting.popleft().uid] += 1
        else:
            self._count_error()
            time.sleep(0.5)

    def _count_error(self) -> None:
        with self._lock:
            self.errors += 1


class _Pace:
    """One step every `pause` seconds; who falls far behind does not make up for it."""

    def __init__(self, pause: float, first: float) -> None:
        self._pause = pause
        self._next = time.monotonic() + first
        self.late = 0

    def wait(self) -> None:
        """Wait for the next step."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        elif now - self._next > BEHIND:
            self.late += round((now - self._next) / self._pause)
            self._next = now
        self._next += self._pause
