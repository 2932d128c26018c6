"""Rows out of JSON bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.errors import Unjudged
from detector.serving.bodies import estimate_rows
from detector.serving.extractors import Scored, kserve_v1, kserve_v2

FARTHEST = float(np.finfo(np.float32).max)


def parts(scored: Scored | None) -> tuple[Any, ...]:
    """What was read, as lists; -9 for a feature that is missing."""
    assert scored is not None
    features = np.asarray(scored.features)
    features = (features if features.dtype.kind in "OU" else np.nan_to_num(features, nan=-9)).tolist()
    return features, np.asarray(scored.outputs).tolist(), scored.output_kind, dict(scored.columns)


def answered(error: Unjudged, *bodies: Any) -> int:
    """For how many queries ``error`` stands."""
    return max(map(estimate_rows, bodies)) if error.queries is None else error.queries


def test_kserve_v1_takes_instances_and_predictions_and_flattens_images() -> None:
    request = {"instances": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}
    scored = kserve_v1("label")(request, {"predictions": [0, 1]})
    assert parts(scored) == ([[1, 2, 3, 4], [5, 6, 7, 8]], [[0], [1]], "label", {})


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_kserve_v2_takes_tensors_flat_or_nested(data: list[object]) -> None:
    request = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": data}]}
    response = {
        "outputs": [
            {"name": "noise", "shape": [2, 1], "data": [9, 9]},
            {"name": "p", "shape": [2, 2], "data": [0.1, 0.9, 0.8, 0.2]},
        ]
    }
    scored = kserve_v2(outputs="p")(request, response)
    assert parts(scored) == ([[1, 2, 3], [4, 5, 6]], [[0.1, 0.9], [0.8, 0.2]], "probabilities", {})


def test_kserve_v2_refuses_a_shape_that_lies() -> None:
    request = {"inputs": [{"name": "x", "shape": [4, 3], "data": [1, 2, 3, 4, 5, 6]}]}
    with pytest.raises(Unjudged, match=r"'x' has 6 numbers for the shape \[4, 3\]"):
        kserve_v2()(request, {"outputs": [{"name": "p", "shape": [4], "data": [1, 1, 1, 1]}]})


ROWS = [[1.0, None], [2.0, 3.0]]
MISSING = [[False, True], [False, False]]


def test_kserve_v1_takes_missing_features_tree_nodes_and_what_is_asked_of_a_zoo() -> None:
    request = {"instances": ROWS, "parameters": {"accuracy": 0.75, "latency": 20, "trace": True}}
    features, _, _, columns = parts(kserve_v1()(request, {"predictions": [[1.0], [1.0]], "leaf": [4, 7]}))
    assert features == [[1, -9], [2, 3]]
    np.testing.assert_array_equal(columns["missing"], MISSING)
    assert (columns["leaf"], columns["specification"]) == ([4, 7], [[0.75, 20], [0.75, 20]])


def test_kserve_v2_takes_missing_features_tree_nodes_and_what_is_asked_of_a_zoo() -> None:
    tensor = {"name": "x", "shape": [2, 2], "data": [1.0, None, 2.0, 3.0]}
    request = {"inputs": [tensor], "parameters": {"accuracy": 0.75, "latency": 20}}
    outputs = [{"name": "p", "shape": [2, 1], "data": [1, 1]}, {"name": "leaf", "shape": [2], "data": [4, 7]}]
    *_, columns = parts(kserve_v2()(request, {"outputs": outputs}))
    np.testing.assert_array_equal(columns["missing"], MISSING)
    assert (columns["leaf"], columns["specification"]) == ([4, 7], [[0.75, 20], [0.75, 20]])


def test_a_feature_that_is_nan_counts_as_missing_so_that_nobody_hides_behind_it() -> None:
    features, *_, columns = parts(kserve_v1()({"instances": [[1.0, float("nan")]]}, {"predictions": [1.0]}))
    assert features == [[1, -9]]
    np.testing.assert_array_equal(columns["missing"], [[False, True]])


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        [0.75, 20],
        {"accuracy": 0.75},
        {"accuracy": "high", "latency": 20},
        {"accuracy": float("nan"), "latency": 20},
        {"accuracy": 0.75, "latency": 1e300},
        {"accuracy": True, "latency": 20},
    ],
)
def test_what_is_no_specification_is_ignored_and_the_query_logged(parameters: object) -> None:
    answer = {"predictions": [[1.0], [1.0]], "leaf": ["a", "b"]}
    features, *_, columns = parts(kserve_v1()({"instances": ROWS, "parameters": parameters}, answer))
    assert (len(features), columns.keys()) == (2, {"missing"})


def _v2(*tensors: dict[str, Any], rows: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"inputs": list(tensors)}, {"outputs": [{"name": "p", "shape": [rows, 1], "data": [0.5] * rows}]}


def _column(name: str, *data: Any, shape: list[Any] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": "FP64", "data": list(data)}


def test_one_tensor_a_column_is_one_table() -> None:
    features, *_ = parts(
        kserve_v2()(*_v2(_column("a", 1, 2), _column("b", 3, 4), _column("c", 5, 6, 7, 8, shape=[2, 2])))
    )
    assert features == [[1, 3, 5, 6], [2, 4, 7, 8]]


def test_named_columns_stand_in_the_owners_order_whatever_the_callers() -> None:
    extract = kserve_v2(inputs=("a", "b"))
    one, two, rest = _column("a", 1, 2), _column("b", 3, 4), _column("noise", 9, 9, 9)
    for tensors in ((one, two, rest), (rest, two, one)):
        assert parts(extract(*_v2(*tensors)))[0] == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("exchange", "reason", "queries"),
    [
        (_v2(_column("a", 1, 2), _column("b", 3, 4, 5)), "rows", 3),
        (_v2(_column("a", 1, 2), _column("b", "red", "blue")), "features", 2),
        (_v2(_column("a", 1, 2), _column("a", 3, 4)), "ambiguous", 2),
        (_v2(_column("a", 1, 2, 3)), "rows", 3),
        (_v2(_column("a", 1, 2), rows=1), "rows", 2),
        (_v2(_column("a", 1, 2, shape=[10**9, 7])), "features", 2),
        (_v2(_column("a", 1, 2, shape=["2"])), "features", 2),
        (_v2(_column("a", 1, 2, shape=[2, True])), "features", 2),
        (_v2(_column("a", shape=[0, 4])), "features", 2),
        (_v2({"name": "a", "shape": [2], "parameters": {"binary_data_size": 8}}), "binary", 2),
        (_v2(), "rows", 1),
        (({"inputs": 7}, {"outputs": []}), "features", 1),
        (({"inputs": [_column("a", 1)]}, {"outputs": []}), "outputs", 1),
        (({"inputs": [_column("a", 1)]}, {"model_name": "m"}), "outputs", 1),
        (({"inputs": [_column("a", 1)]}, [1]), "outputs", 1),
    ],
)
def test_kserve_v2_says_why_it_cannot_read(exchange: Any, reason: str, queries: int) -> None:
    with pytest.raises(Unjudged) as raised:
        kserve_v2()(*exchange)
    assert (raised.value.reason, answered(raised.value, *exchange)) == (reason, queries)


def test_a_named_tensor_that_is_absent_is_not_replaced_by_another() -> None:
    for extract in (kserve_v2(inputs="x"), kserve_v2(outputs="y")):
        with pytest.raises(Unjudged, match="no tensor"):
            extract(*_v2(_column("a", 1, 2)))


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ([2, 2, 2], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([-1, 4], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([2, -1], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([2, 1, 4, 1], [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ],
)
def test_shapes_of_any_number_of_axes(shape: list[int], features: Any) -> None:
    assert parts(kserve_v2()(*_v2(_column("a", *range(1, 9), shape=shape))))[0] == features


@pytest.mark.parametrize(
    ("instances", "features"),
    [
        ([1, 2], [[1], [2]]),
        ([{"image": [[1, 2], [3, 4]]}, {"image": [[5, 6], [7, 8]]}], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([["1.5", True], [2, False]], [[1.5, 1], [2, 0]]),
        ([[[1, 2]], [3, 4]], [[1, 2], [3, 4]]),
        ([[10**400, 1], [-(10**400), None]], [[FARTHEST, 1], [-FARTHEST, -9]]),
        ([[float("inf"), 1e39], [-1e39, 0]], [[FARTHEST, FARTHEST], [-FARTHEST, 0]]),
    ],
)
def test_kserve_v1_takes_rows_of_many_forms(instances: Any, features: Any) -> None:
    assert parts(kserve_v1()({"instances": instances}, {"predictions": [[1.0], [1.0]]}))[0] == features


@pytest.mark.parametrize("more", [{}, {"0": 9}, {"az": 9, "zz": [9, 9]}])
@pytest.mark.parametrize("less", [set(), {"a"}, {"b"}, {"c"}])
def test_named_features_stand_where_the_owner_says_whatever_names_come_besides(more: Any, less: set[str]) -> None:
    named = {"c": 3, "a": 1, "b": 2}
    given = more | {name: value for name, value in named.items() if name not in less}
    extract = kserve_v1(inputs=("b", "c", "a"))
    expected = [[-9 if name in less else named[name] for name in "bca"]] * 2
    rows = {"instances": [given, given]}
    columns = {"inputs": {name: [value, value] for name, value in given.items()}}
    for request in (rows, columns):
        assert parts(extract(request, {"predictions": [[1.0], [1.0]]}))[0] == expected


def test_rows_without_names_are_taken_as_they_stand() -> None:
    assert parts(kserve_v1(inputs=("b", "a"))({"instances": [[1, 2]]}, {"predictions": [[1.0]]}))[0] == [[1, 2]]


def test_none_of_the_names_that_the_model_has_is_no_query_that_can_be_read() -> None:
    with pytest.raises(Unjudged, match="features"):
        kserve_v1(inputs=("b", "a"))({"inputs": {"x": [1]}}, {"predictions": [[1.0]]})


def test_the_order_of_names_in_a_request_changes_nothing() -> None:
    answer = {"outputs": [[1.0], [1.0]]}
    columns = {"b": [[3, 4], [5, 6]], "a": [1, 2]}
    for inputs in (columns, dict(reversed(columns.items()))):
        assert parts(kserve_v1()({"inputs": inputs}, answer))[0] == [{"a": 1, "b": [3, 4]}, {"a": 2, "b": [5, 6]}]


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        ([{"age": 3, "colour": "red"}, {"colour": "blue", "age": None}], [0.5, 0.25]),
        ([{"age": 3, "size": 1}, {"size": 2}], [[0.5, 0.5], [0.25, 0.75]]),
        ([[1, "red"], [2, 3]], ["cat", "dog"]),
        ([[1, 2], [2, 3]], [{"cat": 0.5, "dog": 0.5}, {"dog": 1.0}]),
        ([[1, 2], [2, 3]], [[{"label": "cat", "score": 0.5}], [{"label": "dog", "score": 0.25}]]),
    ],
)
def test_names_and_texts_are_passed_on_as_they_were_given(rows: list[Any], answers: list[Any]) -> None:
    asked = {"instances": rows, "parameters": {"accuracy": 0.5, "latency": 3}}
    scored = kserve_v1()(asked, {"predictions": answers, "leaf": [1, 2]})
    assert scored is not None
    assert (scored.features, scored.outputs) == (rows, answers)
    assert dict(scored.columns) == {"leaf": [1, 2], "specification": [[0.5, 3]] * 2}


def test_a_text_among_the_features_that_the_owner_names_is_kept_in_their_order() -> None:
    scored = kserve_v1(inputs=("b", "a"))({"instances": [{"a": 1, "b": "red", "c": 2}]}, {"predictions": [0.5]})
    assert parts(scored)[0] == [["red", "1"]]


@pytest.mark.parametrize("odd", [[1.0], [1.0, 2.0, 3.0], {"a": 1.0}, None, [], "x", [[], [1.0]]])
def test_good_rows_beside_an_odd_one_are_read_with_their_own_answers(odd: Any) -> None:
    request = {"instances": [[1.0, 2.0], odd, [3.0, 4.0]]}
    answer = {"predictions": [[0.1], [0.2], [0.3]], "leaf": [7, 8, 9]}
    scored = kserve_v1()(request, answer)
    features, outputs, _, columns = parts(scored)
    assert (features, outputs, columns) == ([[1, 2], [3, 4]], [[0.1], [0.3]], {"leaf": [7, 9]})
    assert scored is not None and scored.unjudged == {"features": 1}


def test_good_answers_beside_an_odd_one_are_read_with_their_own_rows() -> None:
    request = {"instances": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], "odd"]}
    scored = kserve_v1()(request, {"predictions": [[0.1, 0.9], None, [0.2, 0.8], [0.3, 0.7]]})
    assert parts(scored)[:2] == ([[1, 2], [5, 6]], [[0.1, 0.9], [0.2, 0.8]])
    assert scored is not None and scored.unjudged == {"features": 1, "outputs": 1}


@pytest.mark.parametrize(
    ("request_", "answer", "reason", "queries"),
    [
        ({"instances": [[1], [2]]}, {"predictions": [[1]]}, "rows", 2),
        ({"instances": [[1]]}, {"predictions": [[1], [2], [3]]}, "rows", 3),
        ({"instances": [[1]]}, {"error": "x"}, "outputs", 1),
        ({"instances": ["a", {"b64": "aGk="}]}, {"predictions": [1, 2]}, "features", 2),
        ({"instances": "12"}, {"predictions": [1, 2]}, "features", 2),
        ({"instances": [[1]], "inputs": [[2]]}, {"predictions": [1]}, "ambiguous", 1),
        ({"inputs": {"a": [1, 2], "b": [1]}}, {"outputs": [1, 2]}, "rows", 2),
        ({"instances": [[1], [2]]}, {"predictions": {"a": [1, 2], "b": [1, 2]}}, "outputs", 2),
    ],
)
def test_kserve_v1_says_why_it_cannot_read(request_: Any, answer: Any, reason: str, queries: int) -> None:
    with pytest.raises(Unjudged) as raised:
        kserve_v1()(request_, answer)
    assert (raised.value.reason, answered(raised.value, request_, answer)) == (reason, queries)


_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(_VALUES, min_size=1, max_size=4), st.lists(_VALUES, min_size=1, max_size=4))
def test_every_row_is_read_or_counted(instances: list[Any], predictions: list[Any]) -> None:
    scored, unjudged = None, 0
    try:
        scored = kserve_v1()({"instances": instances}, {"predictions": predictions})
    except Unjudged as error:
        unjudged = answered(error, instances, predictions)
    if scored is None:
        assert unjudged in {len(instances), len(predictions)}
        return
    if isinstance(scored.features, list):
        assert scored.features == instances and scored.outputs == predictions and not scored.unjudged
        return
    features, outputs = np.asarray(scored.features), np.asarray(scored.outputs)
    assert len(features) == len(outputs) and features.ndim == 2 and features.size
    assert len(features) + sum(scored.unjudged.values()) == len(instances) == len(predictions)
    assert not np.isinf(features).any()
