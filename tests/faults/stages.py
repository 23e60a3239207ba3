"""The kinds of proof: their cases, what each needs around it, and how one case is run."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from router.crashpoints import POINTS
from tests.faults import (
    alerts,
    crash,
    cuts,
    kills,
    network,
    oracle_run,
    outages,
    soak,
    surroundings,
    syscalls,
)
from tests.faults.books import Account
from tests.faults.hostile import guided, proofs
from tests.faults.postgres import PostgreSQL
from tests.faults.site import Site
from tests.faults.volume import PowerVolume, Tmpfs
from tests.faults.wallclock import WallClock

# The far ends here are not asked for proof; `tests/proof/test_commitment.py` has those points.
CRASHES = tuple(point for point in POINTS if not point.startswith("prove."))
HOUR = 3600
TIMES = {"+1 h": HOUR, "-1 h": -HOUR, "+400 d": 400 * 24 * HOUR}
WITH_DEATH = " and a death"
DISK = {
    "no space": surroundings.disk_full,
    "no inodes": surroundings.no_inodes,
    "watermark": surroundings.watermark,
}
LOCKED, FAILOVER = "locked", "failover"


@dataclass(frozen=True)
class Stage:
    """A site with what lies around it."""

    site: Site
    server: PostgreSQL | None = None
    tmpfs: Tmpfs | None = None
    volume: PowerVolume | None = None
    clock: WallClock | None = None


@dataclass(frozen=True)
class Outcome:
    """What a case says when it went well; `seconds` is a recovery or a stop, where one is timed."""

    account: Account
    seconds: float | None = None


Run = Callable[[Stage, str, int, random.Random], Outcome]  # with the name and the number
Around = Callable[[Path, str], AbstractContextManager[Stage]]


@dataclass(frozen=True)
class Kind:
    """A kind of proof. `least` is how many runs the issue asks for, a database."""

    least: int
    names: Callable[[str], Sequence[str]]
    around: Around
    run: Run


@dataclass(frozen=True)
class Alone:
    """A kind of proof that starts what it needs itself, and has no books: it returns its figures.

    `run` gets an empty folder, the database's name, the case's name and its seed, and raises
    AssertionError when something was found. No name for a database: nothing to do there.
    """

    least: int
    names: Callable[[str], Sequence[str]]
    run: Callable[[Path, str, str, int], dict[str, object]]


# --- what lies around -----------------------------------------------------------------------------
def server_of(
    stack: ExitStack, folder: Path, database: str, environment: Mapping[str, str] | None = None
) -> PostgreSQL | None:
    """A durable server of the stage's own, on PostgreSQL."""
    if database == "sqlite":
        return None
    return stack.enter_context(PostgreSQL(folder / "server", environment=environment))


def site_of(stack: ExitStack, folder: Path, server: PostgreSQL | None, **more: str) -> Site:
    """A site whose database is on `server`."""
    url = server.url if server else ""
    return stack.enter_context(Site(folder / "site", server=url, environment=more))


@contextmanager
def plain(folder: Path, database: str) -> Iterator[Stage]:
    """Nothing but the site."""
    with ExitStack() as stack:
        server = server_of(stack, folder, database)
        yield Stage(site_of(stack, folder, server), server)


@contextmanager
def small_disk(folder: Path, database: str) -> Iterator[Stage]:
    """A spool on 64 MiB."""
    with ExitStack() as stack:
        server = server_of(stack, folder, database)
        spool = folder / "site/product/data/spool"
        tmpfs = stack.enter_context(Tmpfs(spool, "size=64m,nr_inodes=2000"))
        limits = {
            "ROUTER_DISK_REFUSE": str(surroundings.REFUSE),
            "ROUTER_DISK_SLOW": str(surroundings.SLOW),
        }
        yield Stage(site_of(stack, folder, server, **limits), server, tmpfs=tmpfs)


@contextmanager
def no_watermark(folder: Path, database: str) -> Iterator[Stage]:
    """A spool on 64 MiB and no watermark that would spare it the worst."""
    with ExitStack() as stack:
        server = server_of(stack, folder, database)
        spool = folder / "site/product/data/spool"
        tmpfs = stack.enter_context(Tmpfs(spool, "size=64m,nr_inodes=2000"))
        limits = {"ROUTER_DISK_REFUSE": "0", "ROUTER_DISK_SLOW": "0"}
        yield Stage(site_of(stack, folder, server, **limits), server, tmpfs=tmpfs)


@contextmanager
def small_database(folder: Path, database: str) -> Iterator[Stage]:
    """The database, and nothing else, on a volume that is soon full."""
    with ExitStack() as stack:
        megabytes = 64 if database == "sqlite" else 256
        volume = stack.enter_context(PowerVolume(folder, megabytes=megabytes))
        server = server_of(stack, volume.folder, database)
        if server is None:  # SQLite keeps its log beside the file that a link leads to
            data = folder / "site/product/data"
            data.mkdir(parents=True)
            (data / "router.sqlite3").symlink_to(volume.folder / "router.sqlite3")
        yield Stage(site_of(stack, folder, server), server, volume=volume)


@contextmanager
def moved_time(folder: Path, database: str) -> Iterator[Stage]:
    """The product and the database server see a clock of ours."""
    with ExitStack() as stack:
        clock = WallClock(folder)
        server = server_of(stack, folder, database, clock.environment)
        yield Stage(site_of(stack, folder, server, **clock.environment), server, clock=clock)


@contextmanager
def moved_clock(folder: Path, database: str) -> Iterator[Stage]:
    """The product's processes see a clock of ours; the database server sees the host's."""
    with ExitStack() as stack:
        server = server_of(stack, folder, database)
        clock = WallClock(folder)
        yield Stage(site_of(stack, folder, server, **clock.environment), server, clock=clock)


@contextmanager
def loop_device(folder: Path, database: str) -> Iterator[Stage]:
    """Database and objects on a volume whose power can be cut; the far ends are elsewhere."""
    with ExitStack() as stack:
        volume = stack.enter_context(PowerVolume(folder))
        server = server_of(stack, volume.folder, database)
        site = Site(
            folder / "site",
            product_folder=volume.folder / "product",
            server=server.url if server else "",
        )
        stack.enter_context(site)
        yield Stage(site, server, volume=volume)


# --- how one case is run --------------------------------------------------------------------------
def _crash(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    return Outcome(crash.crash(stage.site, name, chance))


def _struck(blow: kills.Blow) -> Run:
    def run(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
        if name in kills.LATE:
            return Outcome(*kills.come_late(stage.site, name, chance))
        if name in {"pool worker", "monitor", "pusher"}:
            kills.make_anew(stage.site)
        return Outcome(*kills.strike(stage.site, name, blow, chance))

    return run


def _stop(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    how = next(one for one in kills.STOPS if one[0] == name)
    return Outcome(*kills.stop(stage.site, how, chance))


def _network(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    side, _, fault = name.partition(": ")
    if side == "out":
        return Outcome(network.outbound(stage.site, fault, chance))
    end = next(one for one in network.ENDS if one == fault)
    return Outcome(network.inbound(stage.site, end, chance))


def _status(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    return Outcome(network.answer(stage.site, int(name, 16), chance))


def _disk(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    assert stage.tmpfs is not None
    return Outcome(DISK[name](stage.site, stage.tmpfs, chance))


def _alert(stage: Stage, _name: str, _number: int, chance: random.Random) -> Outcome:
    assert stage.tmpfs is not None
    alarm, recovery = alerts.watermark_alert(stage.site, stage.tmpfs, chance)
    return Outcome(stage.site.settle(), max(alarm, recovery))


def _database(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    fault, seconds = name.split(" for ")
    length = float(seconds.removesuffix(" s"))
    if fault == LOCKED:
        return Outcome(*surroundings.database_locked(stage.site, length, chance))
    assert stage.server is not None
    if fault == FAILOVER:
        return Outcome(*surroundings.fails_over(stage.site, stage.server, length, chance))
    return Outcome(*surroundings.database_away(stage.site, stage.server, fault, length, chance))


def _clock(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    assert stage.clock is not None
    if name.endswith(WITH_DEATH):  # a lease that the clock's jump makes very long
        crash.begin(stage.site, "deliver.after_send", chance)
        crash.await_death(stage.site, "deliver.after_send")
    seconds = TIMES[name.removesuffix(WITH_DEATH)]
    return Outcome(surroundings.clock_steps(stage.site, stage.clock, seconds, chance))


def _power(stage: Stage, _name: str, _number: int, chance: random.Random) -> Outcome:
    assert stage.volume is not None
    return Outcome(surroundings.power_cut(stage.site, stage.volume, stage.server, chance))


def _full(stage: Stage, _name: str, _number: int, chance: random.Random) -> Outcome:
    assert stage.volume is not None
    return Outcome(*surroundings.database_full(stage.site, stage.volume, stage.server, chance))


def _cut(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    return Outcome(cuts.cut(stage.site, name, chance))


def _syscall(stage: Stage, name: str, number: int, chance: random.Random) -> Outcome:
    return Outcome(syscalls.die(stage.site, name, number, chance))


def _errno(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    return Outcome(syscalls.fail(stage.site, name, chance))


def _outage(stage: Stage, name: str, _number: int, chance: random.Random) -> Outcome:
    assert stage.clock is not None
    return Outcome(*outages.away(stage.site, stage.clock, name, chance))


def _database_names(database: str) -> Sequence[str]:
    if database == "sqlite":
        return ["locked for 60 s", "locked for 5 s"]
    faults = [f"{fault} for 20 s" for fault in surroundings.DATABASE_FAULTS]
    return [*faults, f"{FAILOVER} for 5 s", f"{LOCKED} for 60 s"]


def _network_names(_database: str) -> Sequence[str]:
    return [f"out: {name}" for name in network.OUTBOUND] + [f"in: {end}" for end in network.ENDS]


KINDS: dict[str, Kind | Alone] = {
    "crash": Kind(300, lambda _: CRASHES, plain, _crash),
    "kill": Kind(90, lambda _: kills.ROLES, plain, _struck(kills.kill)),
    "segv": Kind(9, lambda _: kills.ROLES, plain, _struck(kills.crash)),
    "freeze": Kind(12, lambda _: [*kills.ROLES, *kills.LATE], plain, _struck(kills.freeze)),
    "stop": Kind(50, lambda _: [name for name, _, _ in kills.STOPS], plain, _stop),
    "syscall": Kind(48, lambda _: syscalls.names(), plain, _syscall),
    "errno": Kind(24, lambda _: syscalls.error_names(), plain, _errno),
    "network": Kind(34, _network_names, plain, _network),
    "cut": Kind(len(cuts.names()), lambda _: cuts.names(), plain, _cut),
    "status": Kind(24, lambda _: [f"{n:04X}" for n in network.STATUSES], plain, _status),
    "disk": Kind(4, lambda _: ["no space", "no inodes"], no_watermark, _disk),
    "watermark": Kind(2, lambda _: ["watermark"], small_disk, _disk),
    "alert": Kind(2, lambda _: ["disk"], small_disk, _alert),
    "database": Kind(6, _database_names, plain, _database),
    "full": Kind(2, lambda _: ["database full"], small_database, _full),
    "clock": Kind(8, lambda _: [*TIMES, f"-1 h{WITH_DEATH}"], moved_clock, _clock),
    "outage": Kind(6, lambda _: outages.names(), moved_time, _outage),
    "power": Kind(50, lambda _: ["cut"], loop_device, _power),
    "oracle": Alone(1, lambda _: ["20000 objects"], oracle_run.prove),
    "soak": Alone(1, proofs.once("60 min at 25/s"), soak.prove),
    "pdu": Alone(10, proofs.once("sequences"), proofs.pdu),
    "files": Alone(10, proofs.once("data sets"), proofs.data_sets),
    "crowd": Alone(2, proofs.once("slow and silent", "silent in TLS"), proofs.crowded),
    "atheris": Alone(4, proofs.once(*guided.TARGETS), proofs.coverage_guided),
}
