"""Compatible mode gives the published agent's verdict for every query."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.engine import Engine, EngineConfig, PradaConfig
from tests.core.oracle import verdicts
from tests.core.streams import KINDS, Features, batch, linear_outputs, observe, of_one

DELTA = 0.95


def _compatible(delta: float = DELTA) -> Engine:
    return Engine(EngineConfig(mode="compatible", prada=PradaConfig(delta=delta)))


def _assert_agrees(features: Features, labels: NDArray[np.int64], cuts: list[int], delta: float = DELTA) -> None:
    flagged, w = verdicts(features, labels, delta)
    seen = observe(_compatible(delta), of_one(features, labels), cuts)
    np.testing.assert_array_equal(flagged, seen.flagged)
    np.testing.assert_allclose(seen.signals["prada"], w, rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS)
def test_generated_streams(kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    dimension = int(generator.choice([5, 16, 32]))
    features = KINDS[kind](generator, 160, dimension)
    labels = linear_outputs(features, 3, seed).argmax(1)
    cuts = sorted(generator.choice(np.arange(1, 160), 5, replace=False).tolist())
    _assert_agrees(features, labels, cuts)


def _steps(count: int, dimension: int = 8) -> Features:
    """Points on a line, each one step from the one before."""
    return np.outer(np.arange(count), np.eye(dimension)[0]).astype(np.float32)


def _one_hot(count: int) -> Features:
    return np.eye(count, dtype=np.float32)


def _identical(count: int) -> Features:
    return np.full((count, 8), 0.5, np.float32)


@pytest.mark.parametrize("stream", [_steps, _one_hot, _identical])
@pytest.mark.parametrize("count", [1, 2, 10, 101, 111, 112, 250])
def test_distances_without_spread(stream: Callable[[int], Features], count: int) -> None:
    _assert_agrees(stream(count), np.zeros(count, np.int64), [count // 2])


@pytest.mark.parametrize("classes", [1, 2, 15, 60])
def test_any_number_of_classes(classes: int) -> None:
    generator = np.random.default_rng(classes)
    features = KINDS["clustered"](generator, 700, 6)
    _assert_agrees(features, generator.integers(0, classes, 700), [100, 101, 350])


def test_labels_may_be_negative_and_far_apart() -> None:
    generator = np.random.default_rng(3)
    features = KINDS["jacobian"](generator, 300, 9)
    _assert_agrees(features, generator.choice([-7, 0, 40_000], 300), [123])


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_features_of_any_size(scale: float) -> None:
    features = KINDS["jacobian"](np.random.default_rng(5), 300, 9) * np.float32(scale)
    _assert_agrees(features, np.zeros(300, np.int64), [150])


def test_far_from_the_origin_near_neighbours_stay_apart() -> None:
    features = KINDS["bisection"](np.random.default_rng(6), 600, 32) + np.float32(1000.0)
    _assert_agrees(features, np.zeros(600, np.int64), [300])


def test_a_heavy_principal_takes_the_matrix_product_path() -> None:
    generator = np.random.default_rng(7)
    features = KINDS["clustered"](generator, 1500, 64)
    _assert_agrees(features, np.zeros(1500, np.int64), [600, 900, 1200])


def test_w_at_delta_is_settled_by_the_published_formula() -> None:
    features = KINDS["random"](np.random.default_rng(8), 200, 6)
    _, w = verdicts(features, np.zeros(200, np.int64), DELTA)
    _assert_agrees(features, np.zeros(200, np.int64), [], delta=float(w[-1]))


def test_a_distance_at_the_threshold_is_settled_by_the_published_formula() -> None:
    """One vector, then one whose distance is the mean minus the deviation of what was admitted."""
    line = np.array([0.0, 3.0, 7.0, 12.0, 30.0, 52.0, 60.0], np.float64)
    joined = [0.0, *np.diff(line).tolist()]
    edge = max(float(np.mean(joined[:count]) - np.std(joined[:count])) for count in range(2, len(joined) + 1))
    features = np.array([*line.tolist(), 60.0 + edge, 90.0, 90.0 + edge], np.float32)[:, None]
    padded = np.concatenate((features, KINDS["random"](np.random.default_rng(9), 200, 1) * np.float32(500)))
    _assert_agrees(padded, np.zeros(len(padded), np.int64), [5])


def test_verdicts_are_not_latched() -> None:
    generator = np.random.default_rng(11)
    attack = KINDS["unclipped"](generator, 250, 16)
    calm = KINDS["random"](generator, 900, 16)
    features = np.concatenate((attack, calm))
    flagged, _ = verdicts(features, np.zeros(len(features), np.int64), DELTA)
    assert flagged.any()
    assert not flagged[-1]
    _assert_agrees(features, np.zeros(len(features), np.int64), [400])


@pytest.mark.parametrize("kind", ["probabilities", "label", "score"])
def test_the_class_is_what_the_model_answered(kind: str) -> None:
    features = KINDS["clustered"](np.random.default_rng(12), 300, 7)
    probabilities = linear_outputs(features, 4)
    labels = probabilities.argmax(1) if kind != "score" else np.zeros(300, np.int64)
    outputs = probabilities if kind == "probabilities" else labels[:, None]
    flagged, w = verdicts(features, labels, DELTA)
    seen = observe(_compatible(), [batch(features, ["ann"] * 300, outputs=outputs, kind=kind)])
    np.testing.assert_array_equal(flagged, seen.flagged)
    np.testing.assert_allclose(seen.signals["prada"], w, rtol=0, atol=1e-9)


def test_many_principals_at_once_are_judged_one_by_one() -> None:
    generator = np.random.default_rng(13)
    who = [f"p{number}" for number in generator.integers(0, 9, 2500)]
    features = KINDS["clustered"](generator, 2500, 12)
    labels = linear_outputs(features, 3).argmax(1)
    pieces = [batch(features, who, outputs=labels[:, None])]
    seen = observe(_compatible(), pieces, list(range(0, 2500, 64)))
    for name in set(who):
        own = np.array([other == name for other in who])
        flagged, w = verdicts(features[own], labels[own], DELTA)
        np.testing.assert_array_equal(flagged, seen.flagged[own])
        np.testing.assert_allclose(seen.signals["prada"][own], w, rtol=0, atol=1e-9)
