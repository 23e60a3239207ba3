"""What one hostile connection may cost in memory, whatever it sends (R26)."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.hostile.attack import play
from tests.faults.hostile.corpus import RQ
from tests.faults.hostile.mutation import Sequence
from tests.faults.hostile.sessions import (
    MR,
    associate,
    command,
    element,
    pdata,
    pdv,
    store,
)
from tests.faults.hostile.target import HOST, Target, attacked
from tests.faults.hostile.test_bombs import bomb
from tests.receivers import EXPLICIT_LITTLE
from tests.senders import send_raw

MIB = 1 << 20
MOST = 8 * MIB  # R26 allows 32
WIDE = ((MR, (EXPLICIT_LITTLE,) * 20),) * 120  # contexts that fill 64 KiB


def raw(*pdus: bytes) -> Callable[[Target], object]:
    return lambda target: play(target.port, Sequence("", pdus))


def deflated(target: Target) -> None:
    assert [sent.status for sent in send_raw(HOST, target.port, [bomb(300 * MIB)])] == [0]


HABITS: dict[str, Callable[[Target], object]] = {
    "a PDU of 4 GiB": raw(RQ, b"\x04\x00\xff\xff\xff\xff", *[bytes(MIB)] * 64),
    "a request of 4 GiB": raw(b"\x01\x00\xff\xff\xff\xff", *[bytes(MIB)] * 64),
    "a request as long as may be": raw(associate(contexts=WIDE)),
    "an endless command": raw(RQ, *[pdata(pdv(1, 1, bytes(60000)))] * 200),
    "a command of many elements": raw(
        RQ, pdata(pdv(1, 3, command(*[element(n, b"") for n in range(1, 8000)])))
    ),
    "endless empty items": raw(RQ, *[pdata(*[pdv(1, 1, b"")] * 20000)] * 20),
    "an endless data set": raw(RQ, store(1)[0], *[pdata(pdv(3, 0, bytes(60000)))] * 1500),
    "a deflate bomb": deflated,
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("target")) as target:
        for _ in range(5):
            assert target.is_healthy()
        yield target


@pytest.mark.parametrize("habit", HABITS)
def test_one_connection_costs_little(target: Target, habit: str) -> None:
    target.forget_peak()
    before = target.peak()
    HABITS[habit](target)
    assert target.is_healthy()
    assert target.peak() - before < MOST
    assert target.errors() == ""
