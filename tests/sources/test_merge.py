from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import BadRow, DecodedQueries
from detector.sources.merge import merge, one_after_another
from tests.contracts.batches import make_batch

Row = tuple[int, int]
"""(log, row)"""


def _log(times: Sequence[int], portion: int = 3) -> Iterator[DecodedQueries]:
    """A log whose rows happened at ``times``, in portions, with a bad row beside each portion."""
    for start in range(0, len(times), portion):
        part = np.array(times[start : start + portion], dtype=np.float64)
        rows = np.arange(start, start + len(part))
        yield DecodedQueries(make_batch(rows=len(part), occurred_at=part), rows, bad_rows=[BadRow(start, "time", "")])
        yield DecodedQueries(None, np.zeros(0, dtype=np.int64), bad_rows=[BadRow(start, "syntax", "")])


def _order(portions: Iterator[tuple[int, DecodedQueries]]) -> tuple[list[Row], int]:
    rows, bad = [], 0
    for number, portion in portions:
        bad += len(portion.bad_rows)
        assert portion.batch is None or len(portion.batch) == len(portion.rows)
        rows += [(number, row) for row in portion.rows.tolist()]
    return rows, bad


def test_logs_one_after_another_keep_their_order() -> None:
    assert _order(one_after_another([_log([9, 8]), _log([1])])) == ([(0, 0), (0, 1), (1, 0)], 4)


def test_rows_come_by_time_and_equal_times_in_the_order_of_the_logs() -> None:
    rows, _ = _order(merge([_log([1, 3, 3]), _log([0, 3, 4]), _log([3])]))
    assert rows == [(1, 0), (0, 0), (0, 1), (0, 2), (1, 1), (2, 0), (1, 2)]


def test_a_late_row_stays_behind_the_rows_before_it() -> None:
    rows, _ = _order(merge([_log([5, 1]), _log([2, 6])]))
    assert rows == [(1, 0), (0, 0), (0, 1), (1, 1)]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=4), st.integers(1, 4))
def test_merging_is_a_stable_sort_by_the_running_maximum(logs: list[list[int]], portion: int) -> None:
    keyed = [
        (int(latest), number, row)
        for number, times in enumerate(logs)
        for row, latest in enumerate(np.maximum.accumulate(times) if times else [])
    ]
    rows, bad = _order(merge([_log(times, portion) for times in logs]))
    assert rows == [(number, row) for _, number, row in sorted(keyed)]
    assert bad == sum(2 * -(-len(times) // portion) for times in logs)
