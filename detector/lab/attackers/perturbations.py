"""Adversarial steps on a thief's own network. Inputs are shares of the features' ranges, (n, d) in 0 to 1.

The last three minimise a loss over that box by L-BFGS-B, all rows in one problem; rows influence each other only
through the common step lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detector.lab.attackers.attacker import Labels
from detector.lab.networks import Array, Network

STEP = 64 / 255
"""The distance by which FGSM, PGD and the feature adversary may move one pixel."""

ITERATIONS = 10

_CONFIDENCE_WEIGHT = 1.0
_TRIPLET_WEIGHT = 1.0
_SEARCHES = 30
_TINY = 1e-12


def signed_steps(network: Network, start: Array, targets: Array, iterations: int, *, uphill: bool = True) -> Array:
    """FGSM (one iteration) or I-FGSM: up or down the cross-entropy of ``targets`` (n, k), STEP in all."""
    step = (STEP if uphill else -STEP) / iterations
    moved = start
    for _ in range(iterations):
        moved = np.clip(moved + step * np.sign(network.loss_gradient(moved, targets)), 0, 1)
    return moved


def projected_gradient(network: Network, start: Array, targets: Array, rng: np.random.Generator) -> Array:
    """PGD (Madry et al. 2018): from a random point of the STEP cube around ``start``, never out of it.

    Ten steps of a quarter of STEP up the cross-entropy of ``targets`` (n, k).
    """
    low, high = np.clip(start - STEP, 0, 1), np.clip(start + STEP, 0, 1)
    moved = rng.uniform(low, high)
    for _ in range(ITERATIONS):
        moved = np.clip(moved + STEP / 4 * np.sign(network.loss_gradient(moved, targets)), low, high)
    return moved


def carlini_wagner(network: Network, start: Array, labels: Labels) -> Array:
    """Minimises |x' - x|^2 + max(Z_label - max of the other Z, 0), Z the logits (C&W 2017, untargeted)."""
    rows = np.arange(len(start))

    def loss(moved: Array) -> tuple[float, Array]:
        logits = network.logits(moved)
        others = logits.copy()
        others[rows, labels] = -np.inf
        rivals = others.argmax(axis=1)
        excess = logits[rows, labels] - logits[rows, rivals]
        by_logit = np.zeros_like(logits)
        by_logit[rows, labels] = np.where(excess > 0, _CONFIDENCE_WEIGHT, 0)
        by_logit[rows, rivals] = np.where(excess > 0, -_CONFIDENCE_WEIGHT, 0)
        apart = moved - start
        value = (apart**2).sum() + _CONFIDENCE_WEIGHT * np.maximum(excess, 0).sum()
        return float(value), 2 * apart + network.input_gradient(moved, by_logit)

    return _minimum(loss, start)


def feature_adversary(network: Network, start: Array, guides: Array) -> Array:
    """Brings latent features as near to those of ``guides`` (n, d) as STEP allows (Sabour et al. 2016)."""
    aims = network.latent(guides)

    def loss(moved: Array) -> tuple[float, Array]:
        apart = network.latent(moved) - aims
        return float((apart**2).sum()), network.latent_gradient(moved, 2 * apart)

    return _minimum(loss, start, STEP)


def feature_fool(network: Network, start: Array, guides: Array, margin: float) -> Array:
    """FeatureFool (Yu et al., NDSS 2020), minimises |x' - x|^2 + max(D(x', guide) - D(x', x) + M, 0).

    D is the distance of latent features, and M ``margin`` times D(x, guide): at 0.1 the latent features end little
    more than half way to the guide's, at 0.8 nine tenths.
    """
    home, aims = network.latent(start), network.latent(guides)
    margins = margin * np.sqrt(((home - aims) ** 2).sum(axis=1))

    def loss(moved: Array) -> tuple[float, Array]:
        latent = network.latent(moved)
        near, by_near = _distances(latent, aims)
        far, by_far = _distances(latent, home)
        excess = near - far + margins
        by_latent = np.where(excess[:, None] > 0, _TRIPLET_WEIGHT * (by_near - by_far), 0)
        apart = moved - start
        value = (apart**2).sum() + _TRIPLET_WEIGHT * np.maximum(excess, 0).sum()
        return float(value), 2 * apart + network.latent_gradient(moved, by_latent)

    return _minimum(loss, start)


def _distances(latent: Array, others: Array) -> tuple[Array, Array]:
    """Returns Euclidean distances (n,) row by row, and their gradient (n, h) by ``latent``."""
    apart = latent - others
    lengths = np.sqrt((apart**2).sum(axis=1) + _TINY)
    return lengths, apart / lengths[:, None]


def _minimum(loss: Callable[[Array], tuple[float, Array]], start: Array, reach: float = np.inf) -> Array:
    """Returns the inputs (n, d) at which ``loss``, a sum over the rows with its gradient (n, d), is least.

    Searches from ``start`` (n, d), in 0 to 1 and within ``reach`` of it.
    """
    from scipy.optimize import Bounds, minimize

    def flat(point: Array) -> tuple[float, Array]:
        value, gradient = loss(point.reshape(start.shape))
        return value, gradient.ravel()

    bounds = Bounds(np.clip(start - reach, 0, 1).ravel(), np.clip(start + reach, 0, 1).ravel())
    found = minimize(flat, start.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _SEARCHES})
    return np.asarray(found.x.reshape(start.shape))
