"""What one more instance costs when much is stored: index, decision and sweep at growing sizes.

The same batch goes in turn on top of a small ledger and of a large one, A B A B, so that a busy
moment meets both.
"""

from pathlib import Path
from typing import Self

from bench import routing
from bench.measure import Bench
from bench.product import DISCARD, Driver

BATCHES = 11
FILL_SECONDS = 7200.0


def run(bench: Bench, sizes: list[int]) -> None:
    """Measure at each size; the first is what the others are compared with."""
    print("  cost per instance by rows stored", flush=True)
    base, *larger = sorted(sizes)
    with _Ledger(bench, base) as small:
        for size in larger:
            with _Ledger(bench, size) as large:
                for number in range(BATCHES + 1):
                    _compare(bench, (small, base), (large, size), keep=number > 0)


def name_of(size: int) -> str:
    """Name a size as the table does."""
    return f"{size // 1_000_000}M" if size >= 1_000_000 else f"{size // 1000}k"


def _compare(bench: Bench, *ledgers: "tuple[_Ledger, int]", keep: bool) -> None:
    """Put one batch on each; the first of all only warms up."""
    folder = bench.objects("small").files[0].parent
    large = name_of(ledgers[-1][1])
    for number, (ledger, _size) in enumerate(ledgers):
        found = ledger.driver.ask("cost", folder=str(folder), run=bench.next_run(), seconds=600)
        if keep:
            who = "ours" if number else "base"
            total = (found["index"] + found["route"]) * 1000
            bench.note(f"cost {large}", who, total, **found)


class _Ledger:
    """An installation without processes, filled, and the driver that works on it."""

    def __init__(self, bench: Bench, size: int) -> None:
        self._installation, self._size = bench.installation, size

    def __enter__(self) -> Self:
        self._env = self._installation.fresh()
        self.driver = Driver(self._env, Path(self._env["ROUTER_DATA_DIR"]).with_suffix(".log"))
        self.driver.ask("apply", text=routing.document([DISCARD]))
        done = self.driver.ask("fill", count=self._size, seconds=FILL_SECONDS)
        print(f"    {self._size} instances generated in {done['seconds']:.0f} s", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.end()
        self._installation.remove(self._env)
