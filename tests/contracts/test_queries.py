"""Queries through both encodings: good ones come back complete, bad rows are separated from good ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import cut, empty_batch, take
from detector.contracts.codecs import PACKED_BYTES, PACKED_CONTENT_TYPE, REASONS, encode_packed
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.limits import MOST_COUNTED
from detector.contracts.codecs.packed_queries import excerpt
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import usable_principal
from detector.contracts.queries import BadRow, Count, DecodedQueries, QueryBatch
from tests.contracts.batches import assert_same_rows, make_batch, optional_columns, principals_of
from tests.contracts.malformed import malformed
from tests.contracts.wire import decode_queries, encode_json_query


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
    batch.outputs[1, 2] = np.nan
    batch.outputs[3] = [0.9, 0.9, -0.8]
    batch.outputs[4] = 3
    batch.event_ids[4] = ""
    decoded = _unpack(encode_packed(batch))
    assert [(bad.row, bad.reason) for bad in decoded.bad_rows] == [(1, "non-finite"), (3, "outputs"), (4, "outputs")]
    assert [(bad.model, bad.principal) for bad in decoded.bad_rows] == [
        ("digits", principals_of(batch)[row]) for row in (1, 3, 4)
    ]
    assert decoded.rows.tolist() == [0, 2, 5]
    assert decoded.batch is not None
    assert_same_rows(decoded.batch, take(batch, np.array([0, 2, 5])))


def test_a_principal_that_is_no_name_is_derived_from_it_and_nobody_else_is_renamed() -> None:
    batch = make_batch(rows=9, principals=["ana", "*", "bo"], principal_index=np.arange(9, dtype=np.int32) % 3)
    decoded = _unpack(encode_packed(batch))
    assert decoded.batch is not None and decoded.repaired == {"principal": 3}
    assert principals_of(decoded.batch) == ["ana", usable_principal("*"), "bo"] * 3


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "", "*", "p" * 300, "a\x00"])
def test_json_and_packed_derive_the_same_name(text: str) -> None:
    single = _json(principal=text, event_id=text).batch
    loose = text.encode("utf-8", "surrogatepass")
    value = encode_packed(
        make_batch(rows=1, principals=["@@"], event_ids=["@@"], principal_index=np.zeros(1, np.int32))
    )
    packed = _unpack(value.replace(b"\xa2@@", _packed_text(loose))).batch
    assert single is not None and packed is not None
    assert single.principals == [usable_principal(text)]
    if text.encode("utf-8", "replace") == loose:
        assert packed.principals == single.principals and packed.event_ids == single.event_ids
    assert re.fullmatch("odd:[0-9a-f]{32}", packed.principals[0])


def _packed_text(text: bytes) -> bytes:
    return b"\xda" + len(text).to_bytes(2, "big") + text


def test_an_inferred_mask_marks_what_is_nan_and_a_given_one_wins() -> None:
    batch = make_batch(rows=3)
    batch.features[0, 1] = batch.features[2, 3] = np.nan
    inferred = _unpacked(batch)
    assert inferred.missing is not None
    assert np.argwhere(inferred.missing).tolist() == [[0, 1], [2, 3]]
    given = np.zeros((3, 4), np.bool_)
    given[0, 1] = given[1, 0] = True
    decoded = _unpack(encode_packed(replace(batch, missing=given)))
    assert decoded.batch is not None and decoded.batch.missing is not None
    assert np.argwhere(decoded.batch.missing).tolist() == [[0, 1], [1, 0], [2, 3]]
    assert not decoded.batch.features[decoded.batch.missing].any()
    assert decoded.repaired == {"missing": 1}


def test_without_nan_there_is_no_mask() -> None:
    assert _unpacked(make_batch()).missing is None


def test_features_beyond_float32_are_the_largest_of_their_sign() -> None:
    largest = float(np.finfo(np.float32).max)
    for features in ([1e39, -1e300, 3e38], [10**400, -(10**309), 3e38], [float("inf"), float("-inf"), 3e38]):
        decoded = _json(features=features)
        assert decoded.batch is not None and decoded.repaired == {"clipped": 1}
        np.testing.assert_allclose(decoded.batch.features, [[largest, -largest, 3e38]], rtol=1e-6)


def test_very_large_features_are_kept_as_they_are() -> None:
    batch = make_batch(rows=2, features=np.array([[3e38, -3e38], [1e30, 1e-40]], np.float32))
    decoded = _unpack(encode_packed(batch))
    assert decoded.batch is not None and not decoded.repaired
    np.testing.assert_array_equal(decoded.batch.features, batch.features)


def test_labels_and_scores_are_taken_for_what_they_are() -> None:
    labels = np.array([[0], [9], [0.5], [-1], [np.inf], [np.nan]], dtype=np.float32)
    decoded = _unpack(encode_packed(make_batch(rows=6, outputs=labels, output_kind="label")))
    assert [bad.row for bad in decoded.bad_rows] == [2, 4, 5]
    scores = np.array([[1e6, -3.5]] * 5, dtype=np.float32)
    assert not _unpack(encode_packed(make_batch(rows=5, outputs=scores, output_kind="score"))).bad_rows
    assert len(_unpack(encode_packed(make_batch(rows=5, outputs=scores, output_kind="label"))).bad_rows) == 5


def test_numbers_that_a_row_lacks_are_nan() -> None:
    hardness = np.array([0.5, np.nan, np.inf], np.float32)
    specification = np.array([[1, 2], [np.nan, 2], [1, -np.inf]], np.float32)
    batch = make_batch(rows=3, hardness=hardness, specification=specification)
    decoded = _unpack(encode_packed(batch))
    assert decoded.batch is not None and decoded.repaired == {"number": 2}
    np.testing.assert_array_equal(decoded.batch.hardness, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(decoded.batch.specification, [[1, 2], [np.nan, 2], [1, np.nan]])
    again = decode_queries(encode_json_query(decoded.batch, 1), None, timestamp=0.0).batch
    assert again is not None and again.hardness is None
    np.testing.assert_array_equal(again.specification, [[np.nan, 2]])


def test_texts_are_cut_and_marked() -> None:
    batch = make_batch(rows=3, organisation=["a\x1b[2Jb", "x" * 300, "çelik"], served_mode=["", "none", ""])
    decoded = _unpack(encode_packed(batch))
    assert decoded.batch is not None and decoded.repaired == {"attribute": 2}
    assert decoded.batch.organisation == ["a\N{REPLACEMENT CHARACTER}[2Jb", "x" * 256, "çelik"]
    assert decoded.batch.served_mode == ["", "none", ""]


def test_a_model_that_is_no_name_costs_its_rows_and_says_whose() -> None:
    decoded = _unpack(encode_packed(make_batch(rows=3, model="m\n"), [Count("m\n", "ana", "dropped", 3, 1.0)]))
    assert decoded.batch is None and not decoded.counts
    assert [(bad.row, bad.reason, bad.model) for bad in decoded.bad_rows] == [(row, "identity", "") for row in range(3)]
    assert [bad.principal for bad in decoded.bad_rows] == principals_of(make_batch(rows=3))
    assert decoded.repaired == {"count": 1}


def test_counts_say_why_or_other() -> None:
    counts = [Count("digits", "ana", "unjudged", 2, 3.5, reason) for reason in ("body-not-json", "It broke!", "")]
    found = _unpack(encode_packed(make_batch(), counts))
    assert [count.reason for count in found.counts] == ["body-not-json", "other", ""]
    assert found.repaired == {"reason": 1}


def test_probabilities_rounded_to_two_decimals_are_probabilities() -> None:
    outputs = np.full((5, 30), 0.03, dtype=np.float32)
    outputs[:, 0] += 0.07
    assert not _unpack(encode_packed(make_batch(rows=5, outputs=outputs))).bad_rows
    outputs[:, 1] += 0.1
    assert len(_unpack(encode_packed(make_batch(rows=5, outputs=outputs))).bad_rows) == 5


def test_counts_travel_with_queries_or_alone() -> None:
    counts = [Count("digits", "ana", "dropped", 12, 3.5), Count("digits", "bo", "refused", 1, 4.0)]
    assert _unpack(encode_packed(make_batch(), counts)).counts == counts
    alone = _unpack(encode_packed(empty_batch("digits", "3"), counts))
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


def test_an_excerpt_holds_some_rows_as_they_came_and_names_nobody_else() -> None:
    batch = make_batch(rows=6, principals=["ana", "\x00", "bo"], principal_index=np.arange(6, dtype=np.int32) % 3)
    batch.features[4, 0] = np.inf
    value = excerpt(encode_packed(batch, [Count("digits", "bo", "dropped", 1, 1.0)]), [1, 4])
    decoded = _unpack(value)
    assert decoded.batch is not None and not decoded.counts
    assert decoded.batch.principals == [usable_principal("\x00")] and decoded.batch.event_ids == ["e-0-1", "e-0-4"]
    assert decoded.repaired == {"clipped": 1}
    loose = encode_packed(make_batch(rows=2, event_ids=["@@", "fine"])).replace(b"\xa2@@", b"\xa2\xff\xfe")
    assert len(_unpack(excerpt(loose, [0])).rows) == 1


@pytest.mark.parametrize("queries", [0, -1, MOST_COUNTED, 2**63 - 1, 2**64 - 1])
def test_a_count_that_no_sum_could_hold_says_nothing(queries: int) -> None:
    decoded = _unpack(encode_packed(make_batch(rows=1), [Count("digits", "bo", "unjudged", queries, 1.0)]))
    assert (decoded.counts, decoded.repaired["count"]) == ([], 1)


@pytest.mark.parametrize("number", [10**400, -(10**400)])
@pytest.mark.parametrize("field", ["event_id", "principal", "served_mode", "leaf", "hardness", "occurred_at"])
@pytest.mark.parametrize("others", [{}, {"outputs": [1, None]}])
def test_a_number_beyond_any_float_hides_no_query(field: str, number: int, others: dict[str, object]) -> None:
    value = json.dumps({"event_id": "1", "principal": "p", "model": "m", "model_version": "1", "features": [1]})
    fields = json.loads(value) | {"outputs": [1]} | others | {field: number}
    run = decode_json_run([json.dumps(fields).encode()], [1.0])
    assert [bad.reason for _, bad in run.bad] == (["non-finite"] if others else [])
    assert all(bad.principal for _, bad in run.bad)
