"""An ensemble whose members answer unnatural inputs differently (EDM; Kariyappa, Prakash and Qureshi, ICLR 2021)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Adam, Array
from detector.lab.data import Dataset
from detector.lab.victims.learned import Columns, Learned
from detector.lab.victims.training import LEARNING_RATE, Network, batches, one_hot

_PLANES = 2
MEMBERS = 2**_PLANES
_UPDATES = 1_000
DIVERSITY = 0.2
"""Weight of the diversity loss beside the cross-entropy, as published."""


class DiverseEnsemble:
    """One of its 4 ``members`` answers each input: which one, the signs of 2 secret projections say.

    So each is consistent with itself, and a clone has to copy the seams between the members too.
    """

    def __init__(self, members: list[Network], planes: Array, middle: Array) -> None:
        self.members = members
        self._planes = planes
        self._middle = middle

    def probabilities(self, columns: Array) -> Array:
        """Class probabilities (n, k) of ``columns`` (n, e)."""
        chosen = ((columns - self._middle) @ self._planes > 0) @ (1 << np.arange(_PLANES))
        said = np.stack([member.probabilities(columns) for member in self.members])
        return np.asarray(said[chosen, np.arange(len(columns))])


def train(dataset: Dataset, seed: int, diversity: float = DIVERSITY) -> DiverseEnsemble:
    """Each batch of rows with as many uniform inputs, on which agreement costs ``diversity``."""
    rng = np.random.default_rng([seed, 13])
    encode = Columns(dataset.categories)
    columns, labels = encode(dataset.training.features), one_hot(dataset.training.labels, dataset.classes)
    members = [Network(columns.shape[1], dataset.classes, rng) for _ in range(MEMBERS)]
    optimisers = [Adam(member.parameters, LEARNING_RATE) for member in members]
    for rows in batches(len(columns), rng, _UPDATES):
        strange = encode(_uniform(dataset, len(rows), rng))
        apart = diversity * by_probability(np.stack([member.probabilities(strange) for member in members]))
        shown = np.concatenate([columns[rows], strange])
        for member, optimiser, by_said in zip(members, optimisers, apart, strict=True):
            said = member.probabilities(shown)
            right, other = said[: len(rows)] - labels[rows], said[len(rows) :]
            by_logit = other * (by_said - (other * by_said).sum(axis=1, keepdims=True))
            optimiser.step(member.gradients(shown, np.concatenate([right, by_logit]) / len(rows)))
    return DiverseEnsemble(members, rng.normal(size=(columns.shape[1], _PLANES)), columns.mean(axis=0))


def by_probability(said: Array) -> Array:
    """Returns the gradient of log sum exp of the cosines of all pairs of members, by each member's outputs ``said`` (m,
    n, k)."""
    length = np.linalg.norm(said, axis=2, keepdims=True)
    unit = said / length
    cosines = cosine_similarities(said)
    weights = np.exp(cosines) * (1 - np.eye(len(said)))[:, :, None]
    weights /= weights.sum(axis=(0, 1)) / 2
    pulled = np.einsum("ijn,jnk->ink", weights, unit)
    gradient: Array = (pulled - (weights * cosines).sum(axis=1)[:, :, None] * unit) / length
    return gradient


def cosine_similarities(said: Array) -> Array:
    """Returns float64 (m, m, n): the cosine similarities of the outputs ``said`` (m, n, k) of each two members."""
    unit = said / np.linalg.norm(said, axis=2, keepdims=True)
    return np.asarray(np.einsum("ink,jnk->ijn", unit, unit))


def new(dataset: Dataset, seed: int) -> Learned:
    return Learned.of(dataset, train(dataset, seed).probabilities)


def _uniform(dataset: Dataset, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return dataset.low + rng.random((count, dataset.dimension), dtype=np.float32) * (dataset.high - dataset.low)
