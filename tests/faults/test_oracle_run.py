"""The drawn rules are lawful and say something, and the draw can be repeated."""

import random

import yaml

from router.config import schema
from tests.faults.oracle_run import NAMES, configuration, study
from tests.oracle import destinations_of
from tests.product import Config


def _drawn(seed: int) -> Config:
    destinations = [{"name": name, "kind": "folder", "path": f"/out/{name}"} for name in NAMES]
    return configuration(destinations, random.Random(seed))


def test_drawn_configurations_are_lawful() -> None:
    for seed in range(30):
        drawn = _drawn(seed)
        assert 10 <= len(drawn["rules"]) <= 20
        schema.load(yaml.safe_dump(drawn))


def test_the_draw_can_be_repeated() -> None:
    assert _drawn(7) == _drawn(7)
    assert _drawn(7) != _drawn(8)


def test_some_objects_go_to_some_and_not_to_all() -> None:
    chance = random.Random(3)
    objects = [one for _ in range(20) for one in study(5, chance)]
    sums = [
        sum(len(destinations_of(one.ds, one.facts, _drawn(seed))) for one in objects)
        for seed in range(10)
    ]
    assert all(found > 0 for found in sums)
    assert min(sums) < len(objects) * len(NAMES)
