"""What must hold of the ledger and the spool at every moment, read beside the product.

Each rule is about something that has stayed for longer than it may, so a healthy moment of work is
no finding. Nothing of the product is imported.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from tests.halves import halves

STAYS = 60.0  # seconds
LATE = 180.0  # seconds that an item may be due at an open lane where nothing happens
PART_IS_OLD = 300.0

_UNDECIDED = """
SELECT COUNT(*) FROM router_routingmark WHERE decision_id IS NULL AND created_at < {stays}
"""
_LEASES = """
SELECT COUNT(*) FROM router_jobitem WHERE state = 'leased' AND lease_until < {stays}
"""
_NOBODYS = """
SELECT COUNT(*) FROM router_jobitem i JOIN router_lane l ON l.destination_id = i.destination_id
WHERE l.state = 'open' AND (l.last_failure_at IS NULL OR l.last_failure_at < {late})
AND (l.last_success_at IS NULL OR l.last_success_at < {late})
AND ((i.state = 'pending' AND i.created_at < {late})
  OR (i.state = 'waiting' AND i.due_at < {late} AND i.created_at < {late}))
"""
_HANGING = """
SELECT COUNT(*) FROM router_attempt a JOIN router_jobitem i ON i.id = a.item_id
WHERE a.outcome = '' AND i.state <> 'leased' AND a.started_at < {stays}
"""
_STOPPED = """
SELECT COUNT(*) FROM router_jobitem WHERE state IN ('parked', 'held', 'cancelled')
"""
_LANES = "SELECT COUNT(*) FROM router_lane WHERE state = 'stopped'"
_UNMARKED = """
SELECT COUNT(*) FROM router_instance i LEFT JOIN router_routingmark m ON m.instance_id = i.id
WHERE i.state = 'current' AND m.id IS NULL AND i.received_at < {stays}
"""
RULES = {
    "objects without a decision": _UNDECIDED,
    "leases that ran out and stand": _LEASES,
    "due items that nobody takes": _NOBODYS,
    "attempts that never ended": _HANGING,
    "items that wait for a person": _STOPPED,
    "lanes that stopped": _LANES,
    "objects without a mark": _UNMARKED,
}


class Invariants:
    """Asks the database of one product and looks into its spool."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._url = url
        self._data_dir = data_dir

    def broken(self) -> dict[str, int]:
        """Return every rule that does not hold, with how often.

        Raises OSError when the database cannot be asked.
        """
        found = dict(zip(RULES, self._ask(list(RULES.values())), strict=True))
        found |= self._spool()
        return {what: count for what, count in found.items() if count}

    def backlog(self) -> int:
        """How many acknowledged objects lie in the inbox now."""
        return sum(1 for _ in self._files("*/*.dcm"))

    def _spool(self) -> dict[str, int]:
        now = time.time()
        return {
            "objects that stay in the inbox": self._older("*/*.dcm", now - STAYS),
            "parts that were left": len(self._old_halves(now - PART_IS_OLD)),
        }

    def _old_halves(self, moment: float) -> list[Path]:
        found = []
        for path in halves(self._data_dir / "spool/inbox"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < moment:
                    found.append(path)
        return found

    def _older(self, pattern: str, moment: float) -> int:
        return sum(modified < moment for modified in self._files(pattern))

    def _files(self, pattern: str) -> Iterator[float]:
        """When the files were changed that are there now; inboxes come and go while one looks."""
        folder, name = pattern.split("/")
        for inbox in (self._data_dir / "spool/inbox").glob(folder):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for path in inbox.glob(name):
                    with contextlib.suppress(FileNotFoundError):
                        yield path.stat().st_mtime

    def _ask(self, queries: Sequence[str]) -> list[int]:
        now = datetime.now(UTC)
        moments = {
            name: f"'{(now - timedelta(seconds=age)).strftime(_FORMAT)}{self._zone}'"
            for name, age in (("stays", STAYS), ("late", LATE))
        }
        written = [query.format(**moments) for query in queries]
        try:
            return self._answers(written)
        except (sqlite3.OperationalError, psycopg.OperationalError) as error:
            raise OSError(f"the ledger cannot be asked: {error}") from error

    @property
    def _zone(self) -> str:
        return "+00" if self._url else ""

    def _answers(self, queries: Sequence[str]) -> list[int]:
        if self._url:
            with psycopg.connect(self._url, connect_timeout=5) as server:
                return [_one(server.execute(query).fetchone()) for query in queries]
        uri = f"file:{self._data_dir / 'router.sqlite3'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as file:
            return [_one(file.execute(query).fetchone()) for query in queries]


def _one(row: tuple[int] | None) -> int:
    assert row is not None
    return row[0]


_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
