"""Rows out of JSON bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detector.contracts.errors import Unjudged
from detector.serving.extractors import Scored, kserve_v1, kserve_v2


def parts(scored: Scored | None) -> tuple[Any, ...]:
    """What was read, as lists; -9 for a feature that is missing."""
    assert scored is not None
    features = np.nan_to_num(np.asarray(scored.features), nan=-9).tolist()
    return features, np.asarray(scored.outputs).tolist(), scored.output_kind, dict(scored.columns)


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
