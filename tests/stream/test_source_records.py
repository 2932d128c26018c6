"""Which record times are plausible, and how far reading is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from detector.stream.source_records import AHEAD_SECONDS, FetchState, plausible_time

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0


@pytest.mark.parametrize(
    ("stamped", "taken", "fault"),
    [
        (NOW, NOW, None),
        (NOW - 2 * YEAR, NOW - 2 * YEAR, None),
        (NOW + AHEAD_SECONDS, NOW + AHEAD_SECONDS, None),
        (NOW + AHEAD_SECONDS + 1, NOW + AHEAD_SECONDS, "future"),
        (NOW + 5 * YEAR, NOW + AHEAD_SECONDS, "future"),
        (-0.001, NOW, "absent"),
        (None, NOW, "absent"),
        (-1e12, NOW, "absent"),
        (0.0, NOW, "past"),
        (1e9, NOW, "past"),
    ],
)
def test_a_time_that_cannot_be_is_not_believed(stamped: float | None, taken: float, fault: str | None) -> None:
    assert plausible_time(stamped, NOW) == (taken, fault)


@given(some.integers(-(2**63), 2**63 - 1))
def test_whatever_stands_in_a_record_policy_time_stays_near_ours(milliseconds: int) -> None:
    taken, fault = plausible_time(milliseconds / 1000, NOW)
    assert 0 < taken <= NOW + AHEAD_SECONDS
    assert (fault is None) == (taken == milliseconds / 1000)


@pytest.mark.parametrize(
    ("end", "position", "delivered", "applied", "waiting"),
    [
        (10, 10, 9, 9, 0),
        (11, 11, 9, 9, 0),  # a transaction marker stands at 10
        (12, 10, 9, 9, 2),
        (20, 20, 19, 9, 10),  # handed over and not applied yet
        (20, 15, 9, 9, 5),  # 10 to 14 hold none
        (31, 31, -1, -1, 0),  # nothing but markers
        (5, 5, 9, 9, 0),  # made again
        (10, 4, -1, 9, 0),
    ],
)
def test_what_holds_no_record_does_not_wait(
    end: int, position: int, delivered: int, applied: int, waiting: int
) -> None:
    assert FetchState(end, position, delivered, 0.0).behind(applied) == waiting
