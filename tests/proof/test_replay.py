"""Replay from end to end: what an archive has lost, that alone, and through the death of workers.

`REPLAY_STUDIES` is how many studies the archive had, 30 in the suite; of 100 it loses 37.
"""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.archives import Archive
from tests.orthanc import Orthanc
from tests.product import HOST, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import dicom_destination, to_every
from tests.proof.objects import hashes, new_uid, study_of
from tests.proof.test_kill import kill_cluster
from tests.senders import RawObject, send_raw
from tests.sinks import Script

STUDIES = int(os.environ.get("REPLAY_STUDIES", "30"))
LOST = STUDIES * 37 // 100
pytestmark = [pytest.mark.database, pytest.mark.timeout(400)]


@pytest.fixture
def orthanc(product: Product, tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc", router_port=product.port) as running:
        yield running


def planned(product: Product, *arguments: str) -> int:
    """Plan a replay with the command; return its number."""
    said = product.command("replay", *arguments)
    found = re.match(r"Replay (\d+):", said)
    assert found, said
    return int(found[1])


def report(product: Product, number: int) -> dict[str, Any]:
    found = json.loads(product.command("replay", "--report", str(number), "--format", "json"))
    assert isinstance(found, dict)
    return found


def asked_by_a_program(product: Product, path: str) -> dict[str, Any]:
    """Ask the API with a token of its own."""
    name = f"program-{random.randrange(10**9)}"
    product.command("create_user", name, "--role", "service")
    token = product.command("create_token", name, "--scope", "api:read").splitlines()[-1]
    url = f"http://{HOST}:{product.http_port}{path}"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_archive_that_lost_37_of_100_studies_gets_exactly_these(
    product: Product, orthanc: Orthanc, note: Note
) -> None:
    pacs = {"name": "orthanc", "kind": "dicom", "host": HOST, "port": orthanc.port}
    product.apply(to_every({**pacs, "ae_title": "ORTHANC", "associations": 2}))
    studies = [study_of(1 + at % 2, study=new_uid()) for at in range(STUDIES)]
    objects = [one for study in studies for one in study]
    assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
    wait_until(
        lambda: len(orthanc.get("/instances")) == len(objects), seconds=120, what="the studies"
    )
    product.wait_idle(90)

    removed = random.sample(orthanc.get("/studies"), LOST)
    for one in removed:
        orthanc.delete(f"/studies/{one}")
    kept = orthanc.hashes()
    lost = {uid: digest for uid, digest in hashes(objects).items() if uid not in kept}
    before = orthanc.number()

    number = planned(product, "--destination", "orthanc", "--only", "missing", "--rate", "0")
    plan = report(product, number)
    assert (plan["studies"], plan["objects"]) == (LOST, len(lost))
    assert plan["outcomes"] == {"To be sent": len(lost), "There already": len(kept)}
    assert orthanc.changes("NewInstance", since=before) == []  # nothing before a yes

    said = product.command("replay", "--confirm", str(number), "--wait", "--timeout", "90")
    assert f"orthanc: {len(lost):,} delivered, {len(kept):,} there already" in said
    assert orthanc.hashes() == hashes(objects)
    assert len(orthanc.changes("NewInstance", since=before)) == len(lost)
    assert len(orthanc.changes("NewStudy", since=before)) == LOST
    assert orthanc.changes("UpdatedAttachment", since=before) == []
    done = report(product, number)
    sent = {one["sop_instance_uid"] for one in done["pairs"] if one["outcome"] == "Delivered"}
    assert sent == set(lost)
    told = asked_by_a_program(product, f"/api/v1/replays/{number}")
    assert (told["state"], told["sent"], told["failed"]) == ("done", len(lost), 0)
    note(
        f"replay: {LOST} of {STUDIES} studies were lost, {len(sent)} of {len(objects)} objects sent"
    )
    product.verify("--deep")


def test_workers_that_die_in_the_middle_of_a_replay_send_everything_once(
    product: Product, note: Note, rounds: int
) -> None:
    with Archive(Script(delay=0.005)) as archive:
        product.apply(to_every(dicom_destination("archive", archive, retry=["1s"])))
        objects = [one for _ in range(20) for one in study_of(20, study=new_uid())]
        assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
        assert archive.wait_for(len(objects), 120)
        product.wait_idle(90)
        for _round in range(rounds):
            one_round(product, archive, objects, note)
        product.verify("--deep")


def one_round(product: Product, archive: Archive, objects: list[RawObject], note: Note) -> None:
    """Everything is lost; workers die while the replay is released and sent."""
    uids = {one.sop_instance_uid for one in objects}
    archive.lose(uids)
    number = planned(product, "--destination", "archive", "--only", "missing", "--rate", "200")
    product.command("replay", "--confirm", str(number), "--studies", "20")
    for _kill in range(2):
        some = len(archive.objects) + random.randint(20, 100)
        assert archive.wait_for(min(some, len(objects)), 60)
        kill_cluster(product, archive)

    def is_over() -> bool:
        return ", done, " in product.command("replay", "--show", str(number))

    wait_until(is_over, seconds=180, what="the end of the replay", every=1.0)
    came = Counter(one.sop_instance_uid for one in archive.objects)
    assert set(came) == uids
    done = report(product, number)
    assert done["outcomes"] == {"Delivered": len(objects)}
    assert len(done["pairs"]) == len(objects)
    twice = sum(came.values()) - len(objects)
    note(f"replay through two deaths: {len(objects)} objects there, {twice} of them came twice")
    assert twice <= 2 * 100  # what two killed workers had sent and could not write any more
