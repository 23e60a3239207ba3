"""Groups over real peers: one of three is killed half-way, and no study is split or lost; and
fail-over that returns. `PROOF_ROUNDS` multiplies the studies."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.product import HOST, Config, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import data_set, dicom_destination
from tests.proof.objects import dataset, hashes, new_uid, raw
from tests.senders import RawObject, send_raw
from tests.sinks import Script, Sink
from tests.storescp import Storescp

STUDIES, SIZE, MODALITIES = 24, 10, 3
PATIENCE = 3
pytestmark = [pytest.mark.database, pytest.mark.timeout(900)]

AT_ONCE = 40
"""So many studies have one accession number, by which one report tells of all of them."""


@dataclass(frozen=True)
class Study:
    """A study as its modality has it."""

    uid: str
    accession: str
    objects: tuple[RawObject, ...]

    @property
    def names(self) -> set[str]:
        """The SOP Instance UIDs of its objects."""
        return {one.sop_instance_uid for one in self.objects}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product of its own, whose ledger holds nothing else."""
    with Product(tmp_path / "own") as running:
        yield running


def _pool(members: Sequence[Config], **group: object) -> Config:
    names = [one["name"] for one in members]
    pool = {"name": "pool", "members": names, "patience": f"{PATIENCE}s", **group}
    rule = {"name": "all", "send": ["pool"]}
    return {"version": 1, "destinations": list(members), "groups": [pool], "rules": [rule]}


def _studies(count: int) -> list[Study]:
    batch = f"{time.time_ns():x}"[-10:]
    return [_study(f"{batch}-{number // AT_ONCE}") for number in range(count)]


def _study(accession: str) -> Study:
    uid, series = new_uid(), new_uid()
    made = [dataset(study=uid, series=series, AccessionNumber=accession) for _ in range(SIZE)]
    return Study(uid, accession, tuple(raw(one) for one in made))


class Modality(threading.Thread):
    """Sends the first half of each study, then, once the gate is open, the second half of each."""

    def __init__(self, product: Product, studies: Sequence[Study], gate: threading.Event) -> None:
        super().__init__(daemon=True)
        self._product, self._studies, self._gate = product, studies, gate
        self.statuses: Counter[int | None] = Counter()

    def run(self) -> None:
        self._send(slice(0, SIZE // 2))
        self._gate.wait()
        self._send(slice(SIZE // 2, SIZE))

    def _send(self, half: slice) -> None:
        for study in self._studies:
            sent = send_raw(HOST, self._product.port, study.objects[half])
            self.statuses.update(one.status for one in sent)


@dataclass(frozen=True)
class Whereabouts:
    """Where the ledger says that a study is, and how many of its objects lie at each peer."""

    uid: str
    member: str
    was_moved: bool
    counts: dict[str, int]


def _whereabouts(
    product: Product, peers: Sequence[Storescp], studies: Sequence[Study]
) -> list[Whereabouts]:
    given = {
        report["study_instance_uid"]: report["groups"][0]
        for accession in {one.accession for one in studies}
        for report in product.report(accession)
    }
    files = {peer.name: peer.files().keys() for peer in peers}
    return [
        Whereabouts(
            one.uid,
            given[one.uid]["member"],
            bool(given[one.uid]["before"]),
            {name: len(one.names & there) for name, there in files.items()},
        )
        for one in studies
    ]


def _are_whole(peers: Sequence[Storescp], studies: Sequence[Study]) -> bool:
    have = [peer.files().keys() for peer in peers]
    return all(any(one.names <= there for there in have) for one in studies)


def _is_delivered(product: Product, total: int) -> bool:
    """Whether nothing waits: every object is delivered, wherever its study is."""
    counts = product.counts()
    waiting = ("pending", "leased", "waiting", "parked", "held")
    return counts["acknowledged"] == total and not any(counts[f"items {one}"] for one in waiting)


def test_of_three_peers_one_is_killed_half_way_and_no_study_is_split(
    own: Product, note: Note, rounds: int, tmp_path: Path
) -> None:
    studies = _studies(STUDIES * rounds)
    total = SIZE * len(studies)
    gates = [threading.Event() for _ in range(MODALITIES)]
    gates[0].set()  # one modality sends on; the others have half a study each at the kill
    with ExitStack() as stack:
        peers = [stack.enter_context(Storescp(name, tmp_path / name)) for name in ("a", "b", "c")]
        victim = peers[1]
        places = [peer.destination(retry=["1s"], associations=2) for peer in peers]
        own.apply(_pool(places, kind="balance"))
        began = time.monotonic()
        senders = [
            Modality(own, studies[first::MODALITIES], gate) for first, gate in enumerate(gates)
        ]
        for sender in senders:
            sender.start()
        wait_until(
            lambda: sum(len(peer.files()) for peer in peers) >= total // 2,
            seconds=120 * rounds,
            what="half of all objects arrive",
            every=0.02,
        )
        victim.kill()
        at_victim = len(victim.files())
        for gate in gates:
            gate.set()
        for sender in senders:
            sender.join(120 * rounds)
            assert set(sender.statuses) == {0}
        wait_until(
            partial(_are_whole, peers, studies),
            seconds=60 * rounds,
            what="each study is whole somewhere",
            every=0.5,
        )
        wait_until(
            partial(_is_delivered, own, total), seconds=60 * rounds, what="nothing waits", every=1
        )
        took = time.monotonic() - began
        found = _whereabouts(own, peers, studies)
        for one in found:
            others = {name for name in one.counts if name not in {one.member, victim.name}}
            assert one.counts[one.member] == SIZE, one
            assert all(one.counts[name] == 0 for name in others), one
        _same_bytes({peer.name: peer for peer in peers}, studies, found)
        own.verify("--deep")
        moved = [one for one in found if one.was_moved]
        in_part = [one for one in moved if one.counts[victim.name]]
        assert moved, "nothing was at the peer that was killed"
        assert not any(one.member == victim.name for one in moved)
        shares = Counter(one.member for one in found)
        note(
            f"groups: {len(studies)} studies of {SIZE} objects over 3 peers, one killed with "
            f"{at_victim} of {total} objects: whole at {dict(sorted(shares.items()))} after "
            f"{took:.1f} s; {len(moved)} moved, {len(in_part)} of them sent again in full"
        )
        _comes_back(own, victim)


def _same_bytes(
    peers: Mapping[str, Storescp], studies: Sequence[Study], found: Sequence[Whereabouts]
) -> None:
    """What lies at its member is what was sent, byte for byte."""
    for study, one in zip(studies, found, strict=True):
        files = peers[one.member].files()
        for uid, digest in hashes(study.objects).items():
            assert hashlib.sha256(data_set(files[uid])).hexdigest() == digest


def _comes_back(product: Product, victim: Storescp) -> None:
    """It is asked once a second, and gets its share of new studies again."""
    victim.start()
    wait_until(
        lambda: _new_study(product) <= victim.files().keys(), seconds=60, what="a study of its own"
    )


def _new_study(product: Product) -> set[str]:
    """Send a study and have it delivered; return the names of its objects."""
    (study,) = _studies(1)
    assert {one.status for one in send_raw(HOST, product.port, study.objects)} == {0}
    product.wait_idle()
    return study.names


def test_fail_over_goes_to_the_second_and_returns_to_the_first(
    own: Product, tmp_path: Path
) -> None:
    with Sink(Script(ae_title="FIRST")) as gone:
        port = gone.port
    with Sink(Script(ae_title="SECOND")) as second:
        places = [
            dicom_destination("first", gone, retry=["1s"]),
            dicom_destination("second", second, retry=["1s"]),
        ]
        own.apply(_pool(places, kind="failover"))
        (study,) = _studies(1)
        send_raw(HOST, own.port, study.objects)
        assert second.wait_for(SIZE, 60)
        assert second.hashes() == hashes(study.objects)
        back = Sink(Script(ae_title="FIRST"))
        back.port = port
        with back:
            wait_until(
                lambda: _new_study(own) <= back.hashes().keys(), seconds=60, what="the way back"
            )
    own.verify("--deep")
