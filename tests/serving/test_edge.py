"""Whatever a caller passes, the detector takes what the logger sends, and every query is accounted for."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import PACKED_CONTENT_TYPE
from detector.contracts.principals import usable_event_id
from detector.contracts.queries import QueryBatch
from detector.serving.packing import Record, Unpackable, pack
from tests.contracts.wire import decode_queries
from tests.serving.doubles import KeepingLogger

LARGEST = float(np.finfo(np.float32).max)
GOOD: dict[str, Any] = {"principal": "p", "model": "m", "model_version": "1", "features": [1, 2], "outputs": [0.5, 0.5]}


def _logged(*calls: dict[str, Any]) -> tuple[KeepingLogger, list[QueryBatch], list[Unpackable]]:
    """The logger after ``calls``, each a change of GOOD; what the detector reads of its records; what fits none."""
    logger = KeepingLogger()
    for call in calls:
        logger.log(**{**GOOD, **call})
    packed = list(pack(logger.kept(), 1))
    return logger, list(_batches(packed)), [piece for piece in packed if isinstance(piece, Unpackable)]


def _batches(packed: list[Record | Unpackable]) -> Iterator[QueryBatch]:
    for record in packed:
        if isinstance(record, Record):
            decoded = decode_queries(record.value, PACKED_CONTENT_TYPE, timestamp=0.0)
            assert decoded.bad_rows == []
            assert decoded.batch is not None
            assert len(decoded.batch) == record.queries.total()
            yield decoded.batch


def _one(call: dict[str, Any]) -> QueryBatch:
    _, batches, unpackable = _logged(call)
    assert unpackable == []
    (batch,) = batches
    return batch


@pytest.mark.parametrize(
    ("features", "expected", "missing"),
    [
        ([1.0, math.nan], [1, 0], [False, True]),
        ([None, 2], [0, 2], [True, False]),
        (np.array([1.0, None], dtype=object), [1, 0], [False, True]),
        (np.ma.masked_array([1.0, 9.0], mask=[False, True]), [1, 0], [False, True]),
        ([1.0, "nan"], [1, 0], [False, True]),
        ([1.0, float("inf")], [1, LARGEST], None),
        ([1.0, -1e39], [1, -LARGEST], None),
        (np.array([1e300, -1.0]), [LARGEST, -1], None),
        ([-(10**400), 1], [-LARGEST, 1], None),
        ([math.nan, 1e39], [0, LARGEST], [True, False]),
        ([True, "7"], [1, 7], None),
        (np.array([3, 4], dtype=np.uint64), [3, 4], None),
    ],
)
def test_no_number_hides_a_query(features: Any, expected: list[float], missing: list[bool] | None) -> None:
    batch = _one({"features": features})
    assert batch.features.tolist() == [expected]
    assert (None if batch.missing is None else batch.missing.tolist()) == (None if missing is None else [missing])


def test_a_mask_that_was_given_stands_with_what_is_missing_besides() -> None:
    batch = _one({"features": [math.inf, 2.0, math.nan], "missing": [True, False, False]})
    assert batch.missing is not None
    assert batch.missing.tolist() == [[True, False, True]]
    assert batch.features.tolist() == [[0.0, 2.0, 0.0]]


def test_rows_with_nothing_odd_are_not_touched_by_one_that_has() -> None:
    logger, batches, _ = _logged({}, {"features": [1e39, math.nan], "principal": "thief"}, {"features": [3, 4]})
    (batch,) = batches
    assert batch.features.tolist() == [[1, 2], [LARGEST, 0], [3, 4]]
    assert batch.missing is not None
    assert batch.missing.tolist() == [[False, False], [False, True], [False, False]]
    assert logger.snapshot()["logged"] == 3


@pytest.mark.parametrize(
    ("kind", "outputs", "expected"),
    [
        ("probabilities", [0.25, 0.75], [0.25, 0.75]),
        ("probabilities", [25.0, 75.0], [0.25, 0.75]),
        ("probabilities", [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]),
        ("probabilities", [0.0, 0.0], [0.5, 0.5]),
        ("probabilities", [-math.inf, 3.0], [0.0, 1.0]),
        ("probabilities", [math.inf, 3.0], [1.0, 0.0]),
        ("probabilities", [-math.log(4), math.log(0.75)], [0.25, 0.75]),
        ("probabilities", 0.3, [0.3]),
        ("label", -1, [-1.0]),
        ("label", 3, [3.0]),
        ("label", "3", [3.0]),
        ("label", True, [1.0]),
        ("label", np.int64(4), [4.0]),
        ("label", np.array([[5]]), [5.0]),
        ("score", math.inf, [LARGEST]),
        ("score", [-1e39, 2.0], [-LARGEST, 2.0]),
    ],
)
def test_outputs_are_what_their_kind_says_when_they_arrive(kind: Any, outputs: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(_one({"outputs": outputs, "output_kind": kind}).outputs, [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("probabilities", [math.nan, 1.0]),
        ("probabilities", [None, 1.0]),
        ("label", 1.5),
        ("label", math.nan),
        ("label", math.inf),
        ("label", [1.0, 0.0]),
        ("score", [1.0, math.nan]),
    ],
)
def test_an_answer_that_says_nothing_leaves_its_query_unjudged_and_the_others_not(kind: Any, outputs: Any) -> None:
    good = {"outputs": {"label": 1.0}.get(kind, [0.5, 0.5]), "output_kind": kind}
    _, batches, unpackable = _logged(good, {**good, "outputs": outputs, "principal": "thief"}, good)
    assert sum(map(len, batches)) == 2
    (piece,) = unpackable
    assert (piece.queries, piece.error.reason) == ({("m", "thief"): 1}, "outputs")


def test_each_mend_is_counted_once_a_row() -> None:
    logger = KeepingLogger()
    logger.log(**{**GOOD, "features": [[1e39, math.inf], [1, 2]], "outputs": [[3.0, -1.0], [0.5, 0.5]]})
    (record,) = pack(logger.kept(), 1)
    assert isinstance(record, Record)
    assert +record.repairs == {"clipped": 1, "converted": 1}


@pytest.mark.parametrize(
    "event_id", ["x" * 129, "a\nb", "\ud800", "", b"bytes", 7, uuid.UUID(int=1), ["\udfff"], [None], [3]]
)
def test_an_odd_event_id_costs_no_row_and_is_the_same_again(event_id: Any) -> None:
    _, batches, _ = _logged({"event_id": event_id}, {"event_id": event_id}, {"principal": "alice", "event_id": "e1"})
    (batch,) = batches
    first, plain, again = batch.event_ids
    assert first == again == usable_event_id(first)
    assert plain == "e1"


@pytest.mark.parametrize(
    "columns",
    [
        {"hardness": math.nan},
        {"hardness": "hard"},
        {"leaf": [None]},
        {"leaf": 1 << 70},
        {"leaf": 1.5},
        {"specification": [[math.inf, 1e39]]},
        {"specification": [[None, 3.0]]},
        {"specification": [[[1], [2, 3]]]},
        {"specification": "cheap"},
        {"served_mode": ["\ud800"]},
        {"organisation": "x" * 1_000},
        {"network_prefix": [None]},
        {"user_agent_hash": [5]},
        {"user_agent_hash": ""},
        {"occurred_at": math.nan},
        {"occurred_at": -1},
        {"occurred_at": 1_700_000_000_000},
    ],
)
def test_a_column_that_a_caller_may_fill_hides_no_query(columns: dict[str, Any]) -> None:
    assert len(_one(columns)) == 1


@pytest.mark.parametrize(
    ("features", "outputs", "kept", "left"),
    [
        ([[1, 2], [3], [4, 5]], [[1, 0]] * 3, 3, 0),
        ([[1, 2], "no", [4, 5]], [[1, 0]] * 3, 2, 1),
        ([[1, 2], [3, "x"], [4, 5]], [[1, 0]] * 3, 3, 0),
        ([[1, 2], [], [4, 5]], [[1, 0]] * 3, 2, 1),
        ([[1, 2], [[3], [4]], [4, 5]], [[1, 0]] * 3, 2, 1),
        ([[1, 2], [3, 4], [4, 5]], [[1, 0], [1], "x"], 3, 0),
        ([[1, 2], [10**400, 4]], [[1, 0]] * 2, 2, 0),
        ([[1, 2], [3]], [[1, 0]] * 3, 0, 2),
        (np.ones((4, 2, 2)), [[1, 0]] * 4, 0, 4),
        (np.ones((4, 2)), [[1, 0]] * 3, 0, 4),
        (np.ones((0, 2)), [], 0, 0),
        ([["a", "b"]] * 3, [[1, 0]] * 3, 3, 0),
        ([{"a": 1}, {}, {"b": 2}], [0.5] * 3, 2, 1),
        ([{"a": 1}, {"a": 2}], [0.5, ["no", "label"]], 1, 1),
    ],
)
def test_of_a_ragged_call_the_good_rows_are_kept_and_the_others_counted(
    features: Any, outputs: Any, kept: int, left: int
) -> None:
    logger, batches, unpackable = _logged({"features": features, "outputs": outputs})
    assert unpackable == []
    assert sum(map(len, batches)) == logger.snapshot()["logged"] == kept
    assert logger.snapshot()["unjudged"] == logger.unjudged_of("p") == left


def test_what_belongs_to_a_row_of_a_ragged_call_stays_with_it() -> None:
    _, batches, _ = _logged(
        {
            "features": [[1, 2], [3], [4, 5]],
            "outputs": [[1, 0]] * 3,
            "event_id": ["a", "b", "c"],
            "occurred_at": [1.0, 2.0, 3.0],
            "leaf": [7, 8, 9],
            "served_mode": ["x", "y", "z"],
            "missing": [[False, True], [False], [True, False]],
        }
    )
    rows = {}
    for batch in batches:
        assert batch.leaf is not None and batch.served_mode is not None and batch.missing is not None
        for at, event_id in enumerate(batch.event_ids):
            own = batch.occurred_at[at], batch.leaf[at], batch.served_mode[at], batch.missing[at].tolist()
            rows[event_id] = (batch.features[at].tolist(), *own)
    assert rows == {
        "a": ([1, 0], 1.0, 7, "x", [False, True]),
        "b": ([3], 2.0, 8, "y", [False]),
        "c": ([0, 5], 3.0, 9, "z", [True, False]),
    }


@pytest.mark.parametrize("wide", [{"features": np.ones(65_537)}, {"outputs": np.full(65_537, 1 / 65_537)}])
def test_a_row_that_is_too_wide_for_the_detector_is_unjudged(wide: dict[str, Any]) -> None:
    _, batches, unpackable = _logged({}, wide)
    assert sum(map(len, batches)) == 1
    assert [(piece.queries.total(), piece.error.reason) for piece in unpackable] == [(1, "too-large")]


class _Hostile:
    """Raises at any access."""

    def __getattr__(self, name: str) -> Any:
        raise BaseException(name)

    __array__ = __len__ = __iter__ = __float__ = __str__ = __repr__ = lambda self, *_: self.any


_TEXT = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(["", "*", "x" * 300, "\ud800", "1", "nan"])
_NUMBER = (
    st.floats(width=64)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.sampled_from([1e39, -1e39, 10**400, math.nan, math.inf, 0.5, 1, -1, 2**63])
)
_CELL = _NUMBER | _TEXT | st.builds(_Hostile) | st.binary(max_size=3) | st.builds(object)
_VECTOR = st.lists(_NUMBER, max_size=4) | st.lists(_CELL, max_size=4)
_VALUES = (
    _CELL
    | _VECTOR
    | st.lists(_VECTOR, max_size=5)
    | st.lists(_CELL | _VECTOR, max_size=4)
    | st.lists(st.lists(_VECTOR, max_size=2), max_size=2)
    | st.dictionaries(_TEXT, _NUMBER, max_size=2)
    | st.builds(np.array, st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=4))
)
_GOOD_ROWS = st.integers(1, 5).map(lambda rows: ([[1.0, 2.0]] * rows, [[0.5, 0.5]] * rows))
_CALL = st.fixed_dictionaries(
    {
        "principal": st.sampled_from(["p", "q"]) | _CELL,
        "model": st.just("m") | _CELL,
        "model_version": st.just("1") | _CELL,
        "both": _GOOD_ROWS | st.tuples(_VALUES, _VALUES),
    },
    optional={
        "output_kind": st.sampled_from(["probabilities", "label", "score"]) | _CELL,
        "event_id": _VALUES,
        "occurred_at": _VALUES,
        "missing": _VALUES,
        "hardness": _VALUES,
        "leaf": _VALUES,
        "specification": _VALUES,
        "served_mode": _VALUES,
        "organisation": _VALUES,
        "colour": _VALUES,
    },
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_CALL, min_size=1, max_size=4))
def test_structured_nonsense_never_raises_and_is_accounted_for(calls: list[dict[str, Any]]) -> None:
    """The good calls around it arrive whole; every record is read without a bad row; whose is unjudged is said."""
    logger = KeepingLogger()
    for call in calls:
        features, outputs = call.pop("both")
        logger.log(features=features, outputs=outputs, **call)
    logger.log(**{**GOOD, "principal": "honest"})
    counted = logger.snapshot()
    assert counted["logged"] == counted["queued"]
    tallied = sum(count.queries for count in logger.counts())
    assert tallied + counted["unattributed"] == counted["unjudged"]
    assert counted["invalid"] <= len(calls)
    packed = list(pack(logger.kept(), 3))
    assert sum(piece.queries.total() for piece in packed) == counted["logged"]
    assert "honest" in [principal for batch in _batches(packed) for principal in batch.principals]
