"""The fuzzers in their short form; `python -m tests.faults.hostile.attack` is the long one."""

import os
from pathlib import Path

from tests.faults.hostile.attack import attack
from tests.faults.hostile.files import PATIENCE, fuzz
from tests.faults.hostile.mutation import sequence
from tests.faults.hostile.target import attacked

SEQUENCES = int(os.environ.get("HOSTILE_SEQUENCES", "400"))
FILES = int(os.environ.get("HOSTILE_FILES", "150"))


def test_broken_sessions_do_no_harm(tmp_path: Path) -> None:
    with attacked(tmp_path) as target:
        sequences = (sequence(f"suite:{number}") for number in range(SEQUENCES))
        findings = attack(target, sequences, weighs=False)
    assert findings.problems == []
    assert findings.sequences == SEQUENCES
    assert findings.answers["2-4"] + findings.answers["2-6"] > 0  # some get as far as an answer


def test_a_seed_gives_the_same_sequence_for_ever() -> None:
    assert sequence("1:2") == sequence("1:2")
    assert len({sequence(f"x:{number}").pdus for number in range(100)}) > 90


def test_data_sets_made_at_random_do_no_harm(tmp_path: Path) -> None:
    with attacked(tmp_path, **PATIENCE) as target:
        findings = fuzz(target, count=FILES, number=0)
    assert findings.problems == []
    assert findings.answers["0000"] > 0
