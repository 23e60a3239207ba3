"""From samples to rows: ratios against the peers, floors and goals, what limits; as text and JSON.

Floors and goals are those set for the product; the table says for each whether it is met.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.measure import Sample, medians
from bench.processes import BenchError

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
BUSY = 0.85
NEAR = 0.7


@dataclass(frozen=True)
class Target:
    """One row: which metric, against whom, and what is wanted of the ratio or of the value."""

    title: str
    metric: str
    unit: str
    against: str = ""
    floor: float | None = None
    goal: float | None = None
    less_is_better: bool = False


@dataclass(frozen=True)
class Row:
    """One row of the table with its values."""

    title: str
    unit: str
    ours: float
    against: str
    peer: float | None
    ratio: float | None
    floor: float | None
    goal: float | None
    met: str
    limit: str


def _received(kind: str, count: int, floor: float, goal: float) -> Target:
    plural = "s" if count > 1 else ""
    title = f"receive `{kind}`, {count} association{plural}"
    return Target(title, f"receive {kind} {count}", "inst/s", "Orthanc", floor, goal)


TARGETS = (
    _received("ct", 1, 1.8, 3),
    _received("ct", 4, 1.5, 2.5),
    _received("small", 1, 2, 4),
    _received("small", 4, 2, 4),
    Target(
        "receive `ct` as shipped, 1 association", "receive shipped", "inst/s", "Orthanc", 15, 30
    ),
    Target("receive `ct`, 1 association", "receive ct 1", "inst/s", "storescp", 0.35, 0.6),
    Target("receive `ct`, 4 associations", "receive ct 4", "inst/s", "storescp", 0.8, 1.1),
    Target(
        "receive `ct` over TLS, 4 associations", "receive ct tls 4", "inst/s", "Orthanc", 1.3, 2
    ),
    Target("receive `big`", "receive big 1", "MB/s", "Orthanc"),
    Target("receive `big`", "receive big 1", "MB/s", "storescp"),
    Target("forward `ct`, 1 association", "forward ct", "inst/s", "dcmsend", 0.9, 1.5),
    Target("forward `ct`, 1 association", "forward ct", "inst/s", "Orthanc", 1.5, 3),
    Target("forward `ct` to a peer as shipped", "forward shipped", "inst/s", "dcmsend", 20, 60),
    Target("receive → 2 destinations, sustained", "fan-out", "inst/s", "Orthanc", 1.5, 3),
    Target(
        "last byte in → out, 200 images, p95", "latency p95", "s", "", 1.5, 0.5, less_is_better=True
    ),
    Target(
        "last byte in → out, 200 images, p50",
        "latency p50",
        "s",
        "Orthanc",
        None,
        None,
        less_is_better=True,
    ),
    Target("`rules.match`, 20 rules of 6 conditions", "match", "1/s", "", 5000, 20000),
    Target("decided with jobs for 2, studies of 200", "decisions", "inst/s", "", 1000, 2000),
    Target("decided with jobs for 2, studies of 1", "decisions single", "inst/s", "", 1000, 2000),
    Target("peak resident, `big`", "memory big 1", "MiB", "", 150, 100, less_is_better=True),
    Target(
        "peak resident, 4 associations of `ct`",
        "memory ct 4",
        "MiB",
        "",
        150,
        110,
        less_is_better=True,
    ),
    Target(
        "peak resident, `big`", "memory big 1", "MiB", "Orthanc", None, None, less_is_better=True
    ),
    Target(
        "cost an instance, 1 million stored",
        "cost 1M",
        "ms",
        "base",
        1.2,
        1.05,
        less_is_better=True,
    ),
    Target(
        "cost an instance, 10 million stored",
        "cost 10M",
        "ms",
        "base",
        1.2,
        1.05,
        less_is_better=True,
    ),
)


def rows(samples: Sequence[Sample], ceilings: Mapping[str, Any]) -> list[Row]:
    """Return a row for each target that was measured."""
    found = medians(list(samples))
    made = []
    for target in TARGETS:
        ours = found.get((target.metric, "ours"))
        if ours is not None:
            peer = found.get((target.metric, target.against))
            made.append(_row(target, ours, peer, limit_of(target.metric, samples, ceilings)))
    return made


def _row(target: Target, ours: float, peer: float | None, limit: str) -> Row:
    ratio = round(ours / peer, 3) if peer else None
    judged = ratio if target.against else ours
    return Row(
        title=target.title,
        unit=target.unit,
        ours=round(ours, 3),
        against={"base": "10 thousand"}.get(target.against, target.against),
        peer=round(peer, 3) if peer is not None else None,
        ratio=ratio,
        floor=target.floor,
        goal=target.goal,
        met=_met(target, judged),
        limit=limit,
    )


def _met(target: Target, value: float | None) -> str:
    if target.floor is None or target.goal is None:
        return ""
    if value is None:
        return "no peer"
    sign = -1 if target.less_is_better else 1
    if sign * value >= sign * target.goal:
        return "goal"
    return "floor" if sign * value >= sign * target.floor else "NO"


# --- which limit ----------------------------------------------------------------------------------
def limit_of(metric: str, samples: Sequence[Sample], ceilings: Mapping[str, Any]) -> str:
    """Say what the median sample of ours ran into, from what was measured beside it."""
    ours = sorted(
        (s for s in samples if (s.metric, s.who) == (metric, "ours")), key=lambda s: s.value
    )
    if not ours or "cores" not in ours[0].details or metric.startswith("memory"):
        return ""
    middle = ours[len(ours) // 2]
    return "; ".join(_evidence(metric, middle, ceilings))


def _evidence(metric: str, sample: Sample, ceilings: Mapping[str, Any]) -> list[str]:
    cores = sample.details["cores"]
    assert isinstance(cores, dict)
    role, busy = max(cores.items(), key=lambda item: float(item[1]))
    found = []
    if float(busy) >= BUSY:
        found.append(f"interpreter ({role} {busy} cores)")
    machine, count = sample.details.get("machine_cores"), ceilings.get("cores")
    if isinstance(machine, float) and count and machine >= BUSY * count:
        found.append(f"processors ({machine} of {count} busy)")
    found += [*_near(metric, sample.value, ceilings)]
    return found or [f"no ceiling met ({role} {busy} cores)"]


def _near(metric: str, value: float, ceilings: Mapping[str, Any]) -> list[str]:
    """The ceilings of the machine that a rate of `ct` comes near to."""
    if metric not in {"receive ct 1", "receive ct 4", "forward ct"}:
        return []
    associations = "4" if metric.endswith("4") else "1"
    names = {"loopback": "loopback"}
    if metric.startswith("receive"):
        names["flush"] = "disk flush"
    found = []
    for key, word in names.items():
        ceiling = ceilings.get(key, {}).get(associations)
        if ceiling and value / ceiling >= NEAR:
            found.append(f"{word} ({value / ceiling:.0%} of its ceiling)")
    return found


# --- out ------------------------------------------------------------------------------------------
HEADINGS = ("what", "unit", "ours", "peer", "its", "ratio", "floor", "goal", "met", "limit")


def _cells(row: Row) -> list[str]:
    numbers = (row.ours, row.peer, row.ratio, row.floor, row.goal)
    ours, peer, ratio, floor, goal = (_number(value) for value in numbers)
    against = row.against
    return [row.title, row.unit, ours, against, peer, ratio, floor, goal, row.met, row.limit]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def as_text(made: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    table = [list(HEADINGS), *(_cells(row) for row in made)]
    widths = [max(len(line[n]) for line in table) for n in range(len(HEADINGS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table]
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(made: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """Return the table and the machine for the documentation."""
    lines = [_sentence(machine), "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line(_cells(row)) for row in made]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _sentence(machine: Mapping[str, Any]) -> str:
    peers = ", ".join(f"{name} ({text})" for name, text in machine["peers"].items())
    flush, loopback = machine["ceilings"].get("flush"), machine["ceilings"].get("loopback")
    return (
        f"Measured {machine['at']} at commit {machine['commit']} on {machine['database']}, "
        f"{machine['rounds']} rounds, scale {machine['scale']:g}. "
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}, "
        f"load before {machine['load_before'][0]}. "
        f"Peers: {peers}. Ceilings by 1 and 4: durable files of this size {flush} a second, "
        f"sender to sink {loopback} a second."
    )


def write_json(
    folder: Path, made: Sequence[Row], samples: Sequence[Sample], machine: Mapping[str, Any]
) -> Path:
    """Write everything measured; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    day = datetime.fromisoformat(str(machine["at"])).strftime("%Y-%m-%d-%H%M%S")
    path = folder / f"{day}.json"
    content = {
        "machine": dict(machine),
        "rows": [asdict(row) for row in made],
        "samples": [asdict(sample) for sample in samples],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def read_json(paths: Sequence[Path]) -> tuple[list[Sample], dict[str, Any]]:
    """Read results; of a metric measured more than once the last file counts."""
    samples: dict[str, list[Sample]] = {}
    machine: dict[str, Any] = {}
    for path in paths:
        content = json.loads(path.read_text())
        machine = content["machine"]
        fresh: dict[str, list[Sample]] = {}
        for entry in content["samples"]:
            fresh.setdefault(entry["metric"], []).append(Sample(**entry))
        samples |= fresh
    return [sample for group in samples.values() for sample in group], machine


def write_docs(path: Path, table: str) -> None:
    """Put the table between the markers of a page.

    Raises:
        BenchError: the page has no markers.
    """
    text = path.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise BenchError(f"{path} lacks {BEGIN} … {END}")
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text))
