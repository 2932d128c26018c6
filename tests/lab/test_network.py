"""The gradients of the thieves' network are those of what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from detector.lab.attackers.data_free import logit_distance
from detector.lab.networks import Array, Network

RNG = np.random.default_rng(0)
NETWORK = Network(5, 3, RNG)
FEATURES = RNG.random((4, 5))
TARGETS = RNG.dirichlet(np.ones(3), 4)
BY_LOGIT = RNG.normal(size=(4, 3))
BY_LATENT = RNG.normal(size=NETWORK.latent(FEATURES).shape)


def slopes(value: Callable[[Array], Array]) -> Array:
    """Of each row's value by each feature, by differences."""
    moves = 1e-6 * np.eye(5)
    return np.stack([(value(FEATURES + move) - value(FEATURES - move)) / 2e-6 for move in moves], axis=1)


def test_the_gradient_of_the_loss() -> None:
    differences = slopes(lambda features: -(TARGETS * np.log(NETWORK.probabilities(features))).sum(axis=1))
    assert NETWORK.loss_gradient(FEATURES, TARGETS) == pytest.approx(differences, abs=1e-6)


def test_the_gradient_through_logits() -> None:
    differences = slopes(lambda features: (BY_LOGIT * NETWORK.logits(features)).sum(axis=1))
    assert NETWORK.input_gradient(FEATURES, BY_LOGIT) == pytest.approx(differences, abs=1e-6)


def test_the_gradient_through_latent_features() -> None:
    differences = slopes(lambda features: (BY_LATENT * NETWORK.latent(features)).sum(axis=1))
    assert NETWORK.latent_gradient(FEATURES, BY_LATENT) == pytest.approx(differences, abs=1e-6)


def test_fitted_logits_come_near_to_the_targets_but_for_the_mean() -> None:
    rng = np.random.default_rng(1)
    features = rng.random((200, 5))
    targets = features @ rng.normal(size=(5, 3)) + 7
    network = Network(5, 3, rng)

    def distance() -> float:
        apart = network.logits(features) - targets
        return float(np.abs(apart - apart.mean(axis=1, keepdims=True)).mean())

    before = distance()
    network.fit(features, logit_distance(targets), epochs=60)
    assert distance() < 0.1 * before
