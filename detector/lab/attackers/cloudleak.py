"""CloudLeak (Yu, Yang, Zhang, Tsai, Ho and Jin, NDSS 2020): adversarial examples where the substitute is least sure."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers import perturbations
from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork
from detector.lab.attackers.substitute import SubstituteTraining, natural_seeds, one_hot

SEEDS = 100
ROUND = 50
MARGIN = 0.5
"""FeatureFool's M, as a share of the latent distance of input and guide."""

_CANDIDATES = 2 * ROUND


class CloudLeak(SubstituteTraining):
    """Trains a substitute on the answers to ``seeds`` (n, d), natural inputs, and then improves it with every round.

    A round makes adversarial examples of natural inputs, each with a guide that the substitute gives another class,
    and asks the half with the least margin between the substitute's first and second probability.
    """

    def __init__(self, knowledge: Knowledge, seeds: NDArray[np.float32], *, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget=budget, seed=seed)
        self._seeds = seeds
        self._natural = self._ranges.shares(knowledge.own)

    def _round(self) -> NDArray[np.float32]:
        if not len(self._features):
            return self._seeds
        network, rng = self._network(), self._draws()
        labels = network.probabilities(self._natural).argmax(axis=1)
        sources = rng.integers(0, len(self._natural), _CANDIDATES)
        guides = _of_another_class(labels, sources, rng)
        examples = self._examples(network, self._natural[sources], self._natural[guides], rng)
        ordered = np.sort(network.probabilities(examples), axis=1)
        least = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:ROUND]
        return self._ranges.features(examples[least])

    @abstractmethod
    def _examples(self, network: CloneNetwork, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        """Adversarial ones (n, d) for ``network`` from ``start`` (n, d)."""


class ProjectedGradient(CloudLeak):
    def _examples(self, network: CloneNetwork, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        labels = network.probabilities(start).argmax(axis=1)
        return perturbations.projected_gradient(network, start, one_hot(labels, self._knowledge.classes), rng)


class CarliniWagner(CloudLeak):
    def _examples(self, network: CloneNetwork, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        return perturbations.carlini_wagner(network, start, network.probabilities(start).argmax(axis=1))


class FeatureAdversary(CloudLeak):
    def _examples(self, network: CloneNetwork, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        return perturbations.feature_adversary(network, start, guides)


class FeatureFool(CloudLeak):
    """With M = ``margin`` times the latent distance of input and guide."""

    def __init__(
        self, knowledge: Knowledge, seeds: NDArray[np.float32], *, margin: float, budget: int, seed: int
    ) -> None:
        super().__init__(knowledge, seeds, budget=budget, seed=seed)
        self._margin = margin

    def _examples(self, network: CloneNetwork, start: Array, guides: Array, rng: np.random.Generator) -> Array:
        return perturbations.feature_fool(network, start, guides, self._margin)


def _of_another_class(
    labels: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each of ``rows`` (n,) a random row whose label differs; any row where all labels are the same."""
    lots = rng.random((len(rows), len(labels))) - (labels == labels[rows][:, None])
    best: NDArray[np.int64] = lots.argmax(axis=1)
    return best


def _new(
    attack: type[ProjectedGradient | CarliniWagner | FeatureAdversary], knowledge: Knowledge, budget: int, seed: int
) -> CloudLeak:
    return attack(knowledge, natural_seeds(knowledge, SEEDS, seed), budget=budget, seed=seed)


pgd = partial(_new, ProjectedGradient)
carlini_wagner = partial(_new, CarliniWagner)
feature_adversary = partial(_new, FeatureAdversary)


def feature_fool(knowledge: Knowledge, budget: int, seed: int, *, margin: float = MARGIN) -> FeatureFool:
    seeds = natural_seeds(knowledge, SEEDS, seed)
    return FeatureFool(knowledge, seeds, margin=margin, budget=budget, seed=seed)


feature_fool_near = partial(feature_fool, margin=0.1)
feature_fool_far = partial(feature_fool, margin=0.8)
