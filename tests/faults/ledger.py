"""The product's own book, read with plain SQL beside it; nothing of the product is imported."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

Pair = tuple[str, str]  # SOP Instance UID, name of the destination
DONE = frozenset({"delivered", "warning"})
UNCERTAIN = ("unknown", "lost")

STORED = "SELECT sop_instance_uid, sha256 FROM router_instance WHERE state = 'current'"
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

    def _ask(self, *queries: str) -> list[list[Any]]:  # Any: rows of different shapes
        if self._url:
            with psycopg.connect(self._url, connect_timeout=5) as server:
                return [server.execute(query).fetchall() for query in queries]
        uri = f"file:{self._file}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as file:
            file.execute("BEGIN")
            return [file.execute(query).fetchall() for query in queries]


def describe(pairs: Sequence[Pair], page: Page) -> str:
    """Say what the ledger knows of some pairs."""
    lines = []
    for pair in pairs[:5]:
        tried = {how or "running": n for (*of, how), n in page.attempts.items() if (*of,) == pair}
        state, reason = page.states.get(pair, "unknown here"), page.reasons.get(pair, "")
        lines.append(f"{pair[0]} to {pair[1]}: {state} {reason} {tried}")
    return "\n".join(lines)
