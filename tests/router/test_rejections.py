"""The journal of rejected associations: folded, durable, taken once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from router.rejections import MOST_CALLERS_A_MINUTE, RejectionJournal

START = datetime(2026, 1, 2, 3, 4, 30, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def reject(journal: RejectionJournal, *, calling_ae: str = "X", address: str = "10.0.0.1") -> None:
    journal.record(
        address=address, calling_ae=calling_ae, called_ae="Y", reason="calling_ae_not_recognized"
    )


def test_the_first_is_written_at_once_and_the_rest_folded(tmp_path: Path) -> None:
    journal = RejectionJournal(tmp_path, now=Clock())
    for _ in range(5):
        reject(journal)
    assert len((tmp_path / "current.jsonl").read_text().splitlines()) == 1
    with journal.take() as lines:
        assert [line.count for line in lines] == [1, 4]
        assert {line.minute for line in lines} == {START.replace(second=0)}
        assert len({line.id for line in lines}) == 2
    with journal.take() as lines:
        assert lines == []


def test_another_minute_address_or_caller_is_another_line(tmp_path: Path) -> None:
    clock = Clock()
    journal = RejectionJournal(tmp_path, now=clock)
    reject(journal)
    reject(journal)
    reject(journal, calling_ae="Z")
    reject(journal, address="10.0.0.2")
    clock.now += timedelta(minutes=1)
    reject(journal)
    with journal.take() as lines:
        assert sum(line.count for line in lines) == 5
        assert len({(line.address, line.calling_ae, line.minute) for line in lines}) == 4


def test_lines_stay_when_the_taker_fails(tmp_path: Path) -> None:
    journal = RejectionJournal(tmp_path)
    reject(journal)
    with pytest.raises(ZeroDivisionError), journal.take() as lines:
        raise ZeroDivisionError
    assert len(lines) == 1
    with RejectionJournal(tmp_path).take() as again:
        assert again == lines


def test_two_takers_never_get_the_same_lines(tmp_path: Path) -> None:
    first, second = RejectionJournal(tmp_path), RejectionJournal(tmp_path)
    reject(first)
    with first.take() as lines:
        reject(second, calling_ae="NEW")
        with second.take() as others:
            assert (len(lines), others) == (1, [])
    with second.take() as lines:
        assert [line.calling_ae for line in lines] == ["NEW"]


def test_a_flood_of_callers_is_bounded(tmp_path: Path) -> None:
    journal = RejectionJournal(tmp_path, now=Clock())
    for number in range(MOST_CALLERS_A_MINUTE + 30):
        reject(journal, calling_ae=f"AE{number}")
    with journal.take() as lines:
        assert len(lines) == MOST_CALLERS_A_MINUTE + 2
        assert sum(line.count for line in lines) == MOST_CALLERS_A_MINUTE + 30


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    journal = RejectionJournal(tmp_path)
    reject(journal)
    with (tmp_path / "current.jsonl").open("a") as file:
        file.write('{"id": "cut')
    with journal.take() as lines:
        assert len(lines) == 1
