"""One installation under faults: the product, three far ends of our own, a modality, the books.

Two DICOM sinks stand behind fault proxies, the third far end is a folder. `settle` waits until
everything acknowledged is where it belongs and compares the books; a difference is an error.
"""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import psutil

from tests.faults.books import Account, Arrival, Books, compare
from tests.faults.ledger import Ledger, describe
from tests.faults.postgres import end_all
from tests.faults.proxy import FaultProxy
from tests.faults.tagged import PIXELS, Tagged, rules, study
from tests.product import HOST, Config, Database, Product
from tests.proof.delivered import data_set, folder_destination
from tests.proof.objects import CT, EXPLICIT_LITTLE
from tests.senders import AssociationRejected, ConnectionEnded, RawAssociation
from tests.sinks import Script, Sink

FOLDER = "disk"
NAMES = ("a", "b", FOLDER)
MOST_RECOVERY = 90.0  # seconds until everything acknowledged is delivered again
TAKEN = (0x0000, 0xB000, 0xB006, 0xB007)


class FarEnd:
    """A sink behind a proxy. `statuses` may be filled at any time (see `Script`)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.statuses: dict[int, int] = {}
        self.retry: Sequence[str] = ("1s", "2s")  # none: the product's own table
        self.sink = Sink(Script(ae_title=name.upper(), statuses=self.statuses, delay=0.003))
        self._read: list[Arrival] = []

    def __enter__(self) -> Self:
        self.sink.__enter__()
        self.proxy = FaultProxy(self.sink.port)
        self.proxy.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.__exit__(None, None, None)
        self.sink.__exit__(None, None, None)

    def destination(self) -> Config:
        """What leads here, with pauses that a proof can wait for."""
        table = {"retry": list(self.retry)} if self.retry else {}
        return {
            "name": self.name,
            "kind": "dicom",
            "host": self.proxy.host,
            "port": self.proxy.port,
            "ae_title": self.name.upper(),
            "connect_timeout": "3s",
            "response_timeout": "5s",
            **table,
        }

    def arrivals(self) -> list[Arrival]:
        """What was taken: answered with success or a warning, or with nothing at all."""
        for stored in self.sink.objects[len(self._read) :]:
            assert stored.transfer_syntax == EXPLICIT_LITTLE
            one = Arrival.of(stored.sop_instance_uid, stored.sha256, stored.data)
            self._read.append(one)
        return [
            one
            for number, one in enumerate(self._read, start=1)
            if self.statuses.get(number, 0) in TAKEN
        ]


class Site:
    """`with Site(folder) as site:` starts everything; `site.settle()` compares the books."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str | None = None,
        product_folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        server: str | None = None,
    ) -> None:
        self.folder = folder
        self.points = folder / "points"
        self.books = Books()
        self.refusals: Counter[int] = Counter()  # status of each answer that was no Success
        self.deaths: list[tuple[float, str]] = []  # when, which role: `up` gives up on too many
        self.far = {name: FarEnd(name) for name in NAMES if name != FOLDER}
        self.out = folder / "out"
        self._stack = ExitStack()
        self._database = Database(server) if server is not None else None
        self.database_url = self._database.url if self._database else database_url or ""
        self.product = Product(
            product_folder or folder / "product",
            database_url=self.database_url,
            environment={"ROUTER_CRASH_POINTS": str(self.points), **(environment or {})},
        )
        self.ledger = Ledger(self.database_url, self.product.data_dir)
        self._in_folder: dict[Path, Arrival] = {}
        self.recount_every, self._settled = 1, 0

    def __enter__(self) -> Self:
        self.points.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for far in self.far.values():
                stack.enter_context(far)
            stack.callback(self._tidy)
            self.product.start()
            self.product.apply(self.configuration())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        """Kill every process of the product, also those whose parents were killed before."""
        self.product.kill()
        end_all([one for one in psutil.process_iter() if _data_dir(one) == self.product.data_dir])

    def _tidy(self) -> None:
        self.kill()
        if self._database is not None:
            self._database.drop()

    def configuration(self) -> Config:
        """Three destinations, and a rule for each."""
        destinations = [far.destination() for far in self.far.values()]
        destinations.append({**folder_destination(FOLDER, self.out), "retry": ["1s", "2s"]})
        return {"version": 1, "destinations": destinations, "rules": rules(NAMES)}

    # --- the modality -----------------------------------------------------------------------------
    def make(
        self,
        size: int,
        chance: random.Random,
        *,
        pixels: Sequence[int] = PIXELS,
        everywhere: bool = False,
    ) -> list[Tagged]:
        """Make the objects of one study and enter them in the sender's book; see `study`."""
        objects = study(size, NAMES, chance, pixels=pixels, everywhere=everywhere)
        self.books.note(objects)
        return objects

    def send(
        self,
        objects: Sequence[Tagged],
        *,
        port: int | None = None,
        seconds: float = MOST_RECOVERY,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send until all are acknowledged, over and over as a modality does.

        Raises AssertionError when that does not come about within `seconds` and nothing said stop.
        """
        left, limit = list(objects), time.monotonic() + seconds
        said = ""
        while left and not stop():
            assert time.monotonic() < limit, f"{len(left)} not acknowledged in time; {said}"
            try:
                said = self._send_once(left, port or self.product.port, stop)
            except (ConnectionEnded, AssociationRejected, OSError) as error:
                said = f"{type(error).__name__}: {error}"
            left = [one for one in left if one.uid not in self.books.acknowledged]
            if left and not stop():
                time.sleep(0.2)

    def send_in_background(self, objects: Sequence[Tagged], **how: object) -> "Background":
        """Begin `send` in a thread; `join()` it."""
        return Background(lambda: self.send(objects, **how))  # type: ignore[arg-type]

    def _send_once(self, objects: Sequence[Tagged], port: int, stop: Callable[[], bool]) -> str:
        said = ""
        contexts = [(CT, [EXPLICIT_LITTLE])]
        with RawAssociation(HOST, port, contexts=contexts, timeout=20) as assoc:
            for one in objects:
                if stop():
                    break
                status, comment = assoc.store(one.item)
                if status == 0:
                    self.books.acknowledged[one.uid] += 1
                else:
                    self.refusals[status] += 1
                    said = f"{status:04X} {comment}"
        return said

    # --- crash points -----------------------------------------------------------------------------
    def arm(self, point: str, count: int, *, how: str = "KILL") -> None:
        """Have the process die, or stop (`STOP`), that first reaches a point the `count`th time."""
        (self.points / f"{point}.reached").unlink(missing_ok=True)
        draft = self.points / f".{point}"
        draft.write_text(f"{count} {time.monotonic_ns()} {how}")
        draft.rename(self.points / point)

    def disarm(self, point: str) -> bool:
        """Take an armed point back; return whether it had come to pass."""
        (self.points / point).unlink(missing_ok=True)
        return (self.points / f"{point}.reached").exists()

    # --- the comparison ---------------------------------------------------------------------------
    def arrivals(self) -> dict[str, list[Arrival]]:
        """The books of the far ends."""
        found = {name: far.arrivals() for name, far in self.far.items()}
        found[FOLDER] = [self._file(path) for path in self.out.rglob("*.dcm")]
        return found

    def _file(self, path: Path) -> Arrival:
        if path not in self._in_folder:
            uid = path.name.removesuffix(".dcm")
            data = data_set(path)
            self._in_folder[path] = Arrival.of(uid, hashlib.sha256(data).hexdigest(), data)
        return self._in_folder[path]

    def missing(self) -> set[tuple[str, str]]:
        """Pairs that were acknowledged and have not arrived."""
        there = {
            (stored.sop_instance_uid, name)
            for name, far in self.far.items()
            for stored in far.sink.objects
        }
        there |= {(path.name.removesuffix(".dcm"), FOLDER) for path in self.out.rglob("*.dcm")}
        return self.books.owed() - there

    def is_settled(self) -> bool:
        """Whether everything owed has arrived and the ledger has nothing left to do."""
        try:  # inboxes come and go while one looks: not settled yet
            if any((self.product.data_dir / "spool/inbox").glob("*/*.dcm")):
                return False
            if not self.ledger.may_be_settled(len(self.books.acknowledged)):
                return False
            return not self.missing() and self.ledger.read().is_settled
        except OSError:
            return False

    def wait_settled(self, seconds: float = MOST_RECOVERY) -> None:
        """Wait until settled; say what is missing when that does not come about."""
        limit = time.monotonic() + seconds
        while not self.is_settled():
            if time.monotonic() > limit:
                self._complain(seconds)
            time.sleep(0.1)

    def _complain(self, seconds: float) -> None:
        page = self.ledger.read()
        open_pairs = {pair for pair, state in page.states.items() if state != "delivered"}
        pairs = sorted(self.missing() | open_pairs)
        raise AssertionError(
            f"not settled within {seconds:g} s: {len(pairs)} pairs, {page.undecided} undecided\n"
            f"{describe(pairs, page)}\n{self.product.log()[-3000:]}"
        )

    def settle(self, seconds: float = MOST_RECOVERY, *, deep: bool = False) -> Account:
        """Wait until settled and compare the three books.

        Every `recount_every`th time, and always when `deep`, the product recounts its ledger too.
        """
        self.wait_settled(seconds)
        account = compare(self.books, self.ledger.read(), self.arrivals())
        self._settled += 1
        if deep or self._settled % self.recount_every == 0:
            self.product.verify(*(["--deep"] if deep else []))
        return account


def _data_dir(process: psutil.Process) -> Path | None:
    try:
        return Path(process.environ().get("ROUTER_DATA_DIR", "/"))
    except (psutil.Error, OSError):
        return None


class Background:
    """A piece of work in a thread; what it raises is raised by `join`."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def join(self, seconds: float = MOST_RECOVERY) -> None:
        """Wait for the end. Raises what the work raised."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still at work after {seconds:g} s"
        if self._error is not None:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        with suppress(SystemExit):
            try:
                work()
            except (AssertionError, OSError, ConnectionEnded) as error:
                self._error = error
