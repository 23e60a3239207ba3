"""The thread that sends for one drain: it touches the far end and the stored bytes, never a row.

What it is given it sends in order; what became of each item it hands back in groups. After an item
that was not sent nothing more is begun, so that what failed is looked at first.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from django.db import connections

from router import crashpoints
from router.destinations.base import Context, Outgoing, Result, Sender
from router.destinations.outcomes import Outcome
from router.services.claims import Claim

GROUP = 50
_SETTLED = (Outcome.DELIVERED, Outcome.WARNING, Outcome.DATA_ERROR, Outcome.EXCLUDED)
_NOT_BEGUN = "The sending ended before this object's turn."


@dataclass(frozen=True, slots=True)
class Load:
    """A claim ready to be sent."""

    claim: Claim
    sender: Sender
    outgoing: Sequence[Outgoing]
    context: Context


@dataclass
class News:
    """What became known of one claim; `error` is what ended the sending of it, if anything did."""

    claim: Claim
    results: list[Result]
    is_over: bool = False
    error: BaseException | None = None


class Line:
    """One such thread: `with Line() as line: line.give(load); line.collect(0.5)`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sending")
        self._lock, self._bell = threading.Lock(), threading.Event()
        self._news: list[News] = []
        self._halted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._halted = self._halted or error is not None
        # Bytes that still lie in the inbox are found by a query, which opens a connection here.
        self._pool.submit(connections.close_all)
        self._pool.shutdown()

    def give(self, load: Load, *, first: bool) -> None:
        """Have `load` sent after what was given before; with `first` nothing else is under way."""
        if first:
            self._halted = False
        self._pool.submit(self._send, load)

    def collect(self, seconds: float) -> list[News]:
        """Return what became known, once it is a group, or a claim is over, or time has passed."""
        self._bell.wait(seconds)
        with self._lock:
            self._bell.clear()
            news, self._news = self._news, []
        return news

    def _send(self, load: Load) -> None:
        error: BaseException | None = None
        try:
            if self._halted:
                self._give_back(load)
                return
            for result in load.sender.send(load.outgoing, load.context):
                self._note(load.claim, result)
        except BaseException as caught:  # noqa: BLE001 - raised again by the one who collects
            error = caught
            self._halted = True
        finally:
            self._tell(News(load.claim, [], is_over=True, error=error))

    def _give_back(self, load: Load) -> None:
        for item in load.outgoing:
            self._note(load.claim, Result(item.item_id, Outcome.NOT_SENT, _NOT_BEGUN))

    def _note(self, claim: Claim, result: Result) -> None:
        claim.is_broken = claim.is_broken or (claim.is_ordered and result.outcome not in _SETTLED)
        self._halted = self._halted or result.outcome == Outcome.NOT_SENT or result.lane is not None
        crashpoints.reach("deliver.after_send")
        with self._lock:
            if not self._news or self._news[-1].claim is not claim:
                self._news.append(News(claim, []))
            known = self._news[-1].results
            known.append(result)
            if len(known) >= GROUP:
                self._bell.set()

    def _tell(self, news: News) -> None:
        with self._lock:
            self._news.append(news)
            self._bell.set()
