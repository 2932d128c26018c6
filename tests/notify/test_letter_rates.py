"""Dead letters: one notification for a reason and window, and offsets that a restart counts right from."""

from __future__ import annotations

import pytest

from detector.contracts.codecs.records import LETTER_HEADER, encode
from detector.contracts.findings import DeadLetter
from detector.notify.letter_rates import UNKNOWN, LetterRates
from detector.notify.notification import Notification

LEAST = 5


@pytest.fixture
def rates() -> LetterRates:
    return LetterRates("x.dead-letters", 60.0, LEAST)


def _headers(reason: str) -> dict[str, bytes]:
    return {LETTER_HEADER: encode(DeadLetter("x.queries", 3, 12, None, reason, "no JSON"))}


def _count(rates: LetterRates, count: int, at: float, reason: str = "syntax", partition: int = 0) -> list[Notification]:
    found = [rates.count(partition, offset, at, _headers(reason)) for offset in range(count)]
    return [one for one in found if one is not None]


def test_a_window_gives_one_notification_for_each_reason_that_reaches_the_rate(rates: LetterRates) -> None:
    [syntax] = _count(rates, 4 * LEAST, 120.0)
    [schema] = _count(rates, LEAST, 125.0, "schema")
    assert _count(rates, LEAST - 1, 130.0, "value") == []
    assert syntax.id != schema.id
    assert syntax.labels == {"reason": "syntax"}
    assert syntax.title == "5 or more dead letters with the reason syntax within 60 seconds"
    assert syntax.record["latest"] == {"topic": "x.queries", "partition": 3, "offset": 12}


def test_each_window_gives_its_own(rates: LetterRates) -> None:
    [first] = _count(rates, LEAST, 120.0)
    [second] = _count(rates, LEAST, 180.0)
    assert first.id != second.id


def test_letters_of_all_partitions_count_together(rates: LetterRates) -> None:
    assert [len(_count(rates, 1, 120.0, partition=number)) for number in range(LEAST)] == [0] * (LEAST - 1) + [1]


def test_the_same_letters_counted_again_give_the_same_id(rates: LetterRates) -> None:
    [first] = _count(rates, LEAST, 120.0)
    rates.forget()
    [again] = _count(rates, LEAST, 120.0)
    assert (again.id, again.revision) == (first.id, first.revision)


def test_offsets_are_held_until_the_window_is_over(rates: LetterRates) -> None:
    rates.count(0, 7, 120.0, _headers("syntax"))
    rates.count(0, 8, 130.0, _headers("syntax"))
    assert rates.resume_offset(0) == 7
    rates.count(0, 9, 181.0, _headers("syntax"))
    assert rates.resume_offset(0) == 9
    rates.close(299.0)
    assert rates.resume_offset(0) == 9
    rates.close(300.0)
    assert rates.resume_offset(0) is None
    assert rates.resume_offset(1) is None


@pytest.mark.parametrize("headers", [{}, {LETTER_HEADER: b"{"}])
def test_letters_without_a_description_have_the_reason_unknown(rates: LetterRates, headers: dict[str, bytes]) -> None:
    found = [rates.count(0, offset, 120.0, headers) for offset in range(LEAST)]
    assert found[-1] is not None
    assert found[-1].labels["reason"] == UNKNOWN


def test_reasons_without_number_do_not_grow_the_counts(rates: LetterRates) -> None:
    for number in range(3_000):
        rates.count(0, number, 120.0, _headers(f"reason{number}"))
    assert len(rates._counts) == 1_000
