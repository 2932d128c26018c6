"""Columns of rows that come from several batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.core.state.rows import StepRows
from tests.core.streams import Features, batch, random

NONE = np.empty(0, np.int64)


def _rows(outputs: list[Features], of: list[int], at: list[int]) -> StepRows:
    """Rows ``at[i]`` of the batches ``of[i]``."""
    rng = np.random.default_rng(0)
    made = [
        batch(random(rng, len(output), 2), ["ann"] * len(output), outputs=output, kind="probabilities")
        for output in outputs
    ]
    batches = tuple(replace(one, outputs=output) for one, output in zip(made, outputs, strict=True))
    slot = np.zeros(len(of), np.int64)
    features = np.zeros((len(of), 2), np.float32)
    return StepRows("m", "1", NONE, NONE, slot, slot, NONE, NONE, slot, features, batches, np.array(of), np.array(at))


@pytest.mark.parametrize("width", [2, 3, 7])
def test_the_two_largest_outputs_ascend_and_nan_is_the_largest(width: int) -> None:
    rng = np.random.default_rng(width)
    outputs = rng.integers(-3, 4, (200, width)).astype(np.float32)
    outputs[rng.random(outputs.shape) < 0.1] = np.nan
    outputs[rng.random(outputs.shape) < 0.1] = -np.inf
    found = _rows([outputs], [0] * 200, list(range(200))).top_two
    np.testing.assert_array_equal(found, np.partition(outputs, -2, axis=1)[:, -2:])


def test_where_there_are_no_two_outputs_they_are_nan() -> None:
    wide, one, none = (np.array([[1, 5, 3]], "f4"), np.array([[4], [6]], "f4"), np.empty((1, 0), "f4"))
    found = _rows([wide, one, none], [1, 0, 2, 1], [1, 0, 0, 0]).top_two
    nan = np.nan
    np.testing.assert_array_equal(found, np.array([[nan, 6], [3, 5], [nan, nan], [nan, 4]], "f4"))
