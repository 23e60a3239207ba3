"""The product's settings for the test suite, on a data directory of the run's own.

pytest-django reads settings before any ``conftest.py`` is loaded, so the directory is chosen here:
otherwise a test run would write into the installation beside it. Changes nothing else.
"""

import atexit
import os
import shutil
import tempfile


def _remove(folder: str, owner: int) -> None:
    """Remove ``folder`` at the end of the run itself; forked children leave it alone."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


if "ROUTER_DATA_DIR" not in os.environ:
    os.environ["ROUTER_DATA_DIR"] = tempfile.mkdtemp(prefix="router-tests-")
    atexit.register(_remove, os.environ["ROUTER_DATA_DIR"], os.getpid())

from router.settings import *  # noqa: E402, F403 - after the data directory

if USES_SQLITE:  # noqa: F405 - a file as in the product: one in memory locks otherwise
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}  # noqa: F405
