"""The table of decisions in the gate, and the token bucket of ``slow``."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import HEARTBEAT_KEY, KILL_SWITCH_KEY, decision_key
from detector.contracts.errors import InvalidRecord
from detector.serving.decisions import LONGEST_SECONDS, DecisionTable, TokenBucket
from tests.serving.doubles import decision, record

KEY = ("digits", "thief")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, unique=True), st.integers())
def test_in_whatever_order_they_come_the_latest_epoch_stands(epochs: list[tuple[int, int]], seed: int) -> None:
    table = DecisionTable()
    random.Random(seed).shuffle(epochs)
    for epoch in epochs:
        table.apply(*record(decision("refuse", epoch=epoch)))
    cached = table.get(KEY)
    assert cached is not None
    assert cached.epoch == max(epochs)


def test_a_record_of_the_same_epoch_that_comes_later_stands() -> None:
    table = DecisionTable()
    table.apply(*record(decision("slow", rate=1.0)))
    assert table.apply(*record(decision("refuse")))
    cached = table.get(KEY)
    assert cached is not None
    assert cached.action == "refuse"


def test_a_stale_write_after_a_release_changes_nothing_while_it_could_still_matter() -> None:
    table = DecisionTable()
    table.apply(*record(decision("refuse", epoch=(1, 1), expires_at=500.0)))
    table.apply(*record(decision("none", epoch=(2, 1), expires_at=100.0)))
    table.sweep(499.0)
    assert not table.apply(*record(decision("refuse", epoch=(1, 2), expires_at=500.0)))
    table.sweep(500.0)
    assert len(table) == 0


def test_what_has_expired_is_forgotten_and_what_was_renewed_is_not() -> None:
    table = DecisionTable()
    for number in range(1_000):
        table.apply(*record(decision("refuse", principal=f"p{number}", expires_at=200.0)))
    table.apply(*record(decision("refuse", principal="p7", epoch=(1, 2), expires_at=300.0)))
    table.sweep(250.0)
    assert len(table) == 1
    assert table.get(("digits", "p7")) is not None
    table.sweep(300.0)
    assert len(table) == 0


@pytest.mark.parametrize("expires_at", [100.0, 1e9])
@pytest.mark.parametrize("cleared", [False, True])
def test_a_decision_that_is_asserted_again_and_again_leaves_nothing_behind(expires_at: float, *, cleared: bool) -> None:
    table = DecisionTable()
    for sequence in range(1_000):
        if cleared:
            table.apply(decision_key(*KEY), None)
        table.apply(*record(decision("refuse", epoch=(1, sequence), expires_at=expires_at + sequence)))
        table.sweep(99.0 + sequence)
    assert len(table._expiries) == len(table) == 1
    table.sweep(expires_at + 1_000)
    assert (len(table._expiries), len(table)) == (0, 0)


def test_an_empty_record_clears_its_key_away() -> None:
    table = DecisionTable()
    table.apply(*record(decision("refuse")))
    table.apply(decision_key(*KEY), None)
    assert table.get(KEY) is None


def test_a_renewal_of_slow_does_not_hand_out_a_fresh_burst_but_a_new_rate_counts_anew() -> None:
    table = DecisionTable()
    table.apply(*record(decision("slow", rate=1.0)))
    first = table.get(KEY)
    table.apply(*record(decision("slow", rate=1.0, epoch=(1, 2))))
    renewed = table.get(KEY)
    table.apply(*record(decision("slow", rate=2.0, epoch=(1, 3))))
    changed = table.get(KEY)
    assert first is not None and renewed is not None and changed is not None
    assert first.bucket is renewed.bucket
    assert changed.bucket is not renewed.bucket


def test_the_kill_switch_expires_and_is_lifted() -> None:
    table = DecisionTable()
    everyone = decision("none", model="*", principal="*", expires_at=200.0)
    table.apply(*record(everyone))
    assert table.switched_off(199.0)
    assert not table.switched_off(200.0)
    table.apply(KILL_SWITCH_KEY, None)
    assert not table.switched_off(100.0)


def test_a_heartbeat_changes_nothing_in_a_table_of_a_version_that_knows_none() -> None:
    """Such a gate applies it as it applies any record: this is the only way in which it sees one."""
    table = DecisionTable()
    table.apply(*record(decision("refuse")))
    assert table.apply(HEARTBEAT_KEY, None)
    assert len(table) == 1 and table.get(KEY) is not None and not table.switched_off(0.0)


_VALUE = record(decision("refuse"))[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, _VALUE),
        (b"", _VALUE),
        (b"\xff", _VALUE),
        (b'"digits"', _VALUE),
        (b'["digits"]', _VALUE),
        (b'["digits", 7]', _VALUE),
        (b"[" * 100_000, _VALUE),
        (decision_key("digits", "somebody else"), _VALUE),
        (decision_key(*KEY), b""),
        (decision_key(*KEY), b"{}"),
        (decision_key(*KEY), b"not json"),
        (decision_key(*KEY), _VALUE.replace(b"refuse", b"banish")),
        (decision_key(*KEY), _VALUE.replace(b"decision/1", b"decision/9")),
        (KILL_SWITCH_KEY, _VALUE[:-2]),
    ],
)
def test_what_does_not_parse_is_refused_and_what_stands_stays(key: bytes | None, value: bytes) -> None:
    table = DecisionTable()
    table.apply(*record(decision("slow", rate=1.0)))
    with pytest.raises(InvalidRecord):
        table.apply(key, value)
    cached = table.get(KEY)
    assert cached is not None
    assert cached.action == "slow"


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
