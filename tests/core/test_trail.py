"""Each query is set beside its principal's two queries before it, however the rows are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from detector.core.measures import WIDTH, Trail, update_trail
from detector.core.neighbours.history import Views
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows

COUNT = 40


@dataclass(frozen=True)
class _Points:
    points: Array


@dataclass(frozen=True)
class _Reference:
    synthetic: None = None


@dataclass(frozen=True)
class _Views:
    """Those parts of ``Views`` that the trail reads."""

    projection: _Points
    reference: _Reference = _Reference()


@dataclass(frozen=True)
class _Rows:
    """Those parts of ``StepRows`` that the trail reads."""

    specification: Array

    def __len__(self) -> int:
        return len(self.specification)

    def column(self, name: str, fill: Any) -> Array:
        assert name == "specification" and np.isnan(fill)
        return self.specification


def _followed(axes: int, cuts: list[int]) -> tuple[Trail, Array]:
    """Returns the trail of queries of three principals, and their state afterwards."""
    rng = np.random.default_rng(axes)
    points = rng.normal(size=(COUNT, axes)).astype(np.float32)
    slot, asked = rng.integers(0, 3, COUNT), rng.random((COUNT, 2)).astype(np.float32)
    state = np.full((3, WIDTH), np.nan, np.float32)
    parts = [
        update_trail(cast(StepRows, _Rows(asked[own])), slot[own], cast(Views, _Views(_Points(points[own]))), state)
        for own in np.split(np.arange(COUNT), cuts)
    ]
    return Trail(*(np.concatenate(column) for column in zip(*parts, strict=True))), state


@pytest.mark.parametrize("axes", [3, 16, 20])
def test_it_is_each_query_less_the_one_before(axes: int) -> None:
    rng, (trail, state) = np.random.default_rng(axes), _followed(axes, [])
    points = np.zeros((COUNT, max(axes, 16)), np.float32)
    points[:, :axes] = rng.normal(size=(COUNT, axes)).astype(np.float32)
    slot, asked = rng.integers(0, 3, COUNT), rng.random((COUNT, 2)).astype(np.float32)
    for own in (np.flatnonzero(slot == at) for at in range(3)):
        steps = np.diff(points[own, :16], axis=0)
        np.testing.assert_array_equal(trail.step[own[1:]], steps)
        np.testing.assert_array_equal(trail.step_before[own[2:]], steps[:-1])
        np.testing.assert_array_equal(trail.specification[own], asked[own])
        np.testing.assert_array_equal(trail.specification_before[own[1:]], asked[own[:-1]])
        assert np.isnan(trail.step[own[0]]).all() and np.isnan(trail.step_before[own[:2]]).all()
        assert np.isnan(trail.specification_before[own[0]]).all()
        np.testing.assert_array_equal(state[slot[own[0]], :16], points[own[-1], :16])


@pytest.mark.parametrize("cuts", [[1], [7, 8, 30], list(range(1, COUNT))])
def test_any_cut_gives_the_same(cuts: list[int]) -> None:
    (whole, state), (same, after) = _followed(5, []), _followed(5, cuts)
    for one, other in zip((*whole, state), (*same, after), strict=True):
        np.testing.assert_array_equal(one, other)
