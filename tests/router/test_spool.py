"""The spool: what is durable when, what is left after failures, and who adopts it."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest

from router.dicom import part10
from router.dicom.errors import TruncatedDataSet
from router.spool import AssociationFacts, Counts, Inbox, Spool
from tests.receivers import make_object

ROOT = Path(__file__).parents[2]


def facts(number: int = 1) -> AssociationFacts:
    return AssociationFacts(
        id=f"{number:032x}",
        origin="dimse",
        calling_ae="CT1",
        called_ae="DICOMROUTER",
        remote_host="127.0.0.1",
        remote_port=4711,
        source="ct-1",
        duplicates="quarantine",
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


def put(inbox: Inbox, number: int = 1, *, before: bytes = b"") -> str:
    """Spool one object, with `before` at the beginning of its data set; its receipt id."""
    item = make_object(number)
    file = inbox.create(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    data = before + item.data
    file.write(memoryview(data)[:100])
    file.write(memoryview(data)[100:])
    file.examine()
    return file.commit().receipt_id


def run_child(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    prelude = """
        import os, resource, signal, sys
        from pathlib import Path
        from router.spool import Spool, SpoolFull
        from tests.router.test_spool import facts, put
        from tests.receivers import make_object
        root = Path(sys.argv[1])
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_facts_survive_json() -> None:
    assert AssociationFacts.from_json(facts().to_json()) == facts()


def test_an_association_without_objects_leaves_nothing(tmp_path: Path) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    inbox.closed(datetime.now(UTC), "released", Counts())
    assert not (tmp_path / "inbox").exists()


def test_a_committed_object_is_a_part_10_file_under_our_names(tmp_path: Path) -> None:
    item = make_object()
    inbox = Spool(tmp_path).open_inbox(facts())
    file = inbox.create(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    file.write(memoryview(item.data))
    assert [path.suffix for path in inbox.folder.iterdir() if path.suffix == ".part"] == [".part"]
    structure = file.examine()
    spooled = file.commit()
    assert spooled.sha256 == hashlib.sha256(item.data).hexdigest()
    assert spooled.path == inbox.folder / f"{spooled.receipt_id}.{spooled.sha256}.dcm"
    assert spooled.size == len(item.data)
    assert spooled.structure == structure
    content = spooled.path.read_bytes()
    assert content[:132] == bytes(128) + b"DICM"
    assert content[spooled.offset :] == item.data
    assert {path.name for path in inbox.folder.iterdir()} == {"association.json", spooled.path.name}


def test_an_association_id_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    alien = AssociationFacts.from_dict({**facts().to_dict(), "id": "../../../../etc/passwd-------"})
    with pytest.raises(ValueError, match="32 hex digits"):
        Spool(tmp_path).open_inbox(alien)


def test_a_truncated_object_is_found_and_dropped(tmp_path: Path) -> None:
    item = make_object()
    inbox = Spool(tmp_path).open_inbox(facts())
    file = inbox.create(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    file.write(memoryview(item.data)[:-1])
    with pytest.raises(TruncatedDataSet):
        file.examine()
    file.discard()
    file.discard()
    assert [path.name for path in inbox.folder.iterdir()] == ["association.json"]


def test_leftovers_tell_what_was_committed_in_order(tmp_path: Path) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    receipts = [put(inbox, number) for number in (1, 2, 3)]
    found = list(Inbox.read(inbox.folder).leftovers())
    assert [spooled.receipt_id for spooled in found] == receipts
    first = found[0]
    item = make_object(1)
    assert first.structure is None
    assert first.association == facts()
    assert (first.sop_class_uid, first.sop_instance_uid, first.transfer_syntax) == (
        item.sop_class_uid,
        item.sop_instance_uid,
        item.transfer_syntax,
    )
    assert (first.size, first.sha256) == (len(item.data), hashlib.sha256(item.data).hexdigest())
    examined = first.examined()
    assert examined.structure is not None
    assert examined.structure.sop_instance_uid == item.sop_instance_uid


def test_the_end_of_an_association_is_kept_for_an_adopter(tmp_path: Path) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    put(inbox)
    assert inbox.end() is None
    at = datetime.now(UTC)
    inbox.closed(at, "released", Counts(objects=1, bytes=10, refused=2))
    end = Inbox.read(inbox.folder).end()
    assert end is not None
    assert (end.ended_at, end.reason, end.objects, end.refused) == (at, "released", 1, 2)


def test_a_finished_folder_goes_only_when_its_last_object_has_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    inbox = spool.open_inbox(facts())
    put(inbox)
    assert not spool.remove_finished(facts().id)
    inbox.closed(datetime.now(UTC), "released", Counts())
    assert not spool.remove_finished(facts().id)
    next(inbox.leftovers()).path.unlink()
    assert spool.remove_finished(facts().id)
    assert not inbox.folder.exists()


def test_inboxes_of_the_living_are_not_abandoned(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    inbox = spool.open_inbox(facts())
    put(inbox)
    assert [found.facts.id for found in spool.mine()] == [facts().id]
    assert spool.abandoned() == []
    other = Spool(tmp_path)
    assert other.abandoned() == []
    assert not other.adopt(inbox)


def test_a_killed_process_loses_nothing_it_committed(tmp_path: Path) -> None:
    child = run_child(
        """
        inbox = Spool(root).open_inbox(facts())
        put(inbox, 1)
        put(inbox, 2)
        item = make_object(3)
        file = inbox.create(sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid, transfer_syntax=item.transfer_syntax)
        file.write(memoryview(item.data))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    spool = Spool(tmp_path)
    (inbox,) = spool.abandoned()
    assert list(inbox.folder.glob("*.part"))
    assert spool.adopt(inbox)
    assert inbox.settle_parts()
    assert not list(inbox.folder.glob("*.part"))
    assert len(list(inbox.leftovers())) == 2
    assert spool.abandoned() == []
    assert [found.facts.id for found in spool.mine()] == [facts().id]


def _part(folder: Path, number: int = 1, *, keep: int | None = None, sealed: bool = True) -> Path:
    """An object under its first name, as a power cut leaves it: `keep` bytes of its data set."""
    item = make_object(number)
    digest = hashlib.sha256(item.data).digest()
    meta = part10.file_meta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
        seal=part10.SEAL.pack(len(item.data), digest) if sealed else part10.NO_SEAL,
    )
    path = folder / f"{number:032x}.part"
    path.write_bytes(meta + item.data[:keep])
    return path


def _adopted(root: Path) -> Inbox:
    spool = Spool(root)
    (inbox,) = spool.abandoned()
    assert spool.adopt(inbox)
    inbox.settle_parts()
    return inbox


def _of_the_dead(root: Path) -> Path:
    child = run_child("put(Spool(root).open_inbox(facts()), 9)", root)
    assert child.returncode == 0, child.stderr
    return root / "inbox" / facts().id


def test_a_sealed_part_is_an_acknowledged_object(tmp_path: Path) -> None:
    part = _part(_of_the_dead(tmp_path), 1)
    found = {one.receipt_id: one for one in _adopted(tmp_path).leftovers(verify=True)}
    assert found[part.stem].sha256 == hashlib.sha256(make_object(1).data).hexdigest()
    assert found[part.stem].damage == ""
    assert len(found) == 2
    assert not part.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_part_shorter_than_its_seal_says_was_never_acknowledged(
    tmp_path: Path, keep: int
) -> None:
    part = _part(_of_the_dead(tmp_path), 1, keep=keep)
    assert len(list(_adopted(tmp_path).leftovers())) == 1
    assert not part.exists()


def test_a_part_without_its_seal_was_never_acknowledged(tmp_path: Path) -> None:
    folder = _of_the_dead(tmp_path)
    _part(folder, 1, sealed=False)
    (folder / f"{2:032x}.part").touch()
    (folder / f"{3:032x}.part").write_bytes(bytes(200))
    assert len(list(_adopted(tmp_path).leftovers())) == 1
    assert not list(folder.glob("*.part"))


def test_a_sealed_part_with_other_bytes_is_kept_and_said_to_be_damaged(tmp_path: Path) -> None:
    part = _part(_of_the_dead(tmp_path), 1)
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    found = {one.receipt_id: one for one in _adopted(tmp_path).leftovers(verify=True)}
    assert "SHA-256" in found[part.stem].damage


def test_a_part_that_cannot_be_read_keeps_no_other_waiting(tmp_path: Path) -> None:
    folder = _of_the_dead(tmp_path)
    (folder / f"{1:032x}.part").mkdir()  # stands in for a file that the disk does not give back
    _part(folder, 2)
    assert len(list(_adopted(tmp_path).leftovers())) == 2
    assert (folder / f"{1:032x}.part").exists()
    assert not Inbox.read(folder).settle_parts()


def test_a_data_set_that_begins_with_file_meta_is_whole_after_a_power_cut(tmp_path: Path) -> None:
    """Some devices send group 2 in the data set; where ours ends is known all the same."""
    child = run_child(
        """
        before = bytes.fromhex("02001000 55491400") + b"1.2.840.10008.1.2.1\\0"
        inbox = Spool(root).open_inbox(facts())
        put(inbox, 1, before=before)
        put(inbox, 2, before=before)
        """,
        tmp_path,
    )
    assert child.returncode == 0, child.stderr
    path = min((tmp_path / "inbox" / facts().id).glob("*.dcm"))
    path.rename(path.with_name(f"{path.name[:32]}.part"))  # as the power cut left it
    found = list(_adopted(tmp_path).leftovers(verify=True))
    assert [one.damage for one in found] == ["", ""]
    assert {one.size for one in found} == {28 + len(make_object(1).data)}


def test_objects_of_the_version_before_are_adopted(tmp_path: Path) -> None:
    """Without a seal, under their final names."""
    folder = _of_the_dead(tmp_path)
    item = make_object(1)
    meta = part10.file_meta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    name = f"{1:032x}.{hashlib.sha256(item.data).hexdigest()}.dcm"
    (folder / name).write_bytes(meta + item.data)
    found = list(_adopted(tmp_path).leftovers(verify=True))
    assert [one.damage for one in found] == ["", ""]


def test_one_sync_makes_an_object_durable_and_names_are_made_ahead(tmp_path: Path) -> None:
    """R1: what is synced before Success, in the order of the system calls."""
    log = tmp_path / "calls"
    code = """
        inbox = Spool(root).open_inbox(facts())
        for number in range(1, 8):
            put(inbox, number)
            os.write(9, b"acknowledged")
    """
    code = "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 9)\n" + textwrap.dedent(code)
    prelude = (
        "import sys; from pathlib import Path; from router.spool import Spool\n"
        "from tests.router.test_spool import facts, put\nroot = Path(sys.argv[1])\n"
    )
    trace = ["strace", "-f", "-y", "-s", "12", "-o", str(log), "-e"]
    trace.append("trace=openat,fsync,fdatasync,pwrite64,rename,renameat,renameat2,write,writev")
    subprocess.run(
        [*trace, sys.executable, "-c", prelude + code, str(tmp_path / "spool")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    _check_order(log.read_text().splitlines())


def _check_order(lines: list[str]) -> None:
    created: set[str] = set()
    durable: set[str] = set()
    state = ""
    acknowledged = 0
    for line in lines:
        part = re.search(r"([0-9a-f]{32})\.part", line)
        if "O_CREAT" in line and part:
            created.add(part[1])
        elif re.search(r" fsync\(\d+</[^>]*inbox/[^>/]*>", line):
            durable |= created
        elif " pwrite64(" in line and part:
            state = f"sealed {part[1]}"
        elif " fdatasync(" in line and part and state == f"sealed {part[1]}":
            state = f"synced {part[1]}"
        elif "acknowledged" in line:
            assert state.startswith("synced "), line
            assert state.removeprefix("synced ") in durable, line
            state, acknowledged = "", acknowledged + 1
    assert acknowledged == 7
    assert sum(" fsync(" in line and "/inbox/" in line for line in lines) <= 6


def test_names_made_ahead_go_with_the_association(tmp_path: Path) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    for number in (1, 2):
        put(inbox, number)
    assert list(inbox.folder.glob("*.part"))
    inbox.closed(datetime.now(UTC), "released", Counts(objects=2))
    assert not list(inbox.folder.glob("*.part"))


def test_an_object_that_could_not_be_synced_does_not_pass_for_whole(tmp_path: Path) -> None:
    child = run_child(
        """
        from router.spool import SpoolError
        inbox = Spool(root).open_inbox(facts())
        put(inbox, 1)
        real, kept = os.fdatasync, []
        def fail(fd):
            kept.append(os.dup(fd))
            raise OSError(5, "Input/output error")
        os.fdatasync = fail
        try:
            put(inbox, 2)
        except SpoolError as error:
            print("failed")
        from router.dicom import part10
        with os.fdopen(kept[0], "rb") as file:
            print(part10.read_meta(file).seal == part10.NO_SEAL)
        """,
        tmp_path,
    )
    assert child.stdout.split() == ["failed", "True"], child.stderr


def test_a_part_that_could_not_be_opened_serves_the_next_object(tmp_path: Path) -> None:
    child = run_child(
        """
        from datetime import UTC, datetime
        from router.spool import Counts, SpoolError
        inbox = Spool(root).open_inbox(facts())
        put(inbox, 1), put(inbox, 2)
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            put(inbox, 3)
        except SpoolError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        put(inbox, 3)
        inbox.closed(datetime.now(UTC), "released", Counts(objects=3))
        """,
        tmp_path,
    )
    assert child.stdout == "[Errno 24] Too many open files\n", child.stderr
    files = sorted(path.suffix for path in (tmp_path / "inbox" / facts().id).iterdir())
    assert files == [".dcm"] * 3 + [".json"] * 2


def test_a_folder_that_could_not_be_synced_is_made_anew(tmp_path: Path) -> None:
    child = run_child(
        """
        from router.spool import SpoolError
        put(Spool(root).open_inbox(facts(2)))
        inbox, real = Spool(root).open_inbox(facts()), os.fsync
        def fail(fd):
            if os.readlink(f"/proc/self/fd/{fd}") == str(root / "inbox"):
                raise OSError(5, "Input/output error")
            real(fd)
        os.fsync = fail
        try:
            put(inbox)
        except SpoolError as error:
            print(error, inbox.folder.exists())
        os.fsync = real
        put(inbox)
        """,
        tmp_path,
    )
    assert (child.returncode, child.stdout) == (0, "[Errno 5] Input/output error False\n"), (
        child.stderr
    )


def test_only_one_adopts(tmp_path: Path) -> None:
    child = run_child("put(Spool(root).open_inbox(facts()))", tmp_path)
    assert child.returncode == 0, child.stderr
    first, second = Spool(tmp_path), Spool(tmp_path)
    (of_first,), (of_second,) = first.abandoned(), second.abandoned()
    assert first.adopt(of_first)
    assert not second.adopt(of_second)


def test_a_forked_child_is_an_owner_of_its_own(tmp_path: Path) -> None:
    child = run_child(
        """
        spool = Spool(root)
        put(spool.open_inbox(facts(1)))
        pid = os.fork()
        if not pid:
            put(spool.open_inbox(facts(2)))
            os._exit(0)
        os.waitpid(pid, 0)
        print(len(spool.mine()), len(spool.abandoned()))
        """,
        tmp_path,
    )
    assert child.stdout.split() == ["1", "1"], child.stderr


@pytest.mark.parametrize("limit", [200, 1000, 3000])
def test_a_full_disk_is_told_and_leaves_no_part(tmp_path: Path, limit: int) -> None:
    """The kernel's limit on file sizes stands in for a full disk, at the meta and in the data."""
    child = run_child(
        f"""
        inbox = Spool(root).open_inbox(facts())
        put(inbox, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
        try:
            put(inbox, 2)
        except SpoolFull as error:
            print("full", type(error.__cause__).__name__)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        put(inbox, 3)
        """,
        tmp_path,
    )
    expected = "" if limit > 2800 else "full OSError\n"
    assert (child.returncode, child.stdout) == (0, expected), child.stderr
    files = sorted(path.suffix for path in (tmp_path / "inbox" / facts().id).iterdir())
    assert files == [".dcm"] * (3 if limit > 2800 else 2) + [".json"]


def test_facts_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    child = run_child(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        spool = Spool(root)
        try:
            put(spool.open_inbox(facts()))
        except SpoolFull:
            print("full")
        """,
        tmp_path,
    )
    assert (child.returncode, child.stdout) == (0, "full\n"), child.stderr
    assert list((tmp_path / "inbox").iterdir()) == []


def test_sweeping_removes_only_what_is_old_and_dead(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    inbox = spool.open_inbox(facts())
    put(inbox)
    old, new = tmp_path / "inbox" / ".new-old", tmp_path / "inbox" / ".new-new"
    stale = tmp_path / "owners" / ("0" * 32)
    for path in (old, new):
        path.mkdir()
    stale.touch()
    for path in (old, stale, tmp_path / "owners" / inbox.owner.lock):
        os.utime(path, (0, 0))
    spool.sweep()
    assert not old.exists()
    assert not stale.exists()
    assert new.exists()
    assert (tmp_path / "owners" / inbox.owner.lock).exists()
    assert len(list(inbox.leftovers())) == 1


def test_free_bytes_is_the_volumes(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = Spool(tmp_path / "spool").free_bytes()
    assert abs(free - status.f_bavail * status.f_frsize) < 1 << 30


def test_a_damaged_inbox_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    good, bad, bare = (spool.open_inbox(facts(number)) for number in (1, 2, 3))
    for inbox in (good, bad, bare):
        put(inbox)
    (bad.folder / "association.json").write_text("{}")
    (bare.folder / "association.json").unlink()
    assert [inbox.facts.id for inbox in spool.inboxes()] == [good.facts.id]
    assert {record.message for record in caplog.records} == {"inbox.damaged", "inbox.without_facts"}


def test_a_damaged_object_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    first, second = put(inbox, 1), put(inbox, 2)
    next(inbox.folder.glob(f"{first}.*")).write_bytes(b"no DICOM")
    (inbox.folder / "stranger.dcm").touch()
    found = {spooled.receipt_id: spooled for spooled in inbox.leftovers()}
    assert set(found) == {first, second}
    assert found[first].damage.startswith("its file meta: ")
    assert found[first].sop_instance_uid == f"2.25.{int(first, 16)}"
    assert (found[first].size, found[first].offset) == (8, 0)
    assert found[first].sha256 == hashlib.sha256(b"no DICOM").hexdigest()
    assert not found[second].damage
    assert [record.message for record in caplog.records] == ["inbox.object_damaged"]


@pytest.mark.parametrize(
    ("offset", "damage"),
    [
        (7, "its file meta is not what was written"),  # the preamble
        (170, "its file meta is not what was written"),  # a UID
        (129, "its file meta: "),  # no DICM
    ],
)
def test_a_changed_file_meta_is_damage(tmp_path: Path, offset: int, damage: str) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    put(inbox)
    (spooled,) = inbox.leftovers()
    content = bytearray(spooled.path.read_bytes())
    content[offset] ^= 0x80
    spooled.path.write_bytes(content)
    (found,) = inbox.leftovers()
    assert found.damage.startswith(damage)


@pytest.mark.parametrize("tear", ["cut", "changed"])
def test_torn_data_is_found_when_verified(tmp_path: Path, tear: str) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    receipt = put(inbox)
    (spooled,) = inbox.leftovers(verify=True)
    assert not spooled.damage
    content = bytearray(spooled.path.read_bytes())
    torn = content[:-9] if tear == "cut" else content[:-9] + bytes(9)
    spooled.path.write_bytes(torn)
    (found,) = inbox.leftovers(verify=True)
    assert found.damage.startswith("SHA-256 is ")
    assert found.sha256 == hashlib.sha256(torn[found.offset :]).hexdigest()
    assert (found.receipt_id, found.size) == (receipt, len(torn) - found.offset)
    assert found.sop_instance_uid == spooled.sop_instance_uid


@pytest.mark.parametrize("content", [None, "", "{}", '{"owner": 1}'])
def test_an_inbox_whose_facts_are_lost_may_be_adopted(tmp_path: Path, content: str | None) -> None:
    inbox = Spool(tmp_path).open_inbox(facts())
    receipt = put(inbox)
    file = inbox.folder / "association.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    spool = Spool(tmp_path)
    (found,) = spool.abandoned()
    assert spool.adopt(found)
    assert (found.facts.id, found.facts.calling_ae, found.facts.source) == (facts().id, "", None)
    assert [spooled.receipt_id for spooled in found.leftovers()] == [receipt]
    assert (found.folder / "association.json.damaged").exists() == (content is not None)


def test_a_folder_without_facts_and_objects_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "inbox" / facts().id
    folder.mkdir(parents=True)
    name = folder / f"{1:032x}.part"
    name.touch()
    assert Spool(tmp_path).abandoned() == []
    assert list(folder.iterdir()) == [name]


def test_a_sealed_part_whose_facts_are_lost_may_be_adopted(tmp_path: Path) -> None:
    folder = tmp_path / "inbox" / facts().id
    folder.mkdir(parents=True)
    part = _part(folder)
    assert [one.receipt_id for one in _adopted(tmp_path).leftovers()] == [part.stem]
