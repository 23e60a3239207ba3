"""The bench works: its objects, its sender and sink, its rows and its report; no times."""

from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from bench import objects, processes, report, routing
from bench.forward import percentile
from bench.measure import Sample
from bench.sender import send
from bench.sink import Sink
from router.config import schema
from router.models import Attempt, Destination, Instance, JobItem, Receipt, RoutingMark, Study

MACHINE = {
    "at": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "database": "SQLite",
    "rounds": 3,
    "scale": 1.0,
    "cores": 2,
    "cpu": "some",
    "memory_gib": 8.0,
    "kernel": "6",
    "python": "3.11",
    "load_before": [0.0, 0.0, 0.0],
    "peers": {"Orthanc": "1"},
    "ceilings": {"cores": 2, "flush": {"1": 400.0}, "loopback": {"1": 5000.0}},
}


def sample(metric: str, who: str, value: float, **details: object) -> Sample:
    """Return a sample as a measurement would have noted it."""
    return Sample(metric, who, value, details)


class TestObjects:
    @pytest.mark.parametrize(
        ("kind", "frames", "sides"), [("ct", None, {512}), ("small", None, {256, 128})]
    )
    def test_images_are_distinct_and_of_their_kind(
        self, tmp_path: Path, kind: str, frames: int | None, sides: set[int]
    ) -> None:
        made = objects.make(kind, tmp_path, scale=0.001)
        found = [dcmread(path) for path in made.files]
        assert len({ds.SOPInstanceUID for ds in found}) == len(found) == 4
        assert {ds.Rows for ds in found} == sides
        assert all(len(ds.PixelData) == 2 * ds.Rows * ds.Columns for ds in found)
        assert made.size == sum(path.stat().st_size for path in made.files)

    def test_the_big_one_has_many_frames(self, tmp_path: Path) -> None:
        (path,) = objects.make("big", tmp_path, scale=0.003).files
        ds = dcmread(path)
        assert ds.NumberOfFrames == 3
        assert len(ds.PixelData) == 3 * objects.FRAME_BYTES

    def test_another_run_has_other_uids_of_the_same_length(self, tmp_path: Path) -> None:
        made = objects.make("ct", tmp_path / "a", scale=0.001)
        again = objects.write_run(made, tmp_path / "b", 7)
        for first, second in zip(map(dcmread, made.files), map(dcmread, again.files), strict=True):
            assert first.PixelData == second.PixelData
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                assert first[keyword].value != second[keyword].value
            assert second.file_meta.MediaStorageSOPInstanceUID == second.SOPInstanceUID

    def test_shares_hold_every_file_once(self, tmp_path: Path) -> None:
        made = objects.make("small", tmp_path, scale=0.007)
        shares = made.shares(4)
        assert [name for share in shares for name in share] == [str(path) for path in made.files]
        assert len(shares) == 4


class TestWire:
    def test_the_sink_counts_what_the_sender_sends(self, tmp_path: Path) -> None:
        made = objects.make("small", tmp_path / "objects", scale=0.008)
        with Sink(tmp_path) as sink:
            sent = send(sink.port, "SINK", made.shares(2), 1)
            assert (sent.count, sent.failed, sink.count()) == (8, 0, 8)
            assert sink.first() <= sink.last_byte() <= sink.last_answer()
            assert sent.started <= sent.last_byte <= sent.finished
            sink.clear()
            assert sink.count() == 0
            send(sink.port, "SINK", made.shares(1), 2)
            assert sink.count() == 8
            child = sink.child
        assert child.poll() is not None

    def test_a_silent_child_is_an_error_and_ends(self) -> None:
        child = processes.start(["sleep", "60"], piped=True)
        with pytest.raises(processes.BenchError, match="said nothing"):
            processes.read_line(child, 0.05)
        processes.end(child)
        assert child.poll() is not None

    def test_watching_names_the_roles(self) -> None:
        child = processes.start(["sleep", "60"])
        with processes.watched([child]) as usage:
            pass
        processes.end(child)
        assert list(usage.cpu) == ["sleep"]
        assert usage.peak_mib["sleep"] > 0

    def test_what_has_ended_does_not_stop_the_watching(self) -> None:
        line = "sleep 0 & echo $!; exec sleep 60"
        child = processes.start(["sh", "-c", line], piped=True)
        ended = psutil.Process(int(processes.read_line(child, 10)))
        processes.wait_until(lambda: ended.status() == psutil.STATUS_ZOMBIE, 10, "its end")
        assert processes.role_of(ended) == "sleep"
        with processes.watched([child]) as usage:
            pass
        processes.end(child)
        assert "sleep" in usage.cpu
        assert processes.role_of(ended) in {"sleep", processes.ENDED}


class TestRouting:
    def test_the_configuration_is_a_valid_one(self) -> None:
        document = schema.load(routing.document([4242, 4243]))
        assert len(document.rules) == routing.RULES
        assert [rule.send for rule in document.rules][-1] == ("sink0", "sink1")

    def test_every_rule_has_its_own_conditions(self) -> None:
        conditions = [
            str(condition)
            for rule in routing.rules(["a"])
            if isinstance(when := rule["when"], dict)
            for condition in when["all"]
        ]
        assert len(set(conditions)) == len(conditions) == routing.RULES * routing.CONDITIONS


@pytest.mark.django_db(transaction=True)
def test_generated_rows_make_a_ledger() -> None:
    from bench import rows

    Destination.objects.create(name="sink0", kind="dicom")
    rows.fill(count=200)
    counts = [model.objects.count() for model in (Study, Instance, Receipt, JobItem, Attempt)]
    assert counts == [2, 200, 200, 200, 200]
    assert not RoutingMark.objects.undecided().exists()
    assert Instance.objects.values("sop_instance_uid").distinct().count() == 200
    newest = Study.objects.latest("pk").pk
    assert Study.objects.create(
        study_instance_uid="1.2.3",
        first_received_at="2026-01-01T00:00:00Z",
        last_received_at="2026-01-01T00:00:00Z",
    ).pk > newest  # fmt: skip
    with pytest.raises(ValueError, match="empty"):
        rows.fill(count=200)


class TestReport:
    @pytest.mark.parametrize(
        ("ours", "peer", "met"), [(30, 10, "goal"), (20, 10, "floor"), (10, 10, "NO")]
    )
    def test_a_rate_is_judged_by_its_ratio(self, ours: float, peer: float, met: str) -> None:
        samples = [sample("fan-out", "ours", ours), sample("fan-out", "Orthanc", peer)]
        (row,) = report.rows(samples, {})
        assert (row.ratio, row.met) == (ours / peer, met)

    @pytest.mark.parametrize(("value", "met"), [(0.4, "goal"), (1.0, "floor"), (2.0, "NO")])
    def test_a_time_is_judged_by_its_value(self, value: float, met: str) -> None:
        (row,) = report.rows([sample("latency p95", "ours", value)], {})
        assert (row.ours, row.met) == (value, met)

    def test_a_missing_peer_is_said(self) -> None:
        (row,) = report.rows([sample("fan-out", "ours", 5.0)], {})
        assert (row.peer, row.met) == (None, "no peer")

    def test_the_median_counts(self) -> None:
        samples = [sample("match", "ours", value) for value in (1.0, 30_000.0, 6_000.0)]
        (row,) = report.rows(samples, {})
        assert (row.ours, row.met) == (6_000.0, "floor")

    def test_limits_carry_their_evidence(self) -> None:
        cores = {"receiver": 0.95, "web": 0.0}
        one = sample("receive ct 1", "ours", 390.0, cores=cores, machine_cores=1.9)
        limit = report.limit_of("receive ct 1", [one], MACHINE["ceilings"])  # type: ignore[arg-type]
        assert "interpreter (receiver 0.95 cores)" in limit
        assert "processors (1.9 of 2 busy)" in limit
        assert "disk flush (98% of its ceiling)" in limit
        assert "loopback" not in limit

    def test_results_survive_the_file_and_reach_the_page(self, tmp_path: Path) -> None:
        samples = [sample("fan-out", "ours", 30.0), sample("fan-out", "Orthanc", 10.0)]
        made = report.rows(samples, {})
        path = report.write_json(tmp_path, made, samples, MACHINE)
        again, machine = report.read_json([path])
        assert report.rows(again, machine["ceilings"]) == made
        page = tmp_path / "page.md"
        page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
        report.write_docs(page, report.as_markdown(made, machine))
        text = page.read_text()
        assert "old" not in text
        assert "| 30 | Orthanc | 10 | 3 | 1.5 | 3 | goal |" in text
        assert text.startswith("before\n")
        assert text.endswith("after\n")

    def test_a_page_without_markers_is_refused(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("nothing")
        with pytest.raises(processes.BenchError, match="lacks"):
            report.write_docs(page, "table")

    def test_the_page_of_the_project_has_the_markers(self) -> None:
        text = (processes.ROOT / "docs" / "performance.md").read_text()
        assert text.index(report.BEGIN) < text.index(report.END)

    def test_every_row_of_the_table_is_one_line(self) -> None:
        text = report.as_text(report.rows([sample("match", "ours", 5.0)], {}))
        assert len(text.splitlines()) == 2


def test_percentiles_are_nearest_rank() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(n) for n in range(1, 21)], 95) == 19.0
