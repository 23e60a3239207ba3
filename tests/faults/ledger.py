"""The product's own book, read with plain SQL beside it; nothing of the product is imported."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

Pair = tuple[str, str]  # SOP Instance UID, name of the destination
DONE = frozenset({"delivered", "warning"})
UNCERTAIN = ("unknown", "lost")

STORED = "SELECT sop_instance_uid, sha256 FROM router_instance WHERE state = 'current'"
OPEN = "SELECT COUNT(*) FROM router_jobitem WHERE finished_at IS NULL"
COUNT = "SELECT COUNT(*) FROM router_instance WHERE state = 'current'"
STATES = """
SELECT i.sop_instance_uid, d.name, j.state, j.reason FROM router_jobitem j
JOIN router_instance i ON i.id = j.instance_id JOIN router_destination d ON d.id = j.destination_id
"""
ATTEMPTS = """
SELECT i.sop_instance_uid, d.name, a.outcome, COUNT(*) FROM router_attempt a
JOIN router_jobitem j ON j.id = a.item_id
JOIN router_instance i ON i.id = j.instance_id JOIN router_destination d ON d.id = j.destination_id
GROUP BY i.sop_instance_uid, d.name, a.outcome
"""
LANE = """
SELECT l.failures, l.last_failure_at, l.resume_at FROM router_lane l
JOIN router_destination d ON d.id = l.destination_id
WHERE l.state = 'backoff' AND d.name = '{name}'
"""
WAITING = """
SELECT j.tries, MAX(a.ended_at), j.due_at FROM router_jobitem j
JOIN router_attempt a ON a.item_id = j.id JOIN router_destination d ON d.id = j.destination_id
WHERE j.state = 'waiting' AND d.name = '{name}' GROUP BY j.id, j.tries, j.due_at
"""
TRIED = """
SELECT COUNT(a.ended_at) FROM router_attempt a JOIN router_jobitem j ON j.id = a.item_id
JOIN router_destination d ON d.id = j.destination_id WHERE d.name = '{name}'
"""
UNDECIDED = "SELECT COUNT(*) FROM router_routingmark WHERE decision_id IS NULL"


@dataclass(frozen=True)
class Page:
    """What the ledger says at one moment."""

    stored: dict[str, str]
    states: dict[Pair, str]
    attempts: Counter[tuple[str, str, str]]
    undecided: int
    reasons: dict[Pair, str]

    def uncertain(self, pair: Pair) -> int:
        """How many attempts of a pair may have arrived without our knowing."""
        return sum(self.attempts[*pair, outcome] for outcome in UNCERTAIN)

    @property
    def is_settled(self) -> bool:
        """Whether every mark is decided and every pair delivered."""
        return not self.undecided and set(self.states.values()) <= DONE


@dataclass(frozen=True)
class Pause:
    """What a failure led to: the how-manieth it was, when, and until when nothing is tried."""

    failures: int
    began: datetime
    until: datetime


@dataclass(frozen=True)
class Outage:
    """What the ledger says of a far end that is away: the pauses of its lane and of its items."""

    attempts: int
    lane: Sequence[Pause]
    items: Sequence[Pause]

    @property
    def resumes(self) -> datetime:
        """When it is tried next."""
        first = min((pause.until for pause in self.items), default=datetime.min.replace(tzinfo=UTC))
        return max([first, *(pause.until for pause in self.lane)])


class Ledger:
    """Reads the database of one product."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._url = url
        self._file = data_dir / "router.sqlite3"

    def read(self) -> Page:
        """Return the ledger as it stands. Raises OSError when the database cannot be read."""
        try:
            stored, states, attempts, undecided = self._ask(STORED, STATES, ATTEMPTS, UNDECIDED)
        except (sqlite3.OperationalError, psycopg.OperationalError) as error:
            raise OSError(f"the ledger cannot be read: {error}") from error
        return Page(
            stored=dict(stored),
            states={(uid, name): state for uid, name, state, _ in states},
            attempts=Counter({(uid, name, how): count for uid, name, how, count in attempts}),
            undecided=undecided[0][0],
            reasons={(uid, name): reason for uid, name, _, reason in states if reason},
        )

    def may_be_settled(self, least: int) -> bool:
        """Whether nothing is open and at least so many are stored; cheap, to be asked often."""
        try:
            counts = self._ask(OPEN, UNDECIDED, COUNT)
        except (sqlite3.OperationalError, psycopg.OperationalError) as error:
            raise OSError(f"the ledger cannot be read: {error}") from error
        still_open, undecided, stored = (rows[0][0] for rows in counts)
        return not still_open and not undecided and stored >= least

    def outage(self, name: str) -> Outage:
        """Read what it says of a far end that is away."""
        queries = [query.format(name=name) for query in (TRIED, LANE, WAITING)]
        tried, lane, items = self._ask(*queries)
        return Outage(tried[0][0], [_pause(*row) for row in lane], [_pause(*row) for row in items])

    def _ask(self, *queries: str) -> list[list[Any]]:  # Any: rows of different shapes
        if self._url:
            with psycopg.connect(self._url, connect_timeout=5) as server:
                return [server.execute(query).fetchall() for query in queries]
        uri = f"file:{self._file}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as file:
            file.execute("BEGIN")
            return [file.execute(query).fetchall() for query in queries]


def _pause(failures: int, began: str | datetime, until: str | datetime) -> Pause:
    return Pause(failures, _moment(began), _moment(until))


def _moment(value: str | datetime) -> datetime:
    """A time as either database gives it; SQLite has text, in UTC."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value


def describe(pairs: Sequence[Pair], page: Page) -> str:
    """Say what the ledger knows of some pairs."""
    lines = []
    for pair in pairs[:5]:
        tried = {how or "running": n for (*of, how), n in page.attempts.items() if (*of,) == pair}
        state, reason = page.states.get(pair, "unknown here"), page.reasons.get(pair, "")
        lines.append(f"{pair[0]} to {pair[1]}: {state} {reason} {tried}")
    return "\n".join(lines)
