"""``verify_ledger``: 0 when the balance closes, 1 with every gap by name."""

import io

import pytest
from django.core.management import CommandError, call_command

from router.models import Instance, Receipt, RoutingMark, Study
from router.services import indexing, routing
from tests import factories
from tests.intake import Site, image

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _studies(site: Site) -> None:
    factories.destination("pacs")
    factories.rule("all", send=["pacs"])
    batch = [image(1), image(2), image(2), image(2, salt=1), image(3, study=2)]
    indexing.index(site.take(*batch))
    routing.route_batch()


def _verify(*arguments: str) -> str:
    out = io.StringIO()
    call_command("verify_ledger", *arguments, stdout=out)
    return out.getvalue()


def _gaps(*arguments: str) -> list[str]:
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("verify_ledger", *arguments, stdout=out)
    assert caught.value.returncode == 1
    return [line for line in out.getvalue().splitlines() if line.startswith("GAP ")]


@pytest.mark.parametrize("arguments", [(), ("--deep",)])
def test_the_balance_closes(arguments: tuple[str, ...]) -> None:
    text = _verify(*arguments)
    counts = dict(line.rsplit(maxsplit=1) for line in text.splitlines()[:-1])
    assert text.endswith("the balance closes\n")
    assert {name: counts[name] for name in ("acknowledged", "current", "quarantined")} == {
        "acknowledged": "5",
        "current": "3",
        "quarantined": "1",
    }
    assert (counts["duplicates"], counts["files"], counts["pairs chosen"]) == ("1", "4", "3")


def test_what_is_in_the_inbox_is_part_of_the_balance(site: Site) -> None:
    site.take(image(9))
    assert "the balance closes" in _verify()


def test_a_missing_file_is_a_gap(site: Site) -> None:
    site.stored()[0].unlink()
    (gap,) = _gaps()
    assert "has no file" in gap


def test_a_file_without_a_row_is_a_gap(site: Site) -> None:
    first = site.stored()[0]
    (first.parent / f"{'0' * 32}.dcm").write_bytes(b"x")
    assert _gaps() == [f"GAP files: {'0' * 32}.dcm has no row"]


def test_another_length_is_a_gap(site: Site) -> None:
    first = site.stored()[0]
    first.write_bytes(first.read_bytes() + b"x")
    (gap,) = _gaps()
    assert "bytes, not" in gap


def test_changed_bytes_are_a_gap_for_the_deep_look_only(site: Site) -> None:
    first = site.stored()[0]
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "the balance closes" in _verify()
    (gap,) = _gaps("--deep")
    assert gap.startswith("GAP hashes: ")


def test_an_object_that_was_never_marked_is_a_gap() -> None:
    RoutingMark.objects.all()[0].delete()
    (gap,) = _gaps()
    assert "never marked" in gap


def test_a_lost_receipt_is_a_gap() -> None:
    Receipt.objects.filter(outcome="quarantined").delete()
    assert "GAP objects: acknowledged 4, accounted 5" in _gaps()


def test_a_study_that_counts_wrong_is_a_gap() -> None:
    Study.objects.filter(instances__in=Instance.objects.current()).update(instances_count=7)
    assert all(gap.startswith("GAP studies: ") for gap in _gaps())
