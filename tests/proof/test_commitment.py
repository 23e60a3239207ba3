"""Storage commitment from end to end: an archive that drops objects and admits it when asked.

Exactly those are found and sent again, whichever way the report comes, and whoever dies meanwhile.
Orthanc is asked too, as a real peer. `PROOF_OBJECTS` is how many objects are sent.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commitments import Committer, Manner
from tests.orthanc import DICOMWEB, Orthanc
from tests.ports import free_port
from tests.product import HOST, Config, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import to_every
from tests.proof.objects import study_of
from tests.proof.test_kill import kill_cluster
from tests.senders import RawObject, send_raw

OBJECTS = int(os.environ.get("PROOF_OBJECTS", "200"))
EVERY = 100
"""Of so many objects one is dropped."""
STUDY_INSTANCE_UID = b"\x20\x00\x0d\x00UI"
PACE = {"proof_after": "1s", "proof_retry": ["1s"], "retry": ["1s"]}
pytestmark = [pytest.mark.database, pytest.mark.timeout(400)]


def drops_one_in_a_hundred(number: int) -> bool:
    """Drop the 50th of each hundred that is sent first; what comes again is kept."""
    return number <= OBJECTS and number % EVERY == EVERY // 2


@pytest.fixture
def archive(product: Product) -> Iterator[Committer]:
    manner = Manner(drops=drops_one_in_a_hundred, router=(HOST, product.port))
    with Committer(manner, port=free_port()) as running:
        yield running


def committed(archive: Committer, **more: Any) -> Config:
    """A configuration that sends everything to the archive and wants its commitment."""
    usual = {"name": "pacs", "kind": "dicom", "proof": "committed", "commit_wait": "5s"}
    return to_every({**archive.settings, **usual, **PACE, **more})


def send(product: Product, *, studies: int = 4) -> list[RawObject]:
    """Send that many objects in studies."""
    objects: list[RawObject] = []
    for _ in range(studies):
        objects += study_of(OBJECTS // studies, pixels=256)
    assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
    return objects


def proofs_of(product: Product, uid: str) -> dict[str, int]:
    """How many objects of the study that one object is of have each grade."""
    (report,) = product.report(uid)
    return dict(report["sent"][0]["proof"]) if report["sent"] else {}


def by_study(objects: Sequence[RawObject]) -> dict[bytes, list[str]]:
    """The SOP Instance UIDs of each study."""
    found: dict[bytes, list[str]] = {}
    for one in objects:
        at = one.data.index(STUDY_INSTANCE_UID)
        length = int.from_bytes(one.data[at + 6 : at + 8], "little")
        found.setdefault(one.data[at + 8 : at + 8 + length], []).append(one.sop_instance_uid)
    return found


def wait_proven(
    product: Product, objects: Sequence[RawObject], grade: str, *, seconds: float = 120
) -> None:
    """Wait until every object is proven to the grade."""
    for uids in by_study(objects).values():

        def is_proven(uids: Sequence[str] = uids) -> bool:
            return proofs_of(product, uids[0]) == {grade: len(uids)}

        wait_until(is_proven, seconds=seconds, what=f"{len(uids)} objects {grade}", every=1.0)
    product.wait_idle()


def assert_only_the_dropped_came_twice(archive: Committer, objects: Sequence[RawObject]) -> None:
    """What was dropped is there now; of the others none was sent again."""
    times = Counter(archive.received)
    assert len(archive.dropped) == OBJECTS // EVERY
    assert set(times) == {one.sop_instance_uid for one in objects}
    assert {uid for uid, number in times.items() if number > 1} == set(archive.dropped)
    assert set(times.values()) <= {1, 2}
    assert set(archive.hashes()) == set(times)


@pytest.mark.parametrize("way", ["same", "new"])
def test_exactly_what_was_dropped_is_found_and_sent_again(
    product: Product, archive: Committer, note: Note, way: Any
) -> None:
    archive.manner.way = way
    product.apply(committed(archive, commit_wait="5s" if way == "same" else "0s"))
    objects = send(product)
    wait_proven(product, objects, "committed")
    assert_only_the_dropped_came_twice(archive, objects)
    assert set(archive.answers) == {0}
    asked = [len(one.references) for one in archive.requests]
    note(
        f"{way} association: {len(archive.dropped)} of {OBJECTS} dropped, found and sent again, "
        f"in {len(asked)} requests of up to {max(asked)} objects"
    )
    product.verify("--deep")


def test_a_peer_that_dies_before_it_reports_is_asked_again(
    product: Product, archive: Committer
) -> None:
    """It takes every request and is gone; a second one in its place knows nothing of them."""
    archive.manner.way = "dies"
    product.apply(committed(archive, commit_timeout="3s"))
    objects = send(product)
    wait_until(lambda: archive.requests, seconds=60, what="a request")
    with Committer(Manner(way="new", router=(HOST, product.port)), port=archive.port) as second:
        second.inherit(archive)
        wait_proven(product, objects, "committed")
        assert sorted(second.received) == sorted(archive.dropped)
        assert set(second.answers) == {0}
    product.verify("--deep")


def kill_receivers(product: Product) -> None:
    """Kill the receiver with its children; the product starts it anew."""
    (leader,) = (one for one in product.processes("receiver") if one.ppid() == product.up.pid)
    os.killpg(leader.pid, signal.SIGKILL)


@pytest.mark.parametrize("way", ["same", "new"])
def test_a_worker_that_dies_before_the_report_costs_nothing(
    product: Product, archive: Committer, rounds: int, way: Any
) -> None:
    """Killed between the request and the report: the report may be lost, and is asked for again."""
    archive.manner.way, archive.manner.delay = way, 2.0
    product.apply(committed(archive, commit_timeout="5s", commit_wait="10s"))
    for _ in range(rounds):
        archive.received.clear()
        archive.dropped.clear()
        archive.objects.clear()
        archive.requests.clear()
        objects = send(product, studies=1)  # a request waits until all of a study is delivered
        wait_until(lambda: archive.requests, seconds=60, what="a request")
        kill_cluster(product, None)  # type: ignore[arg-type]  # it looks at no sink
        wait_proven(product, objects, "committed", seconds=200)
        assert_only_the_dropped_came_twice(archive, objects)
    product.verify("--deep")


def test_a_request_outlives_the_product(product: Product, archive: Committer) -> None:
    """Killed whole and started again, it takes the report of the request from before."""
    archive.manner.way = "never"
    product.apply(committed(archive, commit_wait="0s"))
    objects = send(product, studies=1)
    wait_until(lambda: _asked(archive) == OBJECTS, seconds=60, what="all of them asked for")
    product.kill()
    product.start()
    archive.manner.way = "new"
    for request in list(archive.requests):
        archive.report(request)
    assert archive.answers == [0] * len(archive.answers)
    wait_proven(product, objects, "committed")
    assert_only_the_dropped_came_twice(archive, objects)
    product.verify("--deep")


def _asked(archive: Committer) -> int:
    return len({one for request in archive.requests for one in request.references})


def test_a_killed_receiver_loses_no_report_that_it_answered(
    product: Product, archive: Committer
) -> None:
    archive.manner.way, archive.manner.delay = "new", 0.5
    product.apply(committed(archive, commit_wait="0s", commit_timeout="5s"))
    objects = send(product)
    wait_until(lambda: archive.requests, seconds=60, what="a request")
    with suppress(psutil.NoSuchProcess):
        kill_receivers(product)
    wait_proven(product, objects, "committed", seconds=200)
    assert_only_the_dropped_came_twice(archive, objects)
    product.verify("--deep")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Path]]:
    """A product that dies where it is told to, and the folder of its crash points."""
    points = tmp_path_factory.mktemp("points")
    environment = {"ROUTER_CRASH_POINTS": str(points)}
    with Product(tmp_path_factory.mktemp("fragile"), environment=environment) as running:
        yield running, points


@pytest.mark.parametrize(
    ("point", "way"),
    [
        ("prove.after_attempts", "same"),
        ("prove.after_request", "same"),
        ("prove.after_request", "new"),
        ("prove.after_report", "same"),
        ("prove.after_report", "new"),
        ("prove.before_commit", "find"),
    ],
)
def test_who_dies_at_any_point_of_a_proof_costs_nothing(
    fragile: tuple[Product, Path], point: str, way: Any
) -> None:
    product, points = fragile
    manner = Manner(drops=lambda number: number == 3, router=(HOST, product.port))
    with Committer(manner) as archive:
        manner.way = way if way != "find" else "never"
        grade = "verified" if way == "find" else "committed"
        settings = {"commit_timeout": "3s", "commit_wait": "2s" if way == "same" else "0s"}
        product.apply(committed(archive, proof=grade, **settings))
        (points / point).write_text(f"1 {way}")
        objects = study_of(10, pixels=256)
        assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
        reached = points / f"{point}.reached"
        wait_until(reached.exists, seconds=60, what=point)
        reached.unlink()
        wait_proven(product, objects, grade)
        times = Counter(archive.received)
        assert [uid for uid, number in times.items() if number > 1] == archive.dropped
    product.verify("--deep")


# --- a real peer ---------------------------------------------------------------------------------
@pytest.fixture
def orthanc(product: Product, tmp_path: Path) -> Iterator[Orthanc]:
    settings = {
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomAlwaysAllowFind": True,
    }
    folder = tmp_path / "orthanc"
    with Orthanc(folder, router_port=product.port, plugins=[DICOMWEB], **settings) as running:
        yield running


def lose(orthanc: Orthanc, one: RawObject) -> None:
    """Remove an object behind everybody's back."""
    for known in orthanc.get("/instances?expand"):
        if known["MainDicomTags"]["SOPInstanceUID"] == one.sop_instance_uid:
            orthanc.delete(f"/instances/{known['ID']}")
            return
    raise AssertionError("Orthanc does not have it")


def pacs(orthanc: Orthanc, grade: str, **more: Any) -> Config:
    there = {"name": "orthanc", "kind": "dicom", "host": HOST, "port": orthanc.port}
    return {**there, "ae_title": "ORTHANC", "proof": grade, **PACE, **more}


def web(orthanc: Orthanc, **more: Any) -> Config:
    url = f"http://{HOST}:{orthanc.http_port}/dicom-web"
    return {"name": "orthanc", "kind": "stow", "url": url, "proof": "verified", **PACE, **more}


@pytest.mark.parametrize("how", ["find", "query", "read", "commit"])
def test_what_orthanc_has_lost_is_found_and_sent_again(
    product: Product, orthanc: Orthanc, how: str
) -> None:
    places = {
        "find": pacs(orthanc, "verified", proof_after="5s"),
        "query": web(orthanc, proof_after="5s"),
        "read": web(orthanc, proof_after="5s", confirm="read"),
        "commit": pacs(orthanc, "committed", proof_after="5s", commit_wait="0s"),
    }
    product.apply(to_every(places[how]))
    objects = study_of(12, pixels=256)
    assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
    wait_until(lambda: len(orthanc.get("/instances")) == 12, seconds=60, what="the study")
    lose(orthanc, objects[4])
    lose(orthanc, objects[9])
    wait_proven(product, objects, "committed" if how == "commit" else "verified")
    assert set(orthanc.hashes()) == {one.sop_instance_uid for one in objects}
    (report,) = product.report(objects[0].sop_instance_uid)
    assert report["sent"][0]["attempts"] == 14
    product.verify("--deep")
