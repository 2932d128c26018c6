"""The token bucket behind `slow`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from detector.serving.decisions import LONGEST_SECONDS, TokenBucket


@settings(deadline=None)
@given(
    st.floats(0.1, 50),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_no_pattern_of_requests_gets_more_than_the_rate_and_one_overdraft(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    bucket, now, served = TokenBucket(rate), 0.0, 0
    for pause, queries in steps:
        now += pause
        served += queries if bucket.take(now, queries) == 0 else 0
    largest = max(queries for _, queries in steps)
    assert served <= now * rate + max(1.0, rate) + largest + 1e-6


def test_it_says_how_long_to_wait_and_means_it() -> None:
    bucket = TokenBucket(0.5)
    assert bucket.take(10.0) == 0
    wait = bucket.take(10.0)
    assert wait == 2.0
    assert bucket.take(10.0 + wait - 0.01) > 0
    assert bucket.take(10.0 + wait) == 0


@given(st.floats(min_value=0, max_value=100, exclude_min=True))
def test_however_low_the_rate_the_wait_is_a_number_that_a_header_can_hold(rate: float) -> None:
    bucket = TokenBucket(rate)
    bucket.take(10.0, 1 << 40)
    assert 0 < bucket.take(10.0) <= LONGEST_SECONDS


def test_a_large_request_is_paid_for_later() -> None:
    bucket = TokenBucket(1.0)
    assert bucket.take(0.0, queries=100) == 0
    assert bucket.take(50.0) == 50.0


def test_rows_counted_afterwards_cost_the_same() -> None:
    bucket = TokenBucket(1.0)
    bucket.take(0.0)
    bucket.charge(9)
    assert bucket.take(0.0) == 10.0


def test_a_clock_set_back_gives_nothing_away() -> None:
    bucket = TokenBucket(1.0)
    bucket.take(100.0)
    assert bucket.take(50.0) == 1.0
    assert bucket.take(50.5) == 0.5
