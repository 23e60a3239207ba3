"""`make bench`: measure the product beside Orthanc and DCMTK, print and keep the table.

Options go through `make bench ARGS="…"`. Only loopback is used, every loop has an end, and every
process that was started is ended, whatever happens.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import deciding, forward, growth, machine, measure, processes, receive, report
from bench.measure import Bench
from bench.product import Installation

SECTIONS: dict[str, Callable[[Bench], None]] = {
    "receive": receive.run,
    "receive-shipped": receive.run_as_shipped,
    "forward": forward.run,
    "forward-shipped": forward.run_as_shipped,
    "fan-out": forward.run_fan_out,
    "latency": forward.run_latency,
    "match": deciding.run_match,
    "decisions": deciding.run_decisions,
}
DOCS = processes.ROOT / "docs" / "performance.md"
RESULTS = processes.ROOT / "bench" / "results"


def main() -> int:
    """Run what was asked for."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.report:
        samples, described = report.read_json(options.report)
        return _finish(options, samples, described)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=options.work))
    try:
        return _measure(options, folder)
    finally:
        processes.end_all()
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    names = ", ".join(SECTIONS)
    parser.add_argument("--only", default="", metavar="A,B", help=f"of: {names}")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the objects (1.0)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved (3)")
    parser.add_argument("--database", metavar="URL", help="a PostgreSQL server (SQLite)")
    parser.add_argument("--rows", default="", metavar="N,N", help="cost at so many rows stored")
    parser.add_argument("--write-docs", action="store_true", help="put the table into the page")
    parser.add_argument("--report", type=Path, nargs="+", help="tabulate results, measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--work", metavar="DIR", help="where everything is stored meanwhile")
    parser.add_argument("--keep", action="store_true", help="keep that folder and its logs")
    options = parser.parse_args()
    options.only = [name for name in options.only.split(",") if name]
    options.rows = [int(number) for number in options.rows.split(",") if number]
    unknown = set(options.only) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {names}")
    if options.write_docs and options.scale != 1.0:
        parser.error("--write-docs is for whole measurements (--scale 1)")
    return options


def _measure(options: argparse.Namespace, folder: Path) -> int:
    database = "PostgreSQL" if options.database else "SQLite"
    described = machine.describe(database) | {"rounds": options.rounds, "scale": options.scale}
    print(f"{described['cpu']}, {described['cores']} cores, {database}; {folder}", flush=True)
    installation = Installation(folder / "installations", options.database)
    bench = Bench(folder, installation, options.scale, options.rounds, database)
    try:
        _run(bench, options)
    finally:
        installation.close()
    described |= {"ceilings": bench.ceilings, "problems": bench.problems}
    described["load_after"] = machine.load()
    return _finish(options, bench.samples, described)


def _run(bench: Bench, options: argparse.Namespace) -> None:
    """Run the sections; one that fails is noted and the others go on."""
    wanted = options.only or ([] if options.rows else list(SECTIONS))
    if {"receive", "forward"} & set(wanted):
        _find_ceilings(bench)
    steps = [(name, SECTIONS[name]) for name in SECTIONS if name in wanted]
    if options.rows:
        steps.append(("rows", lambda one: growth.run(one, options.rows)))
    for name, step in steps:
        print(name, flush=True)
        try:
            step(bench)
        except (processes.BenchError, OSError, subprocess.SubprocessError) as error:
            bench.problems.append(f"{name}: {error}")
            print(f"    FAILED: {error}", flush=True)


def _find_ceilings(bench: Bench) -> None:
    ct = bench.objects("ct")
    size = ct.files[0].stat().st_size
    described = machine.describe("")
    bench.ceilings |= {
        "cores": described["cores"],
        "flush": machine.flush_ceilings(bench.folder, size),
        "loopback": machine.loopback_ceilings(bench.folder, ct, run=bench.next_run()),
        "hash_mb": machine.hash_ceiling(),
    }
    print(f"ceilings {bench.ceilings}", flush=True)


def _finish(
    options: argparse.Namespace, samples: list[measure.Sample], described: dict[str, object]
) -> int:
    ceilings = described["ceilings"]
    assert isinstance(ceilings, dict)
    made = report.rows(samples, ceilings)
    print("\n" + report.as_text(made))
    if not options.report:
        print(f"\nwritten: {report.write_json(options.results, made, samples, described)}")
    if options.write_docs:
        report.write_docs(DOCS, report.as_markdown(made, described))
    problems = described.get("problems")
    if isinstance(problems, list) and problems:
        print("problems:", *problems, sep="\n- ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
