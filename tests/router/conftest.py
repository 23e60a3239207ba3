"""An archive of each test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import storage
from router.services import decisions
from router.spool import Spool
from tests.intake import Site


@pytest.fixture
def site(
    settings: Any,  # Any: pytest-django has no type
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """Return spool and storage below a temporary folder; the product uses them meanwhile."""
    settings.SPOOL_DIR = tmp_path / "spool"
    settings.STORAGE_URL = f"file://{tmp_path / 'objects'}"
    monkeypatch.setattr(decisions, "_cached", None)  # revisions of another test had these numbers
    storage.objects.cache_clear()
    yield Site(Spool(tmp_path / "spool"), tmp_path / "objects")
    storage.objects.cache_clear()
