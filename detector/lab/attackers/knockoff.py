"""Knockoff Nets (Orekondy, Schiele and Fritz, CVPR 2019): a public pool, at random or as a bandit learns to choose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork, softmax
from detector.lab.attackers.pool import PoolThief

CLUSTERS = 20
LEARNING_RATE = 0.1

_TINY = 1e-12


class AdaptiveKnockoff(PoolThief):
    """Prefers those clusters of the pool whose answers were worth most, as a gradient bandit learns.

    Cluster z is drawn with probability pi_z, the softmax of its preference, and of it a row at random. An answer with
    reward r changes its cluster's preference by LEARNING_RATE r (1 - pi_z) and each other one by -LEARNING_RATE r pi.
    r is the mean of three rewards (see ``_judged``), each standardised over all so far: its mean, the bandit's
    baseline, is 0.
    """

    def __init__(self, knowledge: Knowledge, *, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget=budget, seed=seed)
        self._centres = _centres(self._ranges.shares(knowledge.pool), seed)
        self._cluster = self._nearest(self._ranges.shares(knowledge.pool))
        self._preferences = np.zeros(len(self._centres))
        self._rewards = np.empty((0, 3))
        self._student: CloneNetwork | None = None

    def _chosen(self, count: int) -> NDArray[np.int64]:
        if len(self._rewards) < len(self._features):
            self._learn()
        left = np.flatnonzero(self._left)
        clusters = self._cluster[left]
        sizes = np.bincount(clusters, minlength=len(self._centres))
        weights = softmax(self._preferences[None])[0][clusters] / sizes[clusters]
        return self._draws().choice(left, count, replace=False, p=weights / weights.sum())

    def _learn(self) -> None:
        """From the answers since the last round; the clone they are judged by has not seen them yet."""
        since = len(self._rewards)
        self._rewards = np.concatenate([self._rewards, self._judged(since)])
        spread = self._rewards.std(axis=0) + _TINY
        rewards = ((self._rewards[since:] - self._rewards.mean(axis=0)) / spread).mean(axis=1)
        earned = np.bincount(self._nearest(self._features[since:]), rewards, len(self._centres))
        self._preferences += LEARNING_RATE * (earned - rewards.sum() * softmax(self._preferences[None])[0])
        self._student = self._network()

    def _judged(self, since: int) -> Array:
        """Certainty (first less second probability), diversity (from the mean answer) and the clone's loss (n, 3)."""
        answers = self._answers[since:]
        ordered = np.sort(answers, axis=1)
        diversity = np.maximum(answers - self._answers.mean(axis=0), 0).sum(axis=1)
        expected = np.full_like(answers, 1 / answers.shape[1])
        if self._student is not None:
            expected = self._student.probabilities(self._features[since:])
        loss = -(answers * np.log(expected + _TINY)).sum(axis=1)
        return np.stack([ordered[:, -1] - ordered[:, -2], diversity, loss], axis=1)

    def _nearest(self, shares: Array) -> NDArray[np.int64]:
        from scipy.spatial.distance import cdist

        nearest: NDArray[np.int64] = cdist(shares, self._centres).argmin(axis=1)
        return nearest


def _centres(shares: Array, seed: int) -> Array:
    """CLUSTERS of k-means (c, d); on one thread, as the sums of several come in any order."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    means = KMeans(min(CLUSTERS, len(shares)), n_init=1, random_state=np.random.RandomState([seed, 2]))
    with threadpool_limits(1):
        return np.asarray(means.fit(shares).cluster_centers_)


def random(knowledge: Knowledge, budget: int, seed: int) -> PoolThief:
    return PoolThief(knowledge, budget=budget, seed=seed)


def adaptive(knowledge: Knowledge, budget: int, seed: int) -> AdaptiveKnockoff:
    return AdaptiveKnockoff(knowledge, budget=budget, seed=seed)
