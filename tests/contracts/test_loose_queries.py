"""Queries as people have them through both encodings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import take
from detector.contracts.codecs import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.packed_queries import decode_packed_run, excerpt
from detector.contracts.queries import QueryBatch
from tests.contracts.batches import assert_same_rows, loose_columns, make_batch, optional_columns
from tests.contracts.wire import decode_queries, encode_json_query

QUERY = {"event_id": "1", "principal": "p", "model": "m", "model_version": "1", "features": [1.5, 2]}
_BEST = [{"label": "cat", "score": 0.5}, {"label": "dog", "score": 0.25}]


def _json(**fields: object) -> QueryBatch:
    batch = decode_queries(json.dumps(QUERY | fields).encode(), None, timestamp=12.5).batch
    assert batch is not None
    return batch


def _features(batch: QueryBatch, row: int = 0) -> dict[str, Any]:
    """By name, None where missing."""
    missing = np.zeros(batch.features.shape, bool) if batch.missing is None else batch.missing
    numbers = [None if gone else value for value, gone in zip(batch.features[row].tolist(), missing[row], strict=True)]
    texts = [] if batch.texts is None else batch.texts[row].tolist()
    return dict(zip(batch.feature_names or (), [*numbers, *texts], strict=True))


@pytest.mark.parametrize(
    ("given", "kind", "outputs", "names"),
    [
        (0.25, "unstated", [0.25], None),
        ([0.25], "unstated", [0.25], None),
        ({"score": 0.25}, "unstated", [0.25], None),
        ("0.25", "unstated", [0.25], None),
        ("AACAPg==", "unstated", [0.25], None),
        (True, "unstated", [1], None),
        ({"price": 12.5}, "unstated", [12.5], None),
        ([0.25, 0.75], "probabilities", [0.25, 0.75], None),
        ([[0.25, 0.75]], "probabilities", [0.25, 0.75], None),
        ("AACAPgAAQD8=", "probabilities", [0.25, 0.75], None),
        ("cat", "label", [1], ["cat"]),
        (["cat"], "label", [1], ["cat"]),
        ({"label": "cat"}, "label", [1], ["cat"]),
        ({"cat": 0.75, "dog": 0.25}, "probabilities", [0.75, 0.25], ["cat", "dog"]),
        ({"scores": {"cat": 0.75, "dog": 0.25}}, "probabilities", [0.75, 0.25], ["cat", "dog"]),
        (_BEST, "probabilities", [0.5, 0.25], ["cat", "dog"]),
        ([{"class": 3, "probability": 0.5}], "probabilities", [0.5], ["3"]),
        ({"name": "cat", "score": 0.5}, "probabilities", [0.5], ["cat"]),
        (None, "none", [], None),
    ],
)
def test_outputs_are_read_as_they_are_given(given: Any, kind: str, outputs: list[float], names: Any) -> None:
    batch = _json(outputs=given)
    assert (batch.output_kind, batch.outputs.tolist()) == (kind, [outputs])
    assert (None if batch.output_names is None else batch.output_names.tolist()) == (names and [names])


@pytest.mark.parametrize(
    ("given", "declared", "outputs", "names"),
    [
        (3, "label", [3], None),
        ("3", "label", [3], None),
        ("AACAPw==", "label", [1], None),
        ("internationalise", "label", [1], ["internationalise"]),
        ({"cat": 0.25, "dog": 0.75}, "label", [1], ["dog"]),
        ([7.5, -1], "score", [7.5, -1], None),
        ({"low": 1, "high": 7.5}, "score", [1, 7.5], ["low", "high"]),
        (0.25, "probabilities", [0.25], None),
        ([0.25, 0.75], "none", [], None),
    ],
)
def test_a_kind_that_is_declared_says_what_outputs_are(given: Any, declared: str, outputs: Any, names: Any) -> None:
    batch = _json(outputs=given, output_kind=declared)
    assert (batch.output_kind, batch.outputs.tolist()) == (declared, [outputs])
    assert (None if batch.output_names is None else batch.output_names.tolist()) == (names and [names])


@pytest.mark.parametrize(
    ("given", "features"),
    [
        ({"b": 1, "a": True, "c": None, "d": "red"}, {"a": 1, "b": 1, "c": None, "d": "red"}),
        ({"a": {"b": 1, "c": {"d": "red"}}, "e": [1, 2]}, {"a.b": 1, "a.c.d": "red", "e.1": 1, "e.2": 2}),
        ([1, "red", None, True], {"1": 1, "2": "red", "3": None, "4": 1}),
    ],
)
def test_features_are_read_as_they_are_given(given: Any, features: Any) -> None:
    assert _features(_json(features=given, outputs=0.5)) == features


def test_marks_go_with_the_features_of_a_list_and_not_with_those_of_an_object() -> None:
    assert _features(_json(features=[1, "red"], missing=[True, False], outputs=0.5)) == {"1": None, "2": "red"}
    decoded = decode_queries(json.dumps(QUERY | {"features": {"a": 1}, "missing": [True]}).encode(), None, timestamp=1)
    assert decoded.repaired == {"column": 1} and decoded.batch is not None and decoded.batch.missing is None


def test_a_feature_that_is_a_text_in_one_row_is_one_in_all_and_missing_stays_missing() -> None:
    rows = [{"a": "red"}, {"a": 2}, {"a": None}, {"a": True}]
    values = [json.dumps(QUERY | {"features": row, "outputs": 0.5}).encode() for row in rows]
    [(batch, _, _)] = decode_json_run(values, [1.0] * 4).parts
    assert batch.texts is not None and batch.texts.ravel().tolist() == ["red", "2.0", None, "1.0"]


_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=4)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=4)
_VALUES = st.none() | st.booleans() | st.floats(-99, 99, width=32) | _TEXTS
_OUTPUTS = st.one_of(
    st.floats(-9, 9, width=32),
    st.sampled_from([None, "cat", [0.25, 0.75], {"cat": 0.5, "dog": 0.25}, [{"label": "cat", "score": 0.5}]]),
)


@settings(deadline=None)
@given(st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=5), _OUTPUTS, st.randoms(use_true_random=False))
def test_the_order_of_names_changes_nothing(features: dict[str, Any], outputs: Any, random: Any) -> None:
    shuffled = dict(random.sample(list(features.items()), len(features)))
    assert_same_rows(_json(features=shuffled, outputs=outputs), _json(features=features, outputs=outputs))


@settings(deadline=None)
@given(st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=5) | st.lists(_VALUES, min_size=1, max_size=5), _OUTPUTS)
def test_a_loose_query_comes_back_from_both_encodings(features: Any, outputs: Any) -> None:
    batch = _json(features=features, outputs=outputs)
    packed = encode_packed(batch)
    for value, content_type in ((encode_json_query(batch), None), (packed, PACKED_CONTENT_TYPE)):
        decoded = decode_queries(value, content_type, timestamp=0.0)
        assert decoded.batch is not None and not decoded.repaired
        assert_same_rows(decoded.batch, batch)
    assert excerpt(packed, [0]) == packed


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 3), st.sampled_from([1, 3]), st.integers(0, 6))
def test_packed_loose_batches_come_back_whole_and_joined(rows: int, dimension: int, classes: int, at: int) -> None:
    columns = optional_columns(rows, dimension) | loose_columns(rows, dimension, classes)
    batch = make_batch(rows=rows, dimension=dimension, classes=classes, **columns)
    batch.features[columns["missing"]] = 0
    pieces = [take(batch, part) for part in np.split(np.arange(rows), [min(at, rows)]) if len(part)]
    run = decode_packed_run([encode_packed(piece) for piece in pieces], [1.0] * len(pieces))
    [(found, _, _)] = run.parts
    assert_same_rows(found, batch)


def test_a_reader_of_packed_queries_alone_refuses_loose_ones_whole() -> None:
    """A detector of the previous version reads the schema and its fields."""
    plain, loose = make_batch(), make_batch(**loose_columns(5, 4, 3))
    none = make_batch(output_kind="none", outputs=np.zeros((5, 0), np.float32))
    assert b"weirguard.packed-queries/1" in encode_packed(plain)
    for batch in (loose, none, make_batch(output_kind="unstated", classes=1)):
        assert b"weirguard.packed-queries/1" not in encode_packed(batch)
