"""Rejected associations on their way to the audit trail: a journal in the spool.

The receiver writes it, the indexer takes it; neither waits for the database. Rejections are
folded per address, calling AE title, reason and minute: the first of a minute is written at once,
the others as one line with their number when the minute is over or the journal is taken. A crash
loses that number at most, never the fact.

It refuses to grow without bound: past a number of callers a minute the rest are one line.
"""

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

MOST_CALLERS_A_MINUTE = 500
OTHERS = "*"


@dataclass(frozen=True, slots=True)
class Rejected:
    """`count` associations rejected for one reason in the minute that begins at `minute`.

    `id` is unique by line, so that a line taken twice after a crash can be recognised.
    """

    id: str
    minute: datetime
    address: str
    calling_ae: str
    called_ae: str
    reason: str
    count: int

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "minute": self.minute.isoformat()})

    @classmethod
    def from_json(cls, line: str) -> Self:
        data = json.loads(line)
        return cls(**{**data, "minute": datetime.fromisoformat(data["minute"])})


class RejectionJournal:
    """The journal below one folder; any number of processes may write and take."""

    def __init__(
        self, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._folder = folder
        self._now = now
        self._mutex = threading.Lock()
        self._minute: datetime | None = None
        self._folded: dict[tuple[str, str, str], Rejected] = {}

    def record(self, *, address: str, calling_ae: str, called_ae: str, reason: str) -> None:
        """Note one rejection. Raises OSError when the spool cannot be written."""
        minute = self._now().replace(second=0, microsecond=0)
        with self._mutex:
            if minute != self._minute:
                self._write_folded()
                self._minute = minute
            if len(self._folded) >= MOST_CALLERS_A_MINUTE:
                address, calling_ae, called_ae = OTHERS, OTHERS, OTHERS
            key = (address, calling_ae, reason)
            if key in self._folded:
                self._folded[key] = replace(self._folded[key], count=self._folded[key].count + 1)
                return
            first = Rejected(_id(), minute, address, calling_ae, called_ae, reason, count=1)
            self._append([first])
            self._folded[key] = replace(first, count=0)

    @contextmanager
    def take(self) -> Iterator[list[Rejected]]:
        """What was journaled by any process; removed when the block ends without an error.

        Empty while another process is taking.
        """
        with self._mutex:
            self._write_folded()
        with self._locked("take.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as is_mine:
            if not is_mine:
                yield []
                return
            self._rotate()
            taken = sorted(self._folder.glob("*.taken"))
            yield [line for path in taken for line in _lines(path)]
            for path in taken:
                path.unlink()

    def _write_folded(self) -> None:
        rest = [replace(line, id=_id()) for line in self._folded.values() if line.count]
        if rest:
            self._append(rest)
        self._folded = {
            key: replace(line, count=0)
            for key, line in self._folded.items()
            if line.minute == self._now().replace(second=0, microsecond=0)
        }

    def _append(self, lines: list[Rejected]) -> None:
        text = "".join(f"{line.to_json()}\n" for line in lines)
        with (
            self._locked("write.lock", fcntl.LOCK_EX),
            (self._folder / "current.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _rotate(self) -> None:
        current = self._folder / "current.jsonl"
        with self._locked("write.lock", fcntl.LOCK_EX):
            if current.exists():
                current.rename(self._folder / f"{_id()}.taken")

    @contextmanager
    def _locked(self, name: str, kind: int) -> Iterator[bool]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / name).open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, kind)
            except BlockingIOError:
                yield False
                return
            yield True


def _id() -> str:
    return uuid.uuid4().hex


def _lines(path: Path) -> Iterator[Rejected]:
    """The whole lines of a journal file; a crash may have cut the last one."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Rejected.from_json(line)
        except (ValueError, TypeError, KeyError):
            continue
