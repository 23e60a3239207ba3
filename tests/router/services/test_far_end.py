"""Far ends say what they hold of stored objects, each in its own way, and nothing is sent."""

from pathlib import Path

import pytest
from pytest_django import Settings

from router.destinations import KINDS
from router.models import Destination, Instance
from router.services import delivery, far_end
from tests import deliveries, factories
from tests.archives import Archive

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def storage(settings: Settings, tmp_path: Path) -> None:
    deliveries.fresh_storage(settings, tmp_path)


def folder(path: Path) -> Destination:
    form = KINDS["folder"].form({"path": str(path), "layout": "{SOPInstanceUID}.dcm"})
    assert form.is_valid(), form.errors
    return factories.destination("disk", kind="folder", settings=form.cleaned_data)


def states(destination: Destination, instances: list[Instance]) -> list[str]:
    answers = far_end.ask(destination, [one.pk for one in instances])
    assert all(answer.detail for answer in answers.values())
    return [answers[one.pk].state for one in instances]


def test_a_folder_is_looked_into(tmp_path: Path) -> None:
    disk = folder(tmp_path / "out")
    chosen = [item.instance for item in deliveries.chosen(disk, tmp_path, 3)]
    assert states(disk, chosen) == ["unknown"] * 3  # it may be a volume that is not mounted
    (tmp_path / "out").mkdir()
    assert states(disk, chosen) == ["absent"] * 3
    delivery.drain(disk.pk, 0, stop=lambda: False)
    assert states(disk, chosen) == ["present"] * 3
    files = [tmp_path / "out" / f"{one.sop_instance_uid}.dcm" for one in chosen]
    files[0].unlink()
    data = files[1].read_bytes()
    files[1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert states(disk, chosen) == ["absent", "different", "present"]


def test_an_archive_is_asked_by_c_find(tmp_path: Path) -> None:
    with Archive() as archive:
        node = deliveries.node(archive.settings)
        chosen = [item.instance for item in deliveries.chosen(node, tmp_path, 3)]
        archive.take(chosen[1].sop_instance_uid, chosen[1].sop_class_uid)
        archive.take(chosen[2].sop_instance_uid, "1.2.840.10008.5.1.4.1.1.4")
        assert states(node, chosen) == ["absent", "present", "different"]
        assert archive.associations == 1


def test_what_cannot_be_asked_is_unknown(tmp_path: Path) -> None:
    hook = factories.destination("hook", kind="webhook")
    bare = factories.destination("bare")
    bare.version = None
    one = deliveries.stored(factories.series(), tmp_path)
    assert states(hook, [one]) == states(bare, [one]) == ["unknown"]
    assert not far_end.can_be_asked("webhook")
    assert {kind for kind in KINDS if far_end.can_be_asked(kind)} == set(KINDS) - {"webhook"}
    assert far_end.ask(hook, []) == {}
