"""The comparison of the three books finds each kind of difference; doubts excuse only doubles."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.faults.books import Arrival, Books, compare
from tests.faults.ledger import Page
from tests.faults.tagged import Tagged, allowed, study

NAMES = ("a", "b", "disk")


@pytest.fixture
def one() -> Tagged:
    """An object for every destination."""
    return study(1, NAMES, random.Random(1))[0]


@pytest.fixture
def books(one: Tagged) -> Books:
    """It was made and acknowledged."""
    return Books({one.uid: one}, Counter([one.uid]))


@pytest.fixture
def page(one: Tagged) -> Page:
    """It is stored and delivered everywhere."""
    states = {(one.uid, name): "delivered" for name in NAMES}
    attempts = Counter({(one.uid, name, "success"): 1 for name in NAMES})
    return Page({one.uid: one.sha256}, states, attempts, 0, {})


@pytest.fixture
def far(one: Tagged) -> dict[str, list[Arrival]]:
    """It is there, everywhere."""
    arrival = Arrival.of(one.uid, one.sha256, one.item.data)
    return {name: [arrival] for name in NAMES}


Far = dict[str, list[Arrival]]


def test_the_tag_says_where_an_object_may_appear() -> None:
    for made in study(20, NAMES, random.Random(2)):
        assert allowed(made.item.data) == made.destinations


def test_equal_books_are_an_account(books: Books, page: Page, far: Far) -> None:
    account = compare(books, page, far)
    assert (account.acknowledged, account.pairs, account.twice) == (1, 3, 0)


def test_finds_what_is_lost(books: Books, page: Page, far: Far) -> None:
    nowhere = {name: list[Arrival]() for name in far}
    with pytest.raises(AssertionError, match="acknowledged and is lost"):
        compare(books, replace(page, stored={}, states={}), nowhere)


def test_finds_what_has_changed(books: Books, page: Page, far: Far, one: Tagged) -> None:
    with pytest.raises(AssertionError, match="changed in the ledger"):
        compare(books, replace(page, stored={one.uid: "0"}), far)
    far["b"] = [replace(far["b"][0], sha256="0")]
    with pytest.raises(AssertionError, match="arrived changed at b"):
        compare(books, page, far)


def test_finds_a_stranger(books: Books, page: Page, far: Far, one: Tagged) -> None:
    elsewhere = replace(one, destinations=frozenset({"b", "disk"}))
    tag = frozenset({"b", "disk"})
    strange = {name: [replace(there[0], allowed=tag)] for name, there in far.items()}
    with pytest.raises(AssertionError, match="stranger at a"):
        compare(replace(books, made={one.uid: elsewhere}), page, strange)


def test_finds_what_was_not_chosen(books: Books, page: Page, far: Far, one: Tagged) -> None:
    states = {pair: state for pair, state in page.states.items() if pair[1] != "a"}
    with pytest.raises(AssertionError, match="was not chosen for a"):
        compare(books, replace(page, states=states), far)


def test_finds_what_is_not_done(books: Books, page: Page, far: Far, one: Tagged) -> None:
    with pytest.raises(AssertionError, match="is parked for a"):
        compare(books, replace(page, states={**page.states, (one.uid, "a"): "parked"}), far)


def test_finds_what_is_said_to_be_there(books: Books, page: Page, far: Far) -> None:
    with pytest.raises(AssertionError, match="delivered to a and not there"):
        compare(books, page, {**far, "a": []})


def test_a_double_needs_a_recorded_doubt(books: Books, page: Page, far: Far, one: Tagged) -> None:
    far["a"] = far["a"] * 2
    with pytest.raises(AssertionError, match="came 2 times to a"):
        compare(books, page, far)
    doubted = replace(page, attempts=page.attempts + Counter({(one.uid, "a", "unknown"): 1}))
    assert compare(books, doubted, far).twice == 1
    with pytest.raises(AssertionError, match="came 2 times to b"):
        compare(books, doubted, {**far, "b": far["b"] * 2})
