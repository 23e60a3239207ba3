"""One running product for the proofs that leave it whole; rounds of each fault; figures to show."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.product import Product

Note = Callable[[str], None]
_figures: list[str] = []


@pytest.fixture(scope="session")
def rounds() -> int:
    """How often a fault is repeated: `PROOF_ROUNDS`, one in the normal suite."""
    return int(os.environ.get("PROOF_ROUNDS", "1"))


@pytest.fixture(scope="session")
def note() -> Note:
    """Take a measured figure, which is shown at the end of the run."""
    return _figures.append


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A running product. Every proof applies a configuration of its own before it sends."""
    with Product(tmp_path_factory.mktemp("product")) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    if _figures:
        terminalreporter.section("figures of the proofs")
        for line in _figures:
            terminalreporter.write_line(line)
