"""A destination that is down and comes back: everything arrives, the oldest first, and nobody else
waits for it meanwhile."""

from functools import partial
from pathlib import Path

import pytest

from tests.product import HOST, Product, wait_until
from tests.proof.delivered import dicom_destination, folder_destination, names_in, to_every
from tests.proof.objects import hashes, study_of
from tests.senders import send_raw
from tests.sinks import Script, Sink

STUDIES, SIZE = 6, 5
pytestmark = [pytest.mark.database, pytest.mark.timeout(180)]


def test_a_destination_that_was_down_gets_everything_in_order_of_age(
    product: Product, tmp_path: Path
) -> None:
    with Sink(Script(ae_title="AWAY")) as gone:
        port = gone.port
    folder = tmp_path / "out"
    away = dicom_destination("away", gone, retry=["2s"])
    product.apply(to_every(away, folder_destination("disk", folder)))
    studies = [study_of(SIZE) for _ in range(STUDIES)]
    order: list[str] = []
    for study in studies:
        assert {one.status for one in send_raw(HOST, product.port, study)} == {0}
        order += [one.sop_instance_uid for one in study]
        wait_until(
            partial(has_all, folder, set(order)),
            seconds=10,
            what="the other destination gets its study while the first is down",
        )
    back = Sink(Script(ae_title="AWAY"))
    back.port = port
    with back:
        assert back.wait_for(len(order), 30), f"{len(back.objects)} of {len(order)} arrived"
        product.wait_idle()
        assert [one.sop_instance_uid for one in back.objects] == order
        assert back.hashes() == hashes([one for study in studies for one in study])
    product.verify("--deep")


def test_a_destination_that_answers_out_of_resources_is_asked_again(
    product: Product, tmp_path: Path
) -> None:
    statuses = {1: 0xA700, 3: 0xA701}
    with Sink(Script(ae_title="FULL", statuses=statuses)) as full:
        product.apply(to_every(dicom_destination("full", full, retry=["1s"])))
        study = study_of(SIZE)
        assert {one.status for one in send_raw(HOST, product.port, study)} == {0}
        assert full.wait_for(SIZE + len(statuses), 30)
        product.wait_idle()
        assert full.hashes() == hashes(study)
    product.verify()


def has_all(folder: Path, uids: set[str]) -> bool:
    return uids <= names_in(folder)
