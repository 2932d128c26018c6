"""W is scipy's, for any sample size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import shapiro

from detector.core.normality import half_weights, rejected_statistics, statistic

SAMPLES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda generator, count: generator.normal(size=count),
    "long tail": lambda generator, count: generator.lognormal(size=count),
    "far from zero": lambda generator, count: 1e6 + generator.random(count),
    "two heaps at the border of the formulas": lambda generator, count: (
        (np.arange(count) < 0.08 * count) + 1e-3 * generator.normal(size=count)
    ),
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("count", [101, 102, 777, 1063, 2048, 4999])
def test_w_is_what_scipy_says(kind: str, count: int) -> None:
    sample = np.sort(SAMPLES[kind](np.random.default_rng(count), count))
    assert statistic(sample) == pytest.approx(float(shapiro(sample).statistic), rel=0, abs=1.5e-10)


def test_samples_beyond_what_is_shared_go_on_smoothly() -> None:
    shared, own = half_weights(16_384), half_weights(16_386)
    assert len(own) == len(shared) + 1
    np.testing.assert_allclose(shared, own[:-1], rtol=0, atol=1e-4)
    assert 2 * (own @ own) == pytest.approx(1.0, abs=1e-12)


def test_windows_are_judged_as_single_samples_are() -> None:
    windows = np.sort(np.random.default_rng(0).normal(5.0, 0.1, (3, 256)), axis=1)
    windows[1, 200:] = np.inf
    found, left = rejected_statistics(windows)
    for row, count in enumerate((256, 200, 256)):
        own = windows[row, :count]
        kept = own[np.abs(own - own.mean()) < 3 * own.std()]
        assert left[row] == len(kept)
        assert found[row] == pytest.approx(statistic(kept), rel=0, abs=1e-9)
