"""R5, end to end: a volume passes its watermark, who looks is told; it has room again, and is told.

Three places are asked as their readers ask them: `/metrics` with a token, the dashboard with an
administrator's session, and the log.
"""

import http.cookiejar
import random
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable

from tests.faults.site import Site
from tests.faults.surroundings import OUT_OF_RESOURCES, REFUSE, status_of
from tests.faults.volume import Tmpfs
from tests.product import HOST, PASSWORD, Product

ALERTS, RECOVERS = 30.0, 60.0  # seconds
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


class Watcher:
    """Somebody who looks at the product from outside."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._base = f"http://{HOST}:{product.http_port}"
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._session = urllib.request.build_opener(jar)
        self._log_in()
        said = product.command("create_token", "admin", "--scope", "metrics:read")
        self._bearer = said.split()[-1]

    def _log_in(self) -> None:
        found = _TOKEN.search(self._page("/login/"))
        assert found is not None, "no form to log in"
        form = {"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": found[1]}
        data = urllib.parse.urlencode({**form, "next": "/"}).encode()
        with self._session.open(f"{self._base}/login/", data, timeout=10) as answer:
            assert "Needs attention" in answer.read().decode(), "not the dashboard"

    def _page(self, path: str) -> str:
        with self._session.open(self._base + path, timeout=10) as answer:
            return str(answer.read().decode())

    def dashboard(self) -> str:
        """The page that opens first."""
        return self._page("/")

    def intake(self) -> str:
        """What the metrics call the intake: open, slow or refuse."""
        headers = {"Authorization": f"Bearer {self._bearer}"}
        request = urllib.request.Request(f"{self._base}/metrics", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        (state,) = [line for line in lines if line.startswith("router_intake{") and "1.0" in line]
        return str(state.split('"')[1])

    def log_since(self, at: int) -> str:
        """What was logged after the first `at` characters."""
        return self._product.log()[at:]


def watermark_alert(site: Site, volume: Tmpfs, chance: random.Random) -> tuple[float, float]:
    """Fill the volume below its mark and make room again.

    Returns:
        Seconds until all three had told of it, and until all three and the intake were well again.
    """
    watcher = Watcher(site.product)
    site.send(site.make(2, chance))
    assert watcher.intake() == "open"
    logged = len(site.product.log())
    ballast = volume.fill(leave=REFUSE // 2)
    alarm = _until(
        ALERTS,
        {
            "the metrics": lambda: watcher.intake() == "refuse",
            "the dashboard": lambda: "new objects are refused" in watcher.dashboard(),
            "the log": lambda: "disk.refusing" in watcher.log_since(logged),
        },
    )
    assert status_of(site, site.make(1, chance)[0]) == OUT_OF_RESOURCES
    logged = len(site.product.log())
    ballast.unlink()
    one = site.make(1, chance)[0]
    recovery = _until(
        RECOVERS,
        {
            "the intake": lambda: one.uid in site.books.acknowledged or not status_of(site, one),
            "the metrics": lambda: watcher.intake() == "open",
            "the dashboard": lambda: "new objects are refused" not in watcher.dashboard(),
            "the log": lambda: "disk.open" in watcher.log_since(logged),
        },
    )
    return alarm, recovery


def _until(seconds: float, told: dict[str, Callable[[], bool]]) -> float:
    began = time.monotonic()
    left = dict(told)
    while left:
        left = {name: asks for name, asks in left.items() if not asks()}
        took = time.monotonic() - began
        assert took <= seconds, f"after {took:.0f} s nothing from {', '.join(left)}"
        time.sleep(0.2)
    return time.monotonic() - began
