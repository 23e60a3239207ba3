"""Faults of what the product stands on: disk, database, clock, power."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg

from tests.faults.books import Account
from tests.faults.postgres import PostgreSQL, end_all
from tests.faults.proxy import Fault
from tests.faults.site import Background, Site
from tests.faults.tagged import Tagged
from tests.faults.volume import PowerVolume, Tmpfs
from tests.faults.wallclock import WallClock
from tests.halves import halves
from tests.product import HOST, wait_until
from tests.proof.objects import CT, EXPLICIT_LITTLE
from tests.senders import RawAssociation

HEALS = 30.0  # seconds after the database is back (R6)
NO_SPACE = ("database or disk is full", "No space left on device")
FILLS = 60.0  # seconds until the full volume shows
RECOVERS = 60.0  # seconds after space is back (R5)
OUT_OF_RESOURCES = 0xA700
REFUSE, SLOW = 16 << 20, 20 << 20  # bytes: the watermarks of a proof
SLOW_LINE = Fault("slow line", rate=20_000.0)


# --- disk -----------------------------------------------------------------------------------------
def status_of(site: Site, one: Tagged) -> int:
    """Send one object; return its status and enter it when it was acknowledged."""
    with RawAssociation(HOST, site.product.port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
        status, _ = assoc.store(one.item)
    if status == 0:
        site.books.acknowledged[one.uid] += 1
    return status


def disk_full(site: Site, volume: Tmpfs, chance: random.Random) -> Account:
    """No space at any write: refused with A700, nothing half kept, well again by itself."""
    site.send(site.make(5, chance))
    ballast = volume.fill()
    refused = _refusals(site, chance)
    ballast.unlink()
    return _recovered(site, volume, chance, refused)


def no_inodes(site: Site, volume: Tmpfs, chance: random.Random) -> Account:
    """Space, but no inode: the same."""
    site.send(site.make(5, chance))
    made = volume.take_inodes()
    refused = _refusals(site, chance)
    for path in made:
        path.unlink()
    return _recovered(site, volume, chance, refused)


def watermark(site: Site, volume: Tmpfs, chance: random.Random) -> Account:
    """Less than the watermark: refused before a byte is written, while delivery goes on."""
    far = site.far["a"]
    far.proxy.fault = SLOW_LINE
    site.send(site.make(10, chance))
    ballast = volume.fill(leave=REFUSE // 2)
    refused = _refusals(site, chance)
    far.proxy.heal()
    site.wait_settled()  # still full
    ballast.unlink()
    return _recovered(site, volume, chance, refused)


def _refusals(site: Site, chance: random.Random) -> int:
    answers = [status_of(site, one) for one in site.make(8, chance)]
    assert set(answers) <= {0, OUT_OF_RESOURCES}, [f"{answer:04X}" for answer in answers]
    assert OUT_OF_RESOURCES in answers, "the full disk refused nothing"
    return answers.count(OUT_OF_RESOURCES)


def _recovered(site: Site, volume: Tmpfs, chance: random.Random, refused: int) -> Account:
    one = site.make(1, chance)[0]
    wait_until(lambda: status_of(site, one) == 0, seconds=RECOVERS, what="Success", every=0.5)
    assert refused
    account = site.settle()
    wait_until(lambda: halves(volume.folder) == [], seconds=10, what="no half object")
    return account


# --- database -------------------------------------------------------------------------------------
def frozen(server: PostgreSQL, seconds: float) -> None:
    """The server stops where it is, and goes on."""
    server.freeze()
    time.sleep(seconds)
    server.resume()


def stopped(server: PostgreSQL, seconds: float) -> None:
    """The server ends in order, and is started again."""
    server.stop()
    time.sleep(seconds)
    server.start()


def killed(server: PostgreSQL, seconds: float) -> None:
    """The server dies, and is started again."""
    server.kill()
    time.sleep(seconds)
    server.start()


def crowded(server: PostgreSQL, seconds: float) -> None:
    """Strangers take every connection that the server has, and the product's own are ended."""
    limit, held = time.monotonic() + seconds, list[psycopg.Connection]()
    refused = 0
    while time.monotonic() < limit:
        try:
            held.append(psycopg.connect(server.url, autocommit=True))
        except psycopg.OperationalError:
            refused += 1
            mine = [one.info.backend_pid for one in held]
            held[0].execute(END_OTHERS, [mine])
            time.sleep(0.05)
    for one in held:
        one.close()
    assert refused, "the server was never full"


END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> ALL(%s)
"""

DATABASE_FAULTS: dict[str, Callable[[PostgreSQL, float], None]] = {
    "frozen": frozen,
    "stopped": stopped,
    "killed": killed,
    "crowded": crowded,
}


def database_away(
    site: Site, server: PostgreSQL, fault: str, seconds: float, chance: random.Random
) -> tuple[Account, float]:
    """While the database is away everything is acknowledged; afterwards everything is delivered."""
    return _without_database(site, lambda: DATABASE_FAULTS[fault](server, seconds), seconds, chance)


def fails_over(
    site: Site, server: PostgreSQL, seconds: float, chance: random.Random
) -> tuple[Account, float]:
    """The server dies under load, and a standby takes its place."""

    def load() -> None:
        site.send(site.make(chance.randint(5, 60), chance))
        time.sleep(chance.uniform(0.0, 0.5))

    server.fail_over(seconds, load)
    began = time.monotonic()
    site.send(site.make(2, chance))
    site.wait_settled(HEALS)
    return site.settle(), time.monotonic() - began


def database_full(
    site: Site, volume: PowerVolume, server: PostgreSQL | None, chance: random.Random
) -> tuple[Account, float]:
    """The database's volume is full: everything is acknowledged; with space again all is well."""
    site.send(site.make(5, chance))
    site.wait_settled()
    ballast = volume.fill()
    try:
        _work_until_noticed(site, server, chance)
    finally:
        ballast.unlink()
    if server is not None and not server.processes():
        server.start()  # without space for its log the server gives up, as it must
    began = time.monotonic()
    site.send(site.make(2, chance))
    site.wait_settled(HEALS)
    return site.settle(deep=True), time.monotonic() - began


def _work_until_noticed(site: Site, server: PostgreSQL | None, chance: random.Random) -> None:
    limit = time.monotonic() + FILLS
    while not any(words in site.product.log() for words in NO_SPACE):
        assert time.monotonic() < limit, "the database never noticed that its volume is full"
        if server is not None and not server.processes():
            break  # it could not write its log
        site.send(site.make(40, chance, pixels=(256,)))
    site.send(site.make(20, chance))


def database_locked(site: Site, seconds: float, chance: random.Random) -> tuple[Account, float]:
    """The same while a foreign session holds the ledger's lock."""

    def hold() -> None:
        with foreign_lock(site):
            time.sleep(seconds)

    return _without_database(site, hold, seconds, chance)


@contextmanager
def foreign_lock(site: Site) -> Iterator[None]:
    """Hold the write lock of SQLite, or the table of items on PostgreSQL."""
    if site.database_url:
        with psycopg.connect(site.database_url) as server:
            server.execute("LOCK TABLE router_jobitem, router_receipt IN ACCESS EXCLUSIVE MODE")
            yield
        return
    path = site.product.data_dir / "router.sqlite3"
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as file:
        file.execute("PRAGMA wal_autocheckpoint=0")
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


def _without_database(
    site: Site, away: Callable[[], None], seconds: float, chance: random.Random
) -> tuple[Account, float]:
    site.send(site.make(10, chance))
    gone = Background(away)
    time.sleep(min(0.5, seconds / 4))
    site.send(site.make(20, chance), seconds=max(20.0, seconds / 2))
    assert gone.is_running, "the modality had to wait for the database"
    gone.join(seconds + 60)
    began = time.monotonic()
    site.send(site.make(2, chance))
    site.wait_settled(HEALS)
    return site.settle(), time.monotonic() - began


# --- clock ----------------------------------------------------------------------------------------
def clock_steps(site: Site, clock: WallClock, seconds: int, chance: random.Random) -> Account:
    """The host's clock jumps by `seconds` while objects come and go."""
    objects = site.make(40, chance)
    sender = site.send_in_background(objects)
    time.sleep(chance.uniform(0.1, 0.5))
    clock.jump(seconds)
    sender.join()
    site.send(site.make(5, chance))
    return site.settle()


# --- power ----------------------------------------------------------------------------------------
def power_cut(
    site: Site, volume: PowerVolume, server: PostgreSQL | None, chance: random.Random
) -> Account:
    """The power goes at a random moment while objects come and go; everything is started again."""
    stopping = threading.Event()
    sender = site.send_in_background(site.make(300, chance), stop=stopping.is_set)
    time.sleep(chance.uniform(0.2, 3.0))
    running = server.processes() if server is not None else []
    volume.cut()
    stopping.set()
    site.kill()
    end_all(running)
    sender.join()
    volume.restart()
    if server is not None:
        server.start()
    site.product.start()
    site.send(site.make(2, chance))
    return site.settle(deep=True)
