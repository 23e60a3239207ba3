"""Objects that never became whole, as they lie in a spool."""

import os
from contextlib import suppress
from pathlib import Path


def halves(folder: Path) -> list[Path]:
    """Parts below a folder that hold something; empty ones are names made ahead.

    Folders and files may come and go while one looks.
    """
    found = (
        Path(where) / name
        for where, _folders, files in os.walk(folder)
        for name in files
        if name.endswith(".part")
    )
    return [path for path in found if _size(path)]


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
