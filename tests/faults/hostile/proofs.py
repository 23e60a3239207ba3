"""The hostile proofs as `make prove` runs them: each case returns its figures, or fails with them.

Cases of one kind differ by their seed. They know no database: the receiver has none.
"""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.hostile import crowd, files, guided, secure
from tests.faults.hostile.attack import Findings, attack, left_behind
from tests.faults.hostile.mutation import sequence
from tests.faults.hostile.target import Target, attacked, certify

Figures = dict[str, object]

# A case of each; the counts of the issue are those of all cases together.
SEQUENCES = int(os.environ.get("HOSTILE_SEQUENCES", "10000"))
FILES = int(os.environ.get("HOSTILE_FILES", "1000"))
PEERS = int(os.environ.get("HOSTILE_PEERS", "300"))
CROWD_SECONDS = float(os.environ.get("HOSTILE_SECONDS", "30"))
GUIDED_SECONDS = int(os.environ.get("HOSTILE_GUIDED_SECONDS", "60"))
SILENT_PEERS, HANDSHAKES = 100, 50


def once(*names: str) -> Callable[[str], Sequence[str]]:
    """Names of cases that are run on one database only, since they use none."""
    return lambda database: names if database == "sqlite" else ()


def pdu(folder: Path, _database: str, _name: str, seed: int) -> Figures:
    """Broken PDU sequences."""
    with attacked(folder) as target:
        some = (sequence(f"{seed}:{number}") for number in range(SEQUENCES))
        return _judged(attack(target, some, workers=12))


def data_sets(folder: Path, _database: str, _name: str, seed: int) -> Figures:
    """Data sets made at random."""
    with attacked(folder, **files.PATIENCE) as target:
        return _judged(files.fuzz(target, count=FILES, number=seed, weighs=True))


def peers(folder: Path, _database: str, _name: str, _seed: int) -> Figures:
    """A crowd of slow and silent peers with an honest sender (R28), and what it leaves behind."""
    with attacked(folder, **crowd.PATIENCE, **crowd.LIMITS) as target:
        before = _Before(target)
        found = crowd.measure(target, peers=PEERS, within=PEERS // 3, seconds=CROWD_SECONDS)
        problems = before.problems()
    assert not problems, f"{problems} {found}"
    assert found["echo_p95"] < 1, found
    assert found["store_drop"] < 0.2, found
    return dict(found)


def silent_tls(folder: Path, _database: str, _name: str, _seed: int) -> Figures:
    """Handshakes among silent TLS clients (R29)."""
    certify(folder)
    with attacked(folder, **secure.PATIENCE) as target:
        secure.greet(target)
        before = _Before(target)
        with secure.silence(target, SILENT_PEERS):
            times = [secure.greet(target) for _ in range(HANDSHAKES)]
        problems = before.problems()
    figures: Figures = {
        "silent": SILENT_PEERS,
        "handshakes": len(times),
        "handshake_median": round(statistics.median(times), 4),
        "handshake_worst": round(max(times), 4),
    }
    assert not problems, f"{problems} {figures}"
    assert max(times) < 1, figures
    return figures


def crowded(folder: Path, database: str, name: str, seed: int) -> Figures:
    """The crowd on the plain or on the TLS port."""
    return (silent_tls if name.endswith("TLS") else peers)(folder, database, name, seed)


def coverage_guided(_folder: Path, _database: str, name: str, _seed: int) -> Figures:
    """One decoder under atheris."""
    return guided.hunt(name, seconds=GUIDED_SECONDS)


class _Before:
    """What a target held before; afterwards it holds no more, within a minute (R26)."""

    def __init__(self, target: Target) -> None:
        for _ in range(100):
            assert target.is_healthy()
        self._target = target
        self._threads, self._descriptors = target.threads(), target.descriptors()

    def problems(self) -> list[str]:
        target = self._target
        found = [target.errors()] if target.errors() else []
        return found + target.strangers() + left_behind(
            target, threads=self._threads, descriptors=self._descriptors
        )  # fmt: skip


def _judged(findings: Findings) -> Figures:
    assert not findings.problems, json.dumps(vars(findings))
    of_the_case = {"problems", "seconds"}  # the line says these itself
    return {name: value for name, value in vars(findings).items() if name not in of_the_case}
