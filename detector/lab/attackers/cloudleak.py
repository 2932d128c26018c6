"""CloudLeak (Yu, Yang, Zhang, Tsai, Ho and Jin, NDSS 2020): adversarial examples where the substitute is least sure."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from detector.lab.attackers import perturbations
from detector.lab.attackers.attacker import Inputs, Knowledge, Labels
from detector.lab.attackers.substitute import SeededTraining
from detector.lab.networks import Array, Network, one_hot

ROUND = 50
MARGIN = 0.5
"""FeatureFool's M, as a share of the latent distance of input and guide."""

_CANDIDATES = 2 * ROUND


class CloudLeak(SeededTraining):
    """Trains a substitute on the answers to natural inputs, and then improves it with every round.

    A round makes adversarial examples of natural inputs, each with a guide that the substitute gives another class,
    and queries the half with the least margin between the substitute's first and second probability.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        self._natural = self._space.shares(knowledge.own)

    def _later_round(self) -> Inputs:
        network, rng = self._network(), self._round_rng()
        labels = network.probabilities(self._natural).argmax(axis=1)
        sources = rng.integers(0, len(self._natural), _CANDIDATES)
        guides = _of_another_class(labels, sources, rng)
        examples = self._examples(network, self._natural[sources], self._natural[guides], rng)
        ordered = np.sort(network.probabilities(examples), axis=1)
        least = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:ROUND]
        return self._space.features(examples[least])

    @abstractmethod
    def _examples(self, network: Network, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        """Returns adversarial examples (n, d) for ``network`` from ``start`` (n, d)."""


class ProjectedGradient(CloudLeak):
    def _examples(self, network: Network, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        labels = network.probabilities(start).argmax(axis=1)
        return perturbations.projected_gradient(network, start, one_hot(labels, self._knowledge.classes), rng)


class CarliniWagner(CloudLeak):
    def _examples(self, network: Network, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        return perturbations.carlini_wagner(network, start, network.probabilities(start).argmax(axis=1))


class FeatureAdversary(CloudLeak):
    def _examples(self, network: Network, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        return perturbations.feature_adversary(network, start, guides)


class FeatureFool(CloudLeak):
    """With M = ``margin`` times the latent distance of input and guide."""

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, margin: float = MARGIN) -> None:
        super().__init__(knowledge, budget, seed)
        self._margin = margin

    def _examples(self, network: Network, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        return perturbations.feature_fool(network, start, guides, self._margin)


def _of_another_class(labels: Labels, rows: Labels, rng: np.random.Generator) -> Labels:
    """Returns for each of ``rows`` (n,) a random row whose label differs; any row where all labels are the same."""
    lots = rng.random((len(rows), len(labels))) - (labels == labels[rows][:, None])
    best: Labels = lots.argmax(axis=1)
    return best
