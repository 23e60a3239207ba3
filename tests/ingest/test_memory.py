"""Memory is given back."""

import weakref

from ingest.memory import give_back


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_rings_of_references_go() -> None:
    seen = weakref.ref(Ring())
    give_back()
    assert seen() is None
