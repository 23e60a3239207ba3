"""Trouble of the system is waited out; trouble of one object stops no other."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from router import doorbell
from router.models import Bell, Decision, Instance, RoutingMark
from router.services import clock, decisions, importing, indexer, indexing, reckoning, routing
from router.services.actors import SYSTEM
from tests.intake import Site, image, part10_file

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def without_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Have the kernel refuse to open objects: the process has no file descriptor left."""
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:  # Any: pathlib's own
        if self.suffix == ".dcm":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        yield patched


# --- indexing ------------------------------------------------------------------------------------
def test_a_process_without_descriptors_keeps_no_object_apart(
    site: Site, without_descriptors: pytest.MonkeyPatch
) -> None:
    leftovers = [replace(item, structure=None) for item in site.take(image(1), image(2))]

    with pytest.raises(OSError, match="Too many open files"):
        indexer.index_all(leftovers)
    without_descriptors.undo()

    assert indexer.index_all(leftovers) == 2
    assert not Instance.objects.quarantined().exists()


def test_a_file_that_is_nowhere_stops_no_other_and_is_a_gap(site: Site) -> None:
    lost, *others = site.take(image(1), image(2), image(3))
    lost.path.unlink()

    assert indexer.index_all([lost, *others]) == 3

    assert len(site.stored()) == 2
    assert site.waiting() == []
    assert reckoning.reckon().gaps == [
        ("files", f"instance {lost.sop_instance_uid} has no file"),
    ]


# --- routing -------------------------------------------------------------------------------------
def test_an_object_that_cannot_be_opened_for_now_is_decided_later(
    site: Site, without_descriptors: pytest.MonkeyPatch
) -> None:
    indexing.index(site.take(image(1)))
    RoutingMark.objects.update(header=None, tries=decisions.MOST_TRIES)

    assert routing.route_batch() == 1
    assert RoutingMark.objects.undecided().count() == 1
    without_descriptors.undo()

    with clock.shifted(routing.LONGEST_WAIT):
        assert routing.route_batch() == 1
    assert not Decision.objects.exclude(problem="").exists()


# --- ringing -------------------------------------------------------------------------------------
def test_what_was_written_stands_when_the_ring_fails(site: Site) -> None:
    """The sweep rings anew; an indexer that took this for a failure would begin again."""
    spooled = site.take(image(1))
    Bell.objects.create(key="route", rung=False, rung_at="2026-01-01T00:00Z")

    def refuse(execute: Any, sql: str, *rest: Any) -> Any:  # Any: Django's wrapper
        if "django_q_ormq" in sql:
            raise OSError("the queue is away")
        return execute(sql, *rest)

    with connection.execute_wrapper(refuse):
        assert indexing.index(spooled) == 1
        with pytest.raises(OSError, match="the queue is away"):
            doorbell.ring("route")

    assert len(site.stored()) == 1


# --- importing -----------------------------------------------------------------------------------
def test_a_link_in_circles_ends(tmp_path: Path) -> None:
    part10_file(tmp_path / "a" / "1.dcm", image(1))
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)

    assert list(importing.files_below([tmp_path])) == [tmp_path / "a" / "1.dcm"]


def test_a_named_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    part10_file(tmp_path / "a" / "1.dcm", image(1))
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)

    assert list(importing.files_below([tmp_path / "link"])) == [tmp_path / "link" / "1.dcm"]


def test_a_pipe_is_refused_instead_of_waited_for(site: Site, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    (_path, report) = list(importing.run([tmp_path / "pipe"], calling_ae="X", actor=SYSTEM))[-1]

    assert report.refused == [(tmp_path / "pipe", "not a regular file, or not readable")]
