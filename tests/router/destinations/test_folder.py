"""The kind `folder` on a real file system: layout, collisions, links, full disks, stops."""

import dataclasses
import errno
import hashlib
import os
import resource
import signal
from pathlib import Path

import pytest

from router.destinations import KINDS, folder, placing
from router.destinations.base import Confirming, Context, Outgoing, Result, Sender
from router.destinations.outcomes import Outcome
from router.dicom import part10
from tests.router.destinations.objects import EXPLICIT, IMPLICIT, made, real_files, stored

BY_PATIENT = "{PatientID}/{StudyInstanceUID}/{SOPInstanceUID}.dcm"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def kept_in(tmp_path: Path) -> Path:
    path = tmp_path / "stored"
    path.mkdir()
    return path


def sender(root: Path, **settings: object) -> Sender:
    form = KINDS["folder"].form({"path": str(root)} | settings)
    assert form.is_valid(), form.errors
    return KINDS["folder"].sender(form.cleaned_data)


def send(root: Path, items: list[Outgoing], **settings: object) -> list[Result]:
    results = list(sender(root, **settings).send(items, Context()))
    assert [result.item_id for result in results] == [item.item_id for item in items]
    return results


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def _content(path: Path) -> tuple[str, str]:
    """Return transfer syntax and hash of the data set of a file with a preamble of zeros."""
    written = path.read_bytes()
    assert written[:132] == bytes(128) + b"DICM"
    with path.open("rb") as file:
        meta = part10.read_meta(file)
    return meta.transfer_syntax, hashlib.sha256(written[meta.offset :]).hexdigest()


class TestWriting:
    def test_every_real_file_is_written_byte_for_byte(self, root: Path, kept_in: Path) -> None:
        items = [stored(p, kept_in, item_id=n) for n, p in enumerate(real_files(), 1)]
        results = send(root, items, layout="{SOPInstanceUID}.dcm")
        assert {result.outcome for result in results} == {Outcome.DELIVERED}
        assert [result.egress_sha256 for result in results] == [item.sha256 for item in items]
        expected = {(item.transfer_syntax, item.sha256) for item in items}
        assert {_content(root / name) for name in files(root)} == expected

    def test_modes_are_exact_whatever_the_umask(self, root: Path, kept_in: Path) -> None:
        before = os.umask(0o077)
        try:
            send(root, [made(kept_in)], mode="0644", layout="a/{SOPInstanceUID}.dcm")
        finally:
            os.umask(before)
        [name] = files(root)
        assert (root / name).stat().st_mode & 0o777 == 0o644
        assert (root / "a").stat().st_mode & 0o777 == 0o755

    def test_follows_the_layout(self, root: Path, kept_in: Path) -> None:
        send(root, [made(kept_in)], layout="{ReceivedDate}/{Source}/{StudyDate}/{Modality}.dcm")
        assert files(root) == ["20261120/ct-1/20260102/CT.dcm"]


class TestCollisions:
    def test_the_same_bytes_again_are_delivered_once(self, root: Path, kept_in: Path) -> None:
        item = made(kept_in)
        [first], [second] = send(root, [item]), send(root, [item])
        assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.DELIVERED)
        assert len(files(root)) == 1
        assert second.bytes_sent == 0

    def test_other_bytes_get_a_number_and_a_warning(self, root: Path, kept_in: Path) -> None:
        layout = "{StudyInstanceUID}.dcm"
        items = [made(kept_in, item_id=n) for n in (1, 2, 3)]
        results = send(root, items, layout=layout)
        assert [r.outcome for r in results] == ["delivered", "warning", "warning"]
        assert files(root) == ["1.2.3.1-2.dcm", "1.2.3.1-3.dcm", "1.2.3.1.dcm"]
        assert results[1].warnings
        again = send(root, items, layout=layout)
        assert [r.outcome for r in again] == ["delivered", "warning", "warning"]
        assert len(files(root)) == 3

    def test_another_transfer_syntax_is_other_bytes(self, root: Path, kept_in: Path) -> None:
        item = made(kept_in, syntax=EXPLICIT)
        other = dataclasses.replace(item, transfer_syntax=IMPLICIT)
        [first, second] = send(root, [item, other], layout="x.dcm")
        assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.WARNING)

    def test_a_file_that_is_no_dicom_is_left_alone(self, root: Path, kept_in: Path) -> None:
        (root / "x.dcm").write_bytes(b"mine")
        [result] = send(root, [made(kept_in)], layout="x.dcm")
        assert result.outcome == Outcome.WARNING
        assert (root / "x.dcm").read_bytes() == b"mine"
        assert files(root) == ["x-2.dcm", "x.dcm"]

    @pytest.mark.parametrize(
        ("name", "second"),
        [
            ("a.dcm", "a-2.dcm"),
            ("1.2.840", "1.2.840-2"),
            ("1.2.3.dcm", "1.2.3-2.dcm"),
            ("a", "a-2"),
        ],
    )
    def test_the_number_stands_before_the_suffix(self, name: str, second: str) -> None:
        first, following, *_ = placing.versions(name)
        assert (first, following) == (name, second)


class TestConfinement:
    @pytest.mark.parametrize(
        "value", ["../../x", "..", "/etc/passwd", "a/b", ".", "", "\\..\\x", "..\\..", "x" * 70]
    )
    def test_received_text_cannot_leave_the_root(
        self, root: Path, kept_in: Path, value: str
    ) -> None:
        item = made(kept_in, PatientID=value, StudyInstanceUID="../../../x")
        [result] = send(root, [item], layout=BY_PATIENT)
        assert result.outcome == Outcome.DELIVERED
        [name] = files(root)
        assert len(Path(name).parts) == 3
        assert [path.name for path in sorted(root.parent.iterdir())] == ["out", "stored"]

    def test_a_link_out_of_the_root_is_not_followed(
        self, root: Path, kept_in: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (root / "P1").symlink_to(outside)
        items = [made(kept_in, item_id=1), made(kept_in, item_id=2, PatientID="P2")]
        results = send(root, items, layout=BY_PATIENT)
        assert [r.outcome for r in results] == ["configuration", "delivered"]
        assert results[0].lane is None
        assert list(outside.iterdir()) == []

    def test_a_link_within_the_root_is_followed(self, root: Path, kept_in: Path) -> None:
        (root / "real" / "deep").mkdir(parents=True)
        (root / "P1").symlink_to(root / "real" / "deep")
        [result] = send(root, [made(kept_in)], layout="{PatientID}/x.dcm")
        assert result.outcome == Outcome.DELIVERED
        assert (root / "real" / "deep" / "x.dcm").is_file()

    def test_a_link_in_the_place_of_the_file_is_left_alone(
        self, root: Path, kept_in: Path, tmp_path: Path
    ) -> None:
        (root / "x.dcm").symlink_to(tmp_path / "elsewhere")
        [result] = send(root, [made(kept_in)], layout="x.dcm")
        assert result.outcome == Outcome.WARNING
        assert not (tmp_path / "elsewhere").exists()
        assert files(root) == ["x-2.dcm", "x.dcm"]

    @pytest.mark.parametrize("parts", [("..",), ("a", ".."), ("",), ("a/b",), ("a\0",), (".",)])
    def test_the_walk_takes_plain_names_only(self, root: Path, parts: tuple[str, ...]) -> None:
        with pytest.raises(placing.Outside), placing.folder(root, parts, mode=0o750):
            pass

    def test_a_file_in_the_place_of_a_folder(self, root: Path, kept_in: Path) -> None:
        (root / "P1").write_bytes(b"")
        [result] = send(root, [made(kept_in)], layout=BY_PATIENT)
        assert (result.outcome, result.lane) == (Outcome.CONFIGURATION, None)


class TestTrouble:
    @pytest.mark.parametrize("size", [256, 3 << 20])
    def test_what_does_not_match_its_hash_is_not_written(
        self, root: Path, kept_in: Path, size: int
    ) -> None:
        item = dataclasses.replace(made(kept_in, PixelData=bytes(size)), sha256="0" * 64)
        [result] = send(root, [item])
        assert result.outcome == Outcome.DATA_ERROR
        assert files(root) == []

    def test_a_missing_root_is_made(self, root: Path, kept_in: Path) -> None:
        [result] = send(root / "new" / "folder", [made(kept_in)])
        assert result.outcome == "delivered"
        assert len(files(root / "new" / "folder")) == 1

    def test_a_root_that_cannot_be_made_stops_the_lane(self, root: Path, kept_in: Path) -> None:
        (root / "file").write_bytes(b"")
        items = [made(kept_in, item_id=n) for n in (1, 2)]
        results = send(root / "file" / "below", items)
        assert [(r.outcome, r.lane) for r in results] == [("configuration", "configuration")] * 2

    def test_a_file_that_cannot_grow_leaves_nothing(self, root: Path, kept_in: Path) -> None:
        items = [made(kept_in, item_id=n, PixelData=bytes(1 << 20)) for n in (1, 2)]
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            results = list(sender(root).send(items, Context()))
            os.write(tell, ",".join(str(result.outcome) for result in results).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(told, 100) == b"few_tries,few_tries"
        assert files(root) == []
        os.close(told)
        os.close(tell)

    @pytest.mark.parametrize(
        ("number", "outcome", "lane"),
        [
            (errno.ENOSPC, "retry", "transport"),
            (errno.EDQUOT, "retry", "transport"),
            (errno.EIO, "retry", "transport"),
            (errno.ESTALE, "retry", "transport"),
            (errno.EACCES, "configuration", "configuration"),
            (errno.EROFS, "configuration", "configuration"),
            (errno.ENOENT, "configuration", "configuration"),
            (errno.EFBIG, "few_tries", None),
            (errno.ENAMETOOLONG, "data_error", None),
        ],
    )
    def test_system_errors(self, number: int, outcome: str, lane: str | None) -> None:
        assert folder.judge(OSError(number, "")) == (Outcome(outcome), lane)

    def test_a_stop_within_an_object_leaves_nothing(self, root: Path, kept_in: Path) -> None:
        moved: list[int] = []
        items = [made(kept_in, item_id=n, PixelData=bytes(8 << 20)) for n in (1, 2)]
        context = Context(progress=moved.append, abort=lambda: sum(moved) > 2 << 20)
        results = list(sender(root).send(items, context))
        assert [r.outcome for r in results] == ["not_sent", "not_sent"]
        assert files(root) == []

    def test_a_name_is_never_taken_twice(self, root: Path) -> None:
        with placing.folder(root, (), mode=0o750) as opened:
            draft = placing.Draft(opened, mode=0o640)
            draft.write(b"whole")
            draft.publish("x")
            with pytest.raises(FileExistsError):
                draft.publish("x")
            draft.close()
        assert (root / "x").read_bytes() == b"whole"
        assert files(root) == ["x"]


class TestVerify:
    def test_says_what_was_tried(self, root: Path) -> None:
        verification = sender(root).verify()
        assert verification.ok
        assert [step.name for step in verification.steps] == ["folder", "write", "room"]
        assert files(root) == []

    def test_says_that_the_folder_cannot_be_made(self, root: Path) -> None:
        (root / "file").write_bytes(b"")
        [step] = sender(root / "file" / "below").verify().steps
        assert (step.name, step.ok) == ("folder", False)


# --- reading back --------------------------------------------------------------------------------
def confirmed(root: Path, items: list[Outgoing], context: Context | None = None) -> list[str]:
    there = sender(root)
    assert isinstance(there, Confirming)
    answers = list(there.confirm(items, context or Context()))
    assert [answer.item_id for answer in answers] == [item.item_id for item in items]
    assert not any("1.2.3" in answer.detail or "P1" in answer.detail for answer in answers)
    return [answer.state for answer in answers]


def test_what_was_written_is_read_back(root: Path, kept_in: Path) -> None:
    items = [made(kept_in, item_id=number) for number in range(1, 6)]
    send(root, items)
    assert confirmed(root, items) == ["present"] * 5
    first, second, third, *_ = (root / name for name in files(root))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"\1")
    os.truncate(third, 200)
    assert confirmed(root, items) == ["absent", "different", "different", "present", "present"]
    assert files(root) == [str(path.relative_to(root)) for path in sorted(root.rglob("*.dcm"))]


def test_a_number_beside_its_path_is_looked_at_too(root: Path, kept_in: Path) -> None:
    one = made(kept_in, item_id=1)
    other = dataclasses.replace(made(kept_in, item_id=2, PatientID="Q"), item_id=3)
    layout = {"layout": "same.dcm"}
    both = list(sender(root, **layout).send([one, other], Context()))
    assert [result.outcome for result in both] == [Outcome.DELIVERED, Outcome.WARNING]
    there = sender(root, **layout)
    assert isinstance(there, Confirming)
    answers = there.confirm([other, one], Context())
    assert [answer.state for answer in answers] == ["present", "present"]


def test_another_syntax_is_another_object(root: Path, kept_in: Path) -> None:
    item = made(kept_in)
    send(root, [item])
    assert confirmed(root, [dataclasses.replace(item, transfer_syntax=IMPLICIT)]) == ["different"]


def test_a_folder_that_is_not_there_says_nothing(root: Path, kept_in: Path) -> None:
    """It may be a volume that is not mounted; nothing is made by looking."""
    items = [made(kept_in)]
    send(root, items)
    root.rename(root.with_name("away"))
    assert confirmed(root, items) == ["unknown"]
    assert not root.exists()
    root.mkdir()
    assert confirmed(root, items) == ["absent"]
    assert not list(root.iterdir())


def test_a_link_out_of_the_folder_is_not_followed_to_read(root: Path, kept_in: Path) -> None:
    items = [made(kept_in)]
    send(root, items)
    study = root / "1.2.3.1"
    study.rename(root.with_name("elsewhere"))
    study.symlink_to(root.with_name("elsewhere"))
    assert confirmed(root, items) == ["unknown"]


def test_a_stop_ends_the_reading(root: Path, kept_in: Path) -> None:
    items = [made(kept_in)]
    send(root, items)
    assert confirmed(root, items, Context(abort=lambda: True)) == ["unknown"]
