"""Thieves who query rows of a public pool, each at most once: Copycat CNN, Knockoff Nets and ActiveThief."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Inputs, Knowledge, Labels
from detector.lab.attackers.input_space import InputSpace
from detector.lab.attackers.substitute import SubstituteTraining
from detector.lab.networks import Array, Network, one_hot, softmax

ROUND = 100
CLUSTERS = 20
LEARNING_RATE = 0.1

_TINY = 1e-12


class PoolThief(SubstituteTraining):
    """Queries random rows in rounds of at most ROUND; ends with the budget or the pool. The random strategy of Knockoff
    Nets (Orekondy, Schiele and Fritz, CVPR 2019).

    ``_unqueried`` bool (m,): the rows of the pool that are left. Raises LabError for a pool without rows.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        self._unqueried = np.ones(len(pool_of(knowledge)), dtype=bool)

    def _round(self) -> Inputs:
        count = min(ROUND, self._left, int(self._unqueried.sum()))
        rows = self._chosen(count) if count else np.empty(0, dtype=np.int64)
        self._unqueried[rows] = False
        return self._knowledge.pool[rows]

    def _chosen(self, count: int) -> Labels:
        """Returns different rows (count,) of the pool that are left, in the order in which to query them."""
        return self._round_rng().choice(np.flatnonzero(self._unqueried), count, replace=False)


class Copycat(PoolThief):
    """Learns from the labels alone (Correia-Silva, Berriel, Badue, de Souza and Oliveira-Santos, IJCNN 2018)."""

    def observe(self, features: Inputs, answers: Answers) -> None:
        super().observe(features, Answers(one_hot(answers.labels, self._knowledge.classes)))


class AdaptiveKnockoff(PoolThief):
    """Prefers those clusters of the pool whose answers were worth most, as a gradient bandit learns (Knockoff Nets).

    Cluster z is drawn with probability pi_z, the softmax of its preference, and of it a row at random. An answer with
    reward r changes its cluster's preference by LEARNING_RATE r (1 - pi_z) and each other one by -LEARNING_RATE r pi.
    r is the mean of three rewards (see ``_rewards_since``), each standardised over all so far: its mean, the bandit's
    baseline, is 0.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        self._centres = np.asarray(clusters(knowledge, seed).cluster_centers_)
        self._cluster = self._nearest(self._space.shares(knowledge.pool))
        self._preferences = np.zeros(len(self._centres))
        self._rewards = np.empty((0, 3))
        self._student: Network | None = None

    def _chosen(self, count: int) -> Labels:
        if len(self._rewards) < len(self._features):
            self._learn()
        left = np.flatnonzero(self._unqueried)
        clusters_left = self._cluster[left]
        sizes = np.bincount(clusters_left, minlength=len(self._centres))
        weights = softmax(self._preferences[None])[0][clusters_left] / sizes[clusters_left]
        return self._round_rng().choice(left, count, replace=False, p=weights / weights.sum())

    def _learn(self) -> None:
        """Learns from the answers since the last round, with rewards by the clone that has not seen them yet."""
        since = len(self._rewards)
        self._rewards = np.concatenate([self._rewards, self._rewards_since(since)])
        spread = self._rewards.std(axis=0) + _TINY
        rewards = ((self._rewards[since:] - self._rewards.mean(axis=0)) / spread).mean(axis=1)
        earned = np.bincount(self._nearest(self._shares(since)), rewards, len(self._centres))
        self._preferences += LEARNING_RATE * (earned - rewards.sum() * softmax(self._preferences[None])[0])
        self._student = self._network()

    def _rewards_since(self, since: int) -> Array:
        """Returns certainty (first less second probability), diversity (from the mean answer) and the clone's loss
        (n, 3)."""
        answers = self._answers[since:]
        ordered = np.sort(answers, axis=1)
        diversity = np.maximum(answers - self._answers.mean(axis=0), 0).sum(axis=1)
        expected = np.full_like(answers, 1 / answers.shape[1])
        if self._student is not None:
            expected = self._student.probabilities(self._shares(since))
        loss = -(answers * np.log(expected + _TINY)).sum(axis=1)
        return np.stack([ordered[:, -1] - ordered[:, -2], diversity, loss], axis=1)

    def _nearest(self, shares: Array) -> Labels:
        from scipy.spatial.distance import cdist

        nearest: Labels = cdist(shares, self._centres).argmin(axis=1)
        return nearest


Preference = Callable[[Array, Array, int], Labels]
"""(the clone's outputs (m, k) for rows that are left, its outputs (n, k) for rows queried before, count) -> the count
rows of the first to query."""


class ActiveLearning(PoolThief):
    """A random round first; in later rounds ``prefer`` chooses by the clone's outputs for the rows that are left
    (ActiveThief: Pal, Gupta, Shukla, Kanade, Shevade and Ganapathy, AAAI 2020)."""

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, prefer: Preference) -> None:
        super().__init__(knowledge, budget, seed)
        self._prefer = prefer

    def _chosen(self, count: int) -> Labels:
        if not len(self._features):
            return super()._chosen(count)
        left = np.flatnonzero(self._unqueried)
        network = self._network()
        outputs = network.probabilities(self._space.shares(self._knowledge.pool[left]))
        return left[self._prefer(outputs, network.probabilities(self._shares()), count)]


def uncertainty(outputs: Array, _known: Array, count: int) -> Labels:
    """Prefers the rows for which the clone's output has the greatest entropy."""
    entropy = -(outputs * np.log(outputs + _TINY)).sum(axis=1)
    return np.argsort(-entropy, kind="stable")[:count]


def k_center(outputs: Array, known: Array, count: int) -> Labels:
    """Prefers, one after another, the row for which the clone's output is farthest from those of all rows queried."""
    from scipy.spatial.distance import cdist

    nearest = cdist(outputs, known, "sqeuclidean").min(axis=1)
    chosen = np.empty(count, dtype=np.int64)
    for number in range(count):
        chosen[number] = nearest.argmax()
        nearest = np.minimum(nearest, ((outputs - outputs[chosen[number]]) ** 2).sum(axis=1))
        nearest[chosen[: number + 1]] = -1
    return chosen


def pool_of(knowledge: Knowledge) -> Inputs:
    """Returns the public pool (m, d). Raises LabError if it has no rows."""
    if not len(knowledge.pool):
        raise LabError("this attack asks what is in a public pool, and the thief has none")
    return knowledge.pool


def clusters(knowledge: Knowledge, seed: int) -> Any:
    """Returns at most CLUSTERS k-means of the pool's shares; on one thread, since the order of sums on several
    varies."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    shares = InputSpace.of(knowledge).shares(pool_of(knowledge))
    means = KMeans(min(CLUSTERS, len(shares)), n_init=1, random_state=np.random.RandomState([seed, 2]))
    with threadpool_limits(1):
        return means.fit(shares)
