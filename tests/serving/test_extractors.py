"""Rows out of JSON bodies."""

from __future__ import annotations

import pytest

from detector.serving.extractors import Scored, kserve_v1, kserve_v2


def test_kserve_v1_takes_instances_and_predictions_and_flattens_images() -> None:
    request = {"instances": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}
    scored = kserve_v1("label")(request, {"predictions": [0, 1]})
    assert scored == Scored([[1, 2, 3, 4], [5, 6, 7, 8]], [0, 1], "label")


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
    assert scored == Scored([[1, 2, 3], [4, 5, 6]], [[0.1, 0.9], [0.8, 0.2]])


def test_kserve_v2_refuses_a_shape_that_lies() -> None:
    request = {"inputs": [{"name": "x", "shape": [4, 3], "data": [1, 2, 3, 4, 5, 6]}]}
    with pytest.raises(ValueError, match="'x' has 6 numbers for 4 rows"):
        kserve_v2()(request, {"outputs": [{"name": "p", "shape": [4], "data": [1, 1, 1, 1]}]})
