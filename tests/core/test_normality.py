"""W is scipy's, for any sample size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import shapiro

from detector.core.signals.shapiro_wilk import half_weights, statistic, weight_table

SAMPLES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda generator, count: generator.normal(size=count),
    "long tail": lambda generator, count: generator.lognormal(size=count),
    "far from zero": lambda generator, count: 1e6 + generator.random(count),
    "two heaps at the border of the formulas": lambda generator, count: (
        (np.arange(count) < 0.08 * count) + 1e-3 * generator.normal(size=count)
    ),
}


def _half(count: int) -> NDArray[np.float64]:
    half = np.empty(count // 2)
    half_weights(count, half, np.empty(count // 2))
    return half


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("count", [12, 13, 101, 102, 777, 1063, 2048, 4999])
def test_w_is_what_scipy_says(kind: str, count: int) -> None:
    sample = np.sort(SAMPLES[kind](np.random.default_rng(count), count))
    expected = float(shapiro(sample).statistic)
    assert statistic(sample, _half(count), np.empty(count)) == pytest.approx(expected, rel=0, abs=1e-12)


def test_weights_are_of_unit_length() -> None:
    for count in (12, 101, 16_384, 100_001):
        assert 2 * (_half(count) @ _half(count)) == pytest.approx(1.0, abs=1e-12)


def test_the_table_holds_the_weights_of_every_size() -> None:
    table = weight_table(160)
    assert not table[:12].any()
    for count in (12, 101, 160):
        np.testing.assert_array_equal(table[count, : count // 2], _half(count))
        assert not table[count, count // 2 :].any()


@pytest.mark.parametrize("spread", [0.0, 1e-12])
def test_a_sample_without_spread_has_no_w(spread: float) -> None:
    sample = np.sort(3.0 + spread * np.random.default_rng(1).random(150))
    assert np.isnan(statistic(sample, _half(150), np.empty(150)))
