"""One running product for the proofs that leave it whole, and the number of rounds of each fault."""

import os
from collections.abc import Iterator

import pytest

from tests.product import Product


@pytest.fixture(scope="session")
def rounds() -> int:
    """How often a fault is repeated: `PROOF_ROUNDS`, one in the normal suite."""
    return int(os.environ.get("PROOF_ROUNDS", "1"))


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A running product. Every proof applies a configuration of its own before it sends."""
    with Product(tmp_path_factory.mktemp("product")) as running:
        yield running
