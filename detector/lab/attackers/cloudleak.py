"""CloudLeak (Yu, Yang, Zhang, Tsai, Ho and Jin, NDSS 2020): adversarial examples where the substitute is least sure.

Perturbations take and return shares of the features' ranges, (n, d) in 0 to 1; some do not use guides or draws. All but
PGD minimise a loss over that box by L-BFGS-B, all rows in one problem; rows influence each other only through the
common step lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detector.lab.attackers.attacker import Inputs, Knowledge, Labels
from detector.lab.attackers.augmentation import ITERATIONS, SIGNED_STEP
from detector.lab.attackers.substitute import SeededTraining
from detector.lab.networks import Array, Network, minimum, one_hot

Perturbation = Callable[[Network, Array, Array, np.random.Generator], Array]
"""(network, start, guides of another class, draws) -> adversarial examples."""

ROUND = 50
MARGIN = 0.5
"""FeatureFool's M, as a share of the latent distance of input and guide."""

_CANDIDATES = 2 * ROUND
_CONFIDENCE_WEIGHT = 1.0
_TRIPLET_WEIGHT = 1.0
_SEARCHES = 30
_TINY = 1e-12


class CloudLeak(SeededTraining):
    """Trains a substitute on the answers to natural inputs, and then improves it with every round.

    A round makes adversarial examples of natural inputs by ``perturb``, each with a guide that the substitute gives
    another class, and queries the half with the least margin between the substitute's first and second probability.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, perturb: Perturbation) -> None:
        super().__init__(knowledge, budget, seed)
        self._perturb = perturb
        self._natural = self._space.shares(knowledge.natural)

    def _later_round(self) -> Inputs:
        network, rng = self._network(), self._round_rng()
        labels = network.probabilities(self._natural).argmax(axis=1)
        sources = rng.integers(0, len(self._natural), _CANDIDATES)
        guides = _of_another_class(labels, sources, rng)
        examples = self._perturb(network, self._natural[sources], self._natural[guides], rng)
        ordered = np.sort(network.probabilities(examples), axis=1)
        least = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:ROUND]
        return self._space.features(examples[least])


def _of_another_class(labels: Labels, rows: Labels, rng: np.random.Generator) -> Labels:
    """Returns for each of ``rows`` (n,) a random row whose label differs; any row where all labels are the same."""
    lots = rng.random((len(rows), len(labels))) - (labels == labels[rows][:, None])
    best: Labels = lots.argmax(axis=1)
    return best


def projected_gradient(network: Network, start: Array, _guides: Array, rng: np.random.Generator) -> Array:
    """PGD (Madry et al. 2018): from a random point of the SIGNED_STEP cube around ``start``, never out of it.

    Ten steps of a quarter of SIGNED_STEP up the cross-entropy of the likeliest classes at ``start``.
    """
    outputs = network.probabilities(start)
    targets = one_hot(outputs.argmax(axis=1), outputs.shape[1])
    low, high = np.clip(start - SIGNED_STEP, 0, 1), np.clip(start + SIGNED_STEP, 0, 1)
    moved = rng.uniform(low, high)
    for _ in range(ITERATIONS):
        moved = np.clip(moved + SIGNED_STEP / 4 * np.sign(network.loss_gradient(moved, targets)), low, high)
    return moved


def carlini_wagner(network: Network, start: Array, _guides: Array, _rng: np.random.Generator) -> Array:
    """Minimises |x' - x|^2 + max(Z_label - max of the other Z, 0), Z the logits (C&W 2017, untargeted)."""
    rows, labels = np.arange(len(start)), network.probabilities(start).argmax(axis=1)

    def loss(moved: Array) -> tuple[float, Array]:
        logits = network.logits(moved)
        others = logits.copy()
        others[rows, labels] = -np.inf
        rivals = others.argmax(axis=1)
        excess = logits[rows, labels] - logits[rows, rivals]
        by_logit = np.zeros_like(logits)
        by_logit[rows, labels] = np.where(excess > 0, _CONFIDENCE_WEIGHT, 0)
        by_logit[rows, rivals] = np.where(excess > 0, -_CONFIDENCE_WEIGHT, 0)
        change = moved - start
        value = (change**2).sum() + _CONFIDENCE_WEIGHT * np.maximum(excess, 0).sum()
        return float(value), 2 * change + network.input_gradient(moved, by_logit)

    return _minimum(loss, start)


def feature_adversary(network: Network, start: Array, guides: Array, _rng: np.random.Generator) -> Array:
    """Brings latent features as near to those of ``guides`` (n, d) as SIGNED_STEP allows (Sabour et al. 2016)."""
    aims = network.latent(guides)

    def loss(moved: Array) -> tuple[float, Array]:
        gap = network.latent(moved) - aims
        return float((gap**2).sum()), network.latent_gradient(moved, 2 * gap)

    return _minimum(loss, start, SIGNED_STEP)


def feature_fool(
    network: Network, start: Array, guides: Array, _rng: np.random.Generator, margin: float = MARGIN
) -> Array:
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
        change = moved - start
        value = (change**2).sum() + _TRIPLET_WEIGHT * np.maximum(excess, 0).sum()
        return float(value), 2 * change + network.latent_gradient(moved, by_latent)

    return _minimum(loss, start)


def _distances(latent: Array, others: Array) -> tuple[Array, Array]:
    """Returns Euclidean distances (n,) row by row, and their gradient (n, h) by ``latent``."""
    gaps = latent - others
    lengths = np.sqrt((gaps**2).sum(axis=1) + _TINY)
    return lengths, gaps / lengths[:, None]


def _minimum(loss: Callable[[Array], tuple[float, Array]], start: Array, reach: float = np.inf) -> Array:
    """Returns the inputs (n, d) in 0 to 1, within ``reach`` of ``start`` (n, d), at which ``loss`` is least."""
    bounds = np.clip(start - reach, 0, 1), np.clip(start + reach, 0, 1)
    return minimum(loss, start, {"maxiter": _SEARCHES}, bounds)[0]
