"""Queries through both encodings: good ones come back whole, bad rows are told from good ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import cut, no_queries, take
from detector.contracts.codecs import (
    PACKED_BYTES,
    PACKED_CONTENT_TYPE,
    REASONS,
    decode_queries,
    encode_json_query,
    encode_packed,
)
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import BadRow, Count, DecodedQueries, QueryBatch
from tests.contracts.batches import assert_same_rows, make_batch, optional_columns
from tests.contracts.malformed import malformed


def _unpack(value: bytes) -> DecodedQueries:
    return decode_queries(value, PACKED_CONTENT_TYPE, timestamp=0.0)


def _unpacked(batch: QueryBatch) -> QueryBatch:
    found = _unpack(encode_packed(batch)).batch
    assert found is not None
    return found


def _json(**fields: object) -> DecodedQueries:
    query = {"event_id": "1", "principal": "p", "model": "m", "model_version": "1", "features": [1], "outputs": [1]}
    return decode_queries(json.dumps(query | fields).encode(), None, timestamp=12.5)


def _time(**fields: object) -> float:
    batch = _json(**fields).batch
    assert batch is not None
    return float(batch.occurred_at[0])


def test_packed_queries_come_back_as_they_were() -> None:
    batch = make_batch(rows=50)
    assert_same_rows(_unpacked(batch), batch)


def test_packed_optional_columns_come_back_with_missing_features_blanked() -> None:
    columns = optional_columns(7, 4)
    batch = make_batch(rows=7, **columns)
    batch.features[columns["missing"]] = np.nan
    expected = replace(batch, features=np.where(columns["missing"], np.float32(0), batch.features))
    assert_same_rows(_unpacked(batch), expected)


def test_a_json_query_comes_back_as_it_was() -> None:
    batch = make_batch(rows=3, **optional_columns(3, 4))
    batch.features[batch.missing] = 0
    for row in range(3):
        found = decode_queries(encode_json_query(batch, row), "application/json; charset=utf-8", timestamp=0.0).batch
        assert found is not None
        assert_same_rows(found, take(batch, np.array([row])))


def test_plain_lists_and_base64_say_the_same() -> None:
    batch = make_batch(rows=1)
    query = json.loads(encode_json_query(batch))
    query |= {"features": batch.features[0].tolist(), "outputs": batch.outputs[0].tolist()}
    found = decode_queries(json.dumps(query).encode(), None, timestamp=0.0).batch
    assert found is not None
    assert_same_rows(found, batch)


@pytest.mark.parametrize(
    ("occurred_at", "seconds"),
    [
        (None, 12.5),
        (0, 0.0),
        (1769860800.25, 1769860800.25),
        ("2026-01-31T12:00:00.25Z", 1769860800.25),
        ("2026-01-31T13:00:00.25+01:00", 1769860800.25),
        ("9999-12-31T23:59:59Z", 253402300799.0),
    ],
)
def test_a_time_is_rfc_3339_or_seconds_or_the_record_timestamp(occurred_at: object, seconds: float) -> None:
    assert _time(occurred_at=occurred_at) == seconds


def test_a_bad_row_is_named_and_the_good_rows_survive() -> None:
    batch = make_batch(rows=6)
    batch.features[1, 2] = np.nan
    batch.outputs[3] = [0.9, 0.9, -0.8]
    batch.event_ids[3] = ""
    batch.occurred_at[4] = 1.7e12
    decoded = _unpack(encode_packed(batch))
    assert [(bad.row, bad.reason) for bad in decoded.bad_rows] == [(1, "non-finite"), (3, "identity"), (4, "time")]
    assert decoded.rows.tolist() == [0, 2, 5]
    assert decoded.batch is not None
    assert_same_rows(decoded.batch, take(batch, np.array([0, 2, 5])))


def test_only_the_rows_of_a_bad_principal_are_bad() -> None:
    batch = make_batch(rows=9, principals=["ana", "*", "bo"], principal_index=np.arange(9, dtype=np.int32) % 3)
    decoded = _unpack(encode_packed(batch))
    assert [bad.row for bad in decoded.bad_rows] == [1, 4, 7]


def test_labels_and_scores_are_taken_for_what_they_are() -> None:
    labels = np.array([[0], [9], [0.5], [-1], [np.inf]], dtype=np.float32)
    decoded = _unpack(encode_packed(make_batch(rows=5, outputs=labels, output_kind="label")))
    assert [bad.row for bad in decoded.bad_rows] == [2, 3, 4]
    scores = np.array([[1e6, -3.5]] * 5, dtype=np.float32)
    assert not _unpack(encode_packed(make_batch(rows=5, outputs=scores, output_kind="score"))).bad_rows
    assert len(_unpack(encode_packed(make_batch(rows=5, outputs=scores, output_kind="label"))).bad_rows) == 5


def test_probabilities_rounded_to_two_decimals_are_probabilities() -> None:
    outputs = np.full((5, 30), 0.03, dtype=np.float32)
    outputs[:, 0] += 0.07
    assert not _unpack(encode_packed(make_batch(rows=5, outputs=outputs))).bad_rows
    outputs[:, 1] += 0.1
    assert len(_unpack(encode_packed(make_batch(rows=5, outputs=outputs))).bad_rows) == 5


def test_counts_travel_with_queries_or_alone() -> None:
    counts = [Count("digits", "ana", "dropped", 12, 3.5), Count("digits", "bo", "refused", 1, 4.0)]
    assert _unpack(encode_packed(make_batch(), counts)).counts == counts
    alone = _unpack(encode_packed(no_queries("digits", "3"), counts))
    assert (alone.batch, alone.rows.tolist(), alone.bad_rows, alone.counts) == (None, [], [], counts)


def test_a_count_of_another_model_is_refused_when_written() -> None:
    with pytest.raises(InvalidRecord, match="counts"):
        encode_packed(make_batch(), [Count("faces", "ana", "dropped", 1, 0.0)])


def test_a_packed_record_over_the_limit_is_not_written() -> None:
    batch = make_batch(rows=2000, dimension=120)
    with pytest.raises(InvalidRecord, match="too-large"):
        encode_packed(batch)
    assert len(encode_packed(cut(batch, 0, 1000))) <= PACKED_BYTES


def test_vectors_are_little_endian_float32_on_the_wire() -> None:
    batch = make_batch(rows=1, features=np.array([[1.0, -2.0]], dtype=">f4"))
    assert b"\x00\x00\x80\x3f\x00\x00\x00\xc0" in encode_packed(batch)
    assert json.loads(encode_json_query(batch))["features"] == "AACAPwAAAMA="


def test_an_unknown_field_is_skipped() -> None:
    assert _json(colour="blue", nested={"a": [1, {"b": None}]}).batch is not None


def test_importing_the_codecs_loads_the_standard_library_alone() -> None:
    code = (
        "import sys, detector.contracts.codecs, detector.contracts.batches;"
        "print({'numpy', 'msgspec', 'kafka'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


SEEDS = [encode_packed(make_batch(rows=4)), encode_packed(make_batch(rows=4, **optional_columns(4, 4)))]
SEEDS += [encode_json_query(make_batch(rows=1)), encode_json_query(make_batch(rows=1, **optional_columns(1, 4)))]
SEEDS += [bad.value for bad, _ in zip(malformed(9), range(80), strict=False) if len(bad.value) < 2000]
CONTENT_TYPES = st.sampled_from([None, PACKED_CONTENT_TYPE])


def _holds(value: bytes, content_type: str | None) -> None:
    """Whatever ``value`` is: refused for a known reason, or split into good rows that keep every rule."""
    try:
        decoded = decode_queries(value, content_type, timestamp=1.0)
    except InvalidRecord as error:
        decoded = DecodedQueries(None, np.zeros(0, dtype=np.int64), [], [BadRow(0, error.reason, error.detail)])
    assert all(bad.reason in REASONS for bad in decoded.bad_rows)
    if decoded.batch is not None:
        assert len(decoded.rows) == len(decoded.batch) > 0
        assert np.isfinite(decoded.batch.features).all()
        assert np.isfinite(decoded.batch.outputs).all()
        assert not _unpack(encode_packed(decoded.batch)).bad_rows


@settings(deadline=None)
@given(st.binary(max_size=300), CONTENT_TYPES)
def test_arbitrary_bytes_are_refused_and_never_raise_anything_else(value: bytes, content_type: str | None) -> None:
    _holds(value, content_type)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.data(), CONTENT_TYPES)
def test_a_damaged_record_is_refused_or_read_by_the_rules(
    seed: bytes, data: st.DataObject, content_type: str | None
) -> None:
    value = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(value)))
        stop = data.draw(st.integers(start, min(len(value), start + 8)))
        value[start:stop] = data.draw(st.binary(max_size=8))
    _holds(bytes(value), content_type)
