"""Three independent books and their comparison: the sender's, the ledger's and the far ends'.

`Books` knows what was made and what was acknowledged. `compare` finds every difference at once:
acknowledged but not kept, changed, at a stranger's, missing, delivered twice without a recorded
doubt.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.ledger import DONE, Page, Pair
from tests.faults.tagged import Tagged, allowed


@dataclass(frozen=True)
class Arrival:
    """One object that a far end took: its data set's hash and where it says it may appear."""

    uid: str
    sha256: str
    allowed: frozenset[str]

    @classmethod
    def of(cls, uid: str, sha256: str, data: bytes) -> "Arrival":
        """Read the private tag."""
        return cls(uid, sha256, allowed(data))


@dataclass
class Books:
    """The sender's book: what was made, and what was acknowledged how often."""

    made: dict[str, Tagged] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)

    def note(self, objects: Sequence[Tagged]) -> None:
        """Enter objects before they are sent."""
        self.made |= {one.uid: one for one in objects}

    def owed(self) -> set[Pair]:
        """The pairs that what was acknowledged must come to."""
        return {(uid, name) for uid in self.acknowledged for name in self.made[uid].destinations}


@dataclass(frozen=True)
class Account:
    """The sums of a comparison that found nothing wrong."""

    acknowledged: int
    pairs: int
    uncertain: int
    twice: int


def compare(books: Books, page: Page, far: Mapping[str, Sequence[Arrival]]) -> Account:
    """Compare the three books. Raises AssertionError with every difference."""
    wrong = [*_kept(books, page), *_chosen(books, page)]
    twice = 0
    for name, arrivals in far.items():
        wrong += _arrived(name, arrivals, books)
        counts = Counter(arrival.uid for arrival in arrivals)
        wrong += _missing(name, counts, page)
        for uid, count in counts.items():
            twice += count - 1
            if count - 1 > page.uncertain((uid, name)):
                wrong.append(f"{uid} came {count} times to {name} without a recorded doubt")
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:20])
    uncertain = sum(n for (*_, how), n in page.attempts.items() if how in ("unknown", "lost"))
    return Account(len(books.acknowledged), len(page.states), uncertain, twice)


def _kept(books: Books, page: Page) -> list[str]:
    """Acknowledged is stored, and stored is what was made."""
    lost = [
        f"{uid} was acknowledged and is lost" for uid in books.acknowledged.keys() - page.stored
    ]
    changed = [
        f"{uid} has changed in the ledger"
        for uid, sha256 in page.stored.items()
        if uid not in books.made or books.made[uid].sha256 != sha256
    ]
    return lost + changed


def _chosen(books: Books, page: Page) -> list[str]:
    """The ledger's pairs are those of the private tags, and all are done."""
    expected = {(uid, name) for uid in page.stored for name in books.made[uid].destinations}
    wrong = [f"{uid} was not chosen for {name}" for uid, name in expected - page.states.keys()]
    wrong += [f"{uid} was chosen for {name}" for uid, name in page.states.keys() - expected]
    wrong += [
        f"{uid} is {state} for {name}: {page.reasons.get((uid, name), '')}"
        for (uid, name), state in page.states.items()
        if state not in DONE
    ]
    return wrong


def _arrived(name: str, arrivals: Sequence[Arrival], books: Books) -> list[str]:
    """What came is what was made, and may be there."""
    wrong = []
    for one in arrivals:
        made = books.made.get(one.uid)
        if made is None or made.sha256 != one.sha256:
            wrong.append(f"{one.uid} arrived changed at {name}")
        elif name not in one.allowed or one.allowed != made.destinations:
            wrong.append(f"{one.uid} is a stranger at {name}")
    return wrong


def _missing(name: str, counts: Mapping[str, int], page: Page) -> list[str]:
    """What the ledger calls delivered is there, and nothing else is."""
    said = {uid for (uid, to), state in page.states.items() if to == name and state in DONE}
    wrong = [f"{uid} is delivered to {name} and not there" for uid in said - counts.keys()]
    known = {uid for uid, to in page.states if to == name}
    return wrong + [
        f"{uid} is at {name} and the ledger knows nothing" for uid in counts.keys() - known
    ]
