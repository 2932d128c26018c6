"""From the logger's rows to records and back through the detector's codec."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import PACKED_BYTES, PACKED_CONTENT_TYPE
from detector.contracts.queries import Count, DecodedQueries, QueryBatch
from detector.contracts.topics import partition_of
from detector.serving.packing import Record, Unpackable, pack, pack_counts
from tests.contracts.wire import decode_queries
from tests.serving.doubles import KeepingLogger


def _decode(value: bytes) -> DecodedQueries:
    return decode_queries(value, PACKED_CONTENT_TYPE, timestamp=0.0)


def _batch(record: Record | Unpackable) -> QueryBatch:
    assert isinstance(record, Record)
    decoded = _decode(record.value)
    assert not decoded.bad_rows
    assert decoded.batch is not None
    return decoded.batch


_calls = st.lists(
    st.tuples(
        st.sampled_from(["ann", "ben", "cid", "dora"]),
        st.sampled_from(["digits", "prices"]),
        st.sampled_from([3, 5]),
        st.integers(1, 4),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(_calls, st.integers(1, 12))
def test_every_row_arrives_once_in_its_principals_partition_and_order(
    calls: list[tuple[str, str, int, int]], partitions: int
) -> None:
    logger = KeepingLogger()
    expected: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for number, (principal, model, dimension, rows) in enumerate(calls):
        ids = [f"{number}.{row}" for row in range(rows)]
        features = [[float(number)] * dimension] * rows
        logger.log(principal, model, "1", features, [[0.25, 0.75]] * rows, event_id=ids)
        expected[principal, model, dimension] += ids
    arrived: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for record in pack(logger.kept(), partitions):
        batch = _batch(record)
        for row, event_id in enumerate(batch.event_ids):
            principal = batch.principals[batch.principal_index[row]]
            assert partition_of(principal, partitions) == record.partition  # type: ignore[union-attr]
            assert batch.features[row].tolist() == [float(event_id.partition(".")[0])] * batch.dimension
            arrived[principal, batch.model, batch.dimension].append(event_id)
    assert arrived == expected


def test_every_column_comes_through() -> None:
    logger = KeepingLogger()
    columns: dict[str, Any] = {
        "missing": [[True, False], [False, False]],
        "hardness": [0.5, 0.25],
        "leaf": [7, 8],
        "specification": [[0.9, 0.1], [0.8, 0.2]],
        "served_mode": "plain",
        "network_prefix": ["10.0.0.0/24", "10.0.1.0/24"],
        "organisation": ["x", "y"],
        "user_agent_hash": ["u", "v"],
    }
    logger.log("p", "m", "2", [[9.0, 1.0], [2.0, 3.0]], [1, 0], output_kind="label", occurred_at=[5.0, 6.0], **columns)
    (record,) = pack(logger.kept(), 4)
    batch = _batch(record)
    assert (batch.output_kind, batch.model_version) == ("label", "2")
    assert batch.occurred_at.tolist() == [5.0, 6.0]
    assert batch.outputs.tolist() == [[1.0], [0.0]]
    assert batch.features.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert batch.served_mode == ["plain", "plain"]
    for name in ("missing", "hardness", "leaf", "specification"):
        np.testing.assert_allclose(getattr(batch, name), columns[name])
    for name in ("network_prefix", "organisation", "user_agent_hash"):
        assert getattr(batch, name) == columns[name]


def test_rows_with_and_without_an_optional_column_travel_apart() -> None:
    logger = KeepingLogger()
    logger.log("p", "m", "1", [1.0], [1.0], hardness=[0.5])
    logger.log("p", "m", "1", [2.0], [1.0])
    batches = [_batch(record) for record in pack(logger.kept(), 1)]
    assert [batch.hardness is None for batch in batches] == [False, True]


def test_records_stay_below_the_limit_however_wide_the_rows_and_long_the_ids() -> None:
    logger = KeepingLogger(max_queries=10_000, max_bytes=1 << 30)
    random = np.random.default_rng(1)
    for number in range(8):
        features = random.random((200, 3_000))
        ids = ["\N{SNOWMAN}" * 120 + str(row) for row in range(200)]
        logger.log(f"p{number}", "m", "1", features, np.full((200, 2), 0.5), event_id=ids)
    records = list(pack(logger.kept(), 2))
    assert sum(len(_batch(record)) for record in records) == 1_600
    assert max(len(record.value) for record in records if isinstance(record, Record)) <= PACKED_BYTES


def test_a_row_that_fits_no_record_is_named() -> None:
    logger = KeepingLogger(max_bytes=1 << 30)
    wide = np.zeros(300_000, dtype=np.float32)
    logger.log("p", "m", "1", wide, [1.0])
    logger.log("p", "m", "1", [1.0], [1.0])
    unpackable, record = pack(logger.kept(), 1)
    assert isinstance(unpackable, Unpackable)
    assert unpackable.error.reason == "too-large"
    assert len(_batch(record)) == 1


@pytest.mark.parametrize("principals", [3, 2_000])
def test_counts_go_to_the_partitions_of_their_principals(principals: int) -> None:
    counts = [Count(f"m{n % 2}", "\N{SNOWMAN}" * 200 + str(n), "dropped", n + 1, 5.0) for n in range(principals)]
    arrived = []
    for record in pack_counts(counts, 4):
        decoded = _decode(record.value)
        assert decoded.batch is None
        assert all(partition_of(count.principal, 4) == record.partition for count in decoded.counts)
        arrived += decoded.counts
    assert sorted(arrived, key=lambda count: count.queries) == counts
