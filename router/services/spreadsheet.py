"""CSV that is safe to open: no cell of it is taken for a formula (R53)."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from typing import TypeVar

Line = TypeVar("Line")

# What a spreadsheet takes for the beginning of a formula, full-width forms included (R53).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def lines(
    heads: Sequence[str], rows: Iterable[Line], cells: Callable[[Line], Sequence[object]]
) -> Iterator[str]:
    """Yield the lines of a CSV file: the heads, then one line a row."""
    yield line(heads)
    for row in rows:
        yield line(cells(row))


def line(values: Iterable[object]) -> str:
    """Return one line with its end."""
    buffer = StringIO()
    csv.writer(buffer).writerow([safe_cell(value) for value in values])
    return buffer.getvalue()


def safe_cell(value: object) -> str:
    """Return a cell that no spreadsheet runs as a formula (R53); numbers stay numbers."""
    text = "" if value is None else str(value)
    if isinstance(value, int | float):
        return text
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
