"""PostgreSQL goes away while objects arrive: they are taken all the same, and none is lost."""

import tempfile
import time
from pathlib import Path

import pytest

from tests.product import HOST, Product, wait_until
from tests.proof.conftest import Note
from tests.proof.delivered import folder_destination, in_folder, names_in, to_every
from tests.proof.objects import CT, EXPLICIT_LITTLE, hashes, study_of
from tests.proof.postgres import Cluster
from tests.senders import RawAssociation, send_raw

pytestmark = pytest.mark.timeout(240)


def test_reception_goes_on_while_the_database_is_away(
    tmp_path: Path, note: Note, rounds: int
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="router-proof-") as place,
        Cluster(Path(place) / "pg") as cluster,
        Product(tmp_path / "own", database_url=cluster.url) as own,
    ):
        folder = tmp_path / "out"
        own.apply(to_every(folder_destination("disk", folder)))
        before, during, after = study_of(100), study_of(100), study_of(20)
        with RawAssociation(HOST, own.port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
            assert {assoc.store(one)[0] for one in before} == {0}
            if rounds == 1:  # else deliveries are cut too, whose leases take 30 s to run out
                own.wait_idle()
            cluster.stop()
            assert {assoc.store(one)[0] for one in during} == {0}
        assert {one.status for one in send_raw(HOST, own.port, after)} == {0}
        assert own.is_running
        time.sleep(3)
        cluster.start()
        began = time.monotonic()
        sent = hashes([*before, *during, *after])
        wait_until(
            lambda: set(sent) == names_in(folder), seconds=90, what="everything after the restart"
        )
        note(f"whole {time.monotonic() - began:.1f} s after the database was back")
        own.wait_idle()
        assert in_folder(folder) == sent
        own.verify("--deep")
