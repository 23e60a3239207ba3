"""Limits on connections, over all processes of a receiver."""

import os
import socket
from collections.abc import Iterator

import pytest

from ingest.guard import REJECT_LIMIT, ConnectionTable, Turnstile


@pytest.fixture
def table() -> Iterator[ConnectionTable]:
    table = ConnectionTable(most=4, most_per_address=2)
    yield table
    table.close()


def test_limits_per_address_and_in_all(table: ConnectionTable) -> None:
    first = table.acquire("10.0.0.1")
    assert table.acquire("::ffff:10.0.0.1") is not None
    assert table.acquire("10.0.0.1") is None
    assert None not in (table.acquire("10.0.0.2"), table.acquire("fe80::1%eth0"))
    assert table.acquire("10.0.0.3") is None
    assert first is not None
    table.release(first)
    assert table.acquire("10.0.0.3") == first
    assert len(table) == 4


def test_processes_share_the_table_and_the_dead_are_forgotten(table: ConnectionTable) -> None:
    pid = os.fork()
    if not pid:
        table.acquire("10.0.0.1")
        table.acquire("10.0.0.1")
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(table) == 2
    assert table.acquire("10.0.0.1") is None
    table.forget(pid)
    assert table.acquire("10.0.0.1") is not None
    assert len(table) == 1


def test_who_is_turned_away_can_read_why() -> None:
    near, far = socket.socketpair()
    turnstile = Turnstile()
    far.sendall(b"A-ASSOCIATE-RQ")
    turnstile.turn_away(near)
    turnstile.close_due()
    assert far.recv(100) == REJECT_LIMIT
    assert far.recv(100) == b""
    turnstile.close()
    far.close()


def test_those_who_have_gone_do_not_matter() -> None:
    near, far = socket.socketpair()
    far.close()
    turnstile = Turnstile()
    turnstile.turn_away(near)
    turnstile.close()
    assert near.fileno() == -1


def test_who_rests_longest_is_asked_to_give_way_once() -> None:
    table = ConnectionTable(most=3, most_per_address=3)
    busy, first, second = (table.acquire(host) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert busy is not None
    assert first is not None
    assert second is not None
    table.rest(first)
    table.rest(second)
    assert not table.ask_idlest("10.0.0.1", resting=0.0)
    assert not table.ask_idlest(None, resting=60.0)
    assert table.ask_idlest(None, resting=0.0)
    assert [table.is_to_give_way(slot) for slot in (busy, first, second)] == [False, True, False]
    table.stir(first)
    assert not table.is_to_give_way(first)
    assert table.ask_idlest("10.0.0.3", resting=0.0)
    assert not table.ask_idlest(None, resting=0.0)
    table.release(second)
    assert not table.is_to_give_way(second)
    table.close()
