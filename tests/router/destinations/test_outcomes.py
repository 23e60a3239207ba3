"""The outcome table, written down a second time."""

import pytest

from router.destinations.outcomes import (
    TABLE,
    Outcome,
    classify,
    http_status,
    is_lasting,
    rejection_sentence,
    status_sentence,
)

EXPECTED = {
    0x0000: "delivered",
    0x0001: "warning",
    0x0105: "few_tries",
    0x0107: "warning",
    0x0110: "retry",
    0x0111: "few_tries",
    0x0116: "warning",
    0x0117: "data_error",
    0x0118: "configuration",
    0x0119: "data_error",
    0x0120: "data_error",
    0x0121: "data_error",
    0x0122: "configuration",
    0x0124: "configuration",
    0x0210: "retry",
    0x0211: "configuration",
    0x0212: "data_error",
    0x0213: "retry",
    0x0301: "configuration",
    0x0307: "configuration",
    0x0400: "data_error",
    0x0401: "configuration",
    0x0403: "configuration",
    0x0407: "configuration",
    0x0408: "retry",
    0x0413: "data_error",
    0x0425: "retry",
    0x0429: "retry",
    0x0500: "retry",
    0x0503: "retry",
    0xA700: "retry",
    0xA7FF: "retry",
    0xA900: "data_error",
    0xA9AB: "data_error",
    0xB000: "warning",
    0xB006: "warning",
    0xB007: "warning",
    0xB123: "warning",
    0xC000: "few_tries",
    0xCFFF: "few_tries",
    0xFE00: "few_tries",
    0xFFFF: "few_tries",
}


@pytest.mark.parametrize(("status", "outcome"), EXPECTED.items())
def test_table(status: int, outcome: str) -> None:
    assert classify(status) == Outcome(outcome)


def test_an_http_status_keeps_its_digits() -> None:
    assert [f"{http_status(status):04X}" for status in (200, 404, 503)] == ["0200", "0404", "0503"]
    assert classify(http_status(503), {"05xx": "data_error"}) == Outcome.DATA_ERROR


def test_every_row_of_the_table_is_written_down_here() -> None:
    written = [f"{status:04X}" for status in EXPECTED]
    patterns = [pattern.replace("x", "") for pattern in TABLE]
    assert all(any(code.startswith(pattern) for code in written) for pattern in patterns)


def test_only_success_and_warnings_ever_count_as_delivered() -> None:
    arrived = {s for s in range(0x10000) if classify(s) in (Outcome.DELIVERED, Outcome.WARNING)}
    assert arrived == {0x0000, 0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(0xB007, "data_error"), (0xB006, "warning"), (0xA700, "delivered"), (0xA701, "few_tries")],
)
def test_a_destination_may_see_it_otherwise(status: int, outcome: str) -> None:
    overrides = {"B007": "data_error", "A700": "delivered", "A7xx": "few_tries"}
    assert classify(status, overrides) == Outcome(outcome)


@pytest.mark.parametrize(
    ("numbers", "lasting"),
    [
        ((1, 1, 1), True),
        ((1, 1, 2), True),
        ((1, 1, 3), True),
        ((2, 1, 3), True),
        ((1, 1, 7), True),
        ((2, 1, 1), False),
        ((1, 2, 2), True),
        ((2, 2, 1), False),
        ((2, 3, 1), False),
        ((1, 3, 2), False),
        ((2, 3, 2), False),
    ],
)
def test_rejections(numbers: tuple[int, int, int], *, lasting: bool) -> None:
    assert is_lasting(*numbers) is lasting


def test_sentences_name_the_cause_and_the_remedy() -> None:
    assert rejection_sentence(
        1, 1, 3, peer="PACS at 10.0.0.1:104", calling="US", called="PACS"
    ) == (
        "PACS at 10.0.0.1:104 rejects the association (A-ASSOCIATE-RJ 1/1/3): it does not know our "
        "AE title US. Add US with our address there, or correct calling_ae here."
    )
    assert status_sentence(0xA9AB, peer="PACS", offending=("(0010,0020)",)) == (
        "PACS answered A9AB: the data set does not match the SOP class. It names (0010,0020)."
    )
