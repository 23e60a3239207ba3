"""What every measurement shares: the folder, the objects, the order of rounds, the samples."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import machine, objects, peers
from bench.objects import Objects
from bench.processes import Usage
from bench.product import Installation, Product


@dataclass(frozen=True)
class Sample:
    """One measured value with how it came about."""

    metric: str
    who: str
    value: float
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Bench:
    """One run of the bench."""

    folder: Path
    installation: Installation
    scale: float
    rounds: int
    database: str
    samples: list[Sample] = field(default_factory=list)
    ceilings: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _objects: dict[str, Objects] = field(default_factory=dict)
    _run: int = 0

    def objects(self, kind: str) -> Objects:
        """Return the objects of a kind, made when first asked for."""
        if kind not in self._objects:
            self._objects[kind] = objects.make(
                kind, self.folder / "objects" / kind, scale=self.scale
            )
        return self._objects[kind]

    def next_run(self) -> int:
        """Return the number of a run nobody has seen."""
        self._run += 1
        return self._run

    def place(self, name: str) -> Path:
        """Return a path for a peer's folder that nothing has used."""
        return self.folder / f"{name}{self.next_run()}"

    def note(self, metric: str, who: str, value: float, **details: object) -> None:
        """Keep a value and say it."""
        self.samples.append(Sample(metric, who, value, details))
        print(f"    {metric:<24} {who:<10} {value:10.2f}", flush=True)

    def installed(self, *names: str) -> list[str]:
        """Return which of the peers are there."""
        return [name for name in names if peers.installed(name)]

    def interleaved(self, names: list[str]) -> Iterator[str]:
        """Yield the names A B C A B C …, each after the machine has settled."""
        for _ in range(self.rounds):
            for name in names:
                machine.settle()
                yield name

    def receiver(self, name: str) -> peers.Receiver:
        """Return a fresh receiver by name."""
        makers: dict[str, Callable[[], peers.Receiver]] = {
            "ours": lambda: Product(self.installation),
            "Orthanc": lambda: peers.Orthanc(self.place("orthanc")),
            "storescp": lambda: peers.Storescp(self.place("storescp")),
        }
        return makers[name]()


def medians(samples: list[Sample]) -> dict[tuple[str, str], float]:
    """Return the median of each metric of each one measured."""
    found: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        found.setdefault((sample.metric, sample.who), []).append(sample.value)
    return {key: statistics.median(values) for key, values in found.items()}


def used(usage: Usage) -> dict[str, object]:
    """Return what processes used, for the record."""
    peaks = {role: round(value, 1) for role, value in usage.peak_mib.items()}
    return {"cores": usage.cores(), "peak_mib": peaks, "seconds": round(usage.seconds, 3)}


def as_records(samples: list[Sample]) -> list[dict[str, object]]:
    """Return samples in JSON's types."""
    return [asdict(sample) for sample in samples]
