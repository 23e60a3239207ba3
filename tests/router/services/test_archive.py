"""The archive: one door in, with its refusals; bytes found wherever they lie."""

import threading
import time
from dataclasses import replace

import pytest

from router.dicom.errors import MalformedDataSet
from router.models import Instance
from router.services import archive, indexing
from router.spool import Inbox, SpoolFile
from tests.intake import Site, acknowledge, image
from tests.senders import RawObject

pytestmark = pytest.mark.django_db


def _incoming(inbox: Inbox, item: RawObject) -> SpoolFile:
    incoming = inbox.create(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax=item.transfer_syntax,
    )
    incoming.write(memoryview(item.data))
    return incoming


def test_received_means_durable_in_the_inbox(site: Site) -> None:
    inbox = site.inbox()
    spooled = acknowledge(inbox, image(1))
    assert site.waiting() == [spooled.path]
    assert archive.acknowledged() == {spooled.path}
    assert spooled.path.read_bytes()[spooled.offset :] == image(1).data


@pytest.mark.parametrize(
    "claimed",
    [replace(image(1), sop_class_uid="1.2.3"), replace(image(1), sop_instance_uid="1.2.3")],
    ids=["class", "instance"],
)
def test_refuses_what_is_not_what_was_claimed(site: Site, claimed: RawObject) -> None:
    with pytest.raises(archive.Refused, match="differs"):
        acknowledge(site.inbox(), claimed)
    assert not list(site.spool.root.glob("inbox/*/*.dcm"))
    assert not list(site.spool.root.glob("inbox/*/*.part"))


def test_refuses_a_data_set_that_ends_early(site: Site) -> None:
    item = image(1)
    with pytest.raises(MalformedDataSet):
        acknowledge(site.inbox(), replace(item, data=item.data[:-5]))
    assert not list(site.spool.root.glob("inbox/*/*.*[mt]"))


def test_asks_for_permission_last(site: Site) -> None:
    def deny(_incoming: SpoolFile) -> None:
        raise archive.Refused("known already")

    item = image(1)
    with pytest.raises(archive.Refused, match="known already"):
        archive.receive(
            _incoming(site.inbox(), item),
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            permit=deny,
        )
    assert archive.acknowledged() == set()
    assert not list(site.spool.root.glob("inbox/*/*.part"))


def test_opens_an_object_wherever_it_lies(site: Site) -> None:
    (spooled,) = site.take(image(1))
    copy = spooled.path.read_bytes()
    indexing.index([spooled])
    row = Instance.objects.get()
    with archive.opened(row) as file:
        assert file.read() == copy
    site.stored()[0].rename(spooled.path)  # as before the move
    with archive.opened(row) as file:
        assert file.read() == copy
    assert archive.header_of(row).text("Modality") == "CT"
    spooled.path.rename(spooled.path.with_name(f"{spooled.receipt_id}.part"))  # after a power cut
    with archive.opened(row) as file:
        assert file.read() == copy


def test_bytes_that_are_nowhere_are_said_to_be(site: Site) -> None:
    indexing.index(site.take(image(1)))
    site.stored()[0].unlink()
    row = Instance.objects.get()
    with pytest.raises(FileNotFoundError):
        archive.opened(row)


def test_settled_waits_for_what_was_acknowledged_before(site: Site) -> None:
    assert archive.settled(0)
    (spooled,) = site.take(image(1))
    assert not archive.settled(0.1)
    mover = threading.Timer(0.3, spooled.path.unlink)
    mover.start()
    assert archive.settled(20)
    mover.join()


def test_settled_does_not_wait_for_what_comes_later(site: Site) -> None:
    (spooled,) = site.take(image(1))

    def swap() -> None:
        time.sleep(0.2)
        site.take(image(2))
        spooled.path.unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    assert archive.settled(20)
    thread.join()
    assert len(site.waiting()) == 1
