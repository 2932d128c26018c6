"""Data-free extraction (DFME: Truong, Maini, Walls and Papernot, CVPR 2021), at small scale."""

from __future__ import annotations

import numpy as np

from detector.lab.attackers.attacker import Inputs, Knowledge
from detector.lab.attackers.substitute import SubstituteTraining
from detector.lab.networks import Array, Loss, Network

BATCH = 32
STUDENT_BATCHES = 2
DIFFERENCE = 1e-3

_EPOCHS = 4
_TINY = 1e-7
_NOISE = _HIDDEN = 64
_LEARNING_RATE = 3e-2
_CONTRAST = 3.0
"""The spread of the first outputs before the logistic; at 1 they are all grey, and only a few classes are ever met."""


class InputGenerator:
    """Normal noise (64,) -> 64 ReLU -> d logistic units: inputs as shares of the features' ranges."""

    def __init__(self, dimension: int, rng: np.random.Generator) -> None:
        spread = _CONTRAST * np.sqrt(2 / _HIDDEN)
        self._network = Network(_NOISE, dimension, rng, _HIDDEN, output_spread=spread, rate=_LEARNING_RATE)

    def noise(self, count: int, rng: np.random.Generator) -> Array:
        """Returns float64 (count, 64)."""
        return rng.normal(size=(count, _NOISE))

    def shares(self, noise: Array) -> Array:
        """Returns the inputs (n, d), in 0 to 1, for ``noise`` (n, 64)."""
        return _logistic(self._network.logits(noise))

    def improve(self, noise: Array, by_shares: Array) -> None:
        """Takes one step up a gain, given its gradient ``by_shares`` (n, d) at ``noise`` (n, 64)."""
        latent = self._network.latent(noise)
        shares = _logistic(self._network.logits_of(latent))
        self._network.step(noise, latent, -by_shares * shares * (1 - shares) / len(noise))


class DataFree(SubstituteTraining):
    """Starts from no inputs: a generator learns to make those on which the victim and a student disagree most.

    In turns: BATCH generated inputs and the same a DIFFERENCE away in a random direction, from which the generator
    learns the slope of the disagreement (forward differences, one direction); then STUDENT_BATCHES new ones, from which
    the student learns. Disagreement is the L1 distance of the victim's log probabilities, less their mean, and
    the student's logits, less theirs.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        rng = np.random.default_rng([seed, 3])
        self._generator = InputGenerator(knowledge.dimension, rng)
        self._student = Network(knowledge.dimension, knowledge.classes, rng)
        self._probe: Array | None = None
        self._taught = 0

    def _round(self) -> Inputs:
        since, self._taught = self._taught, len(self._features)
        rng = self._round_rng()
        if self._probe is None:
            if len(self._features) > since:
                self._student.fit(self._shares(since), logit_distance(self._logits(since)), _EPOCHS)
            self._probe = self._generator.noise(BATCH, rng)
            return self._space.features(_pairs(self._generator.shares(self._probe), rng))
        self._improve_generator(self._probe, since)
        self._probe = None
        noise = self._generator.noise(STUDENT_BATCHES * BATCH, rng)
        return self._space.features(self._generator.shares(noise))

    def _improve_generator(self, noise: Array, since: int) -> None:
        """Takes a step along the slopes of disagreement; none when not every pair was answered."""
        if len(self._features) - since < 2 * BATCH:
            return
        shares = self._shares(since)
        disagreement = np.abs(self._logits(since) - _centred(self._student.logits(shares))).sum(axis=1)
        points, moved = np.split(shares, 2)
        rise = disagreement[BATCH:] - disagreement[:BATCH]
        slopes = points.shape[1] * rise[:, None] * (moved - points) / DIFFERENCE**2
        self._generator.improve(noise, slopes)

    def _logits(self, since: int) -> Array:
        """Returns the victim's logits (n, k), less each row's mean, from its answers after the first ``since``."""
        return _centred(np.log(np.maximum(self._answers[since:], _TINY)))


def logit_distance(targets: Array) -> Loss:
    """Returns the L1 distance of the ``targets`` (n, k) and the logits, each less its row's mean."""
    centred = _centred(targets)
    return lambda logits, rows: _centred(np.sign(_centred(logits) - centred[rows]))


def _centred(logits: Array) -> Array:
    """Returns ``logits`` (n, k) less each row's mean, which changes no probability."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def _logistic(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _pairs(shares: Array, rng: np.random.Generator) -> Array:
    """Returns ``shares`` (n, d), then each of them DIFFERENCE away in a random direction."""
    directions = rng.normal(size=shares.shape)
    lengths = np.sqrt((directions**2).sum(axis=1, keepdims=True))
    return np.concatenate([shares, shares + DIFFERENCE * directions / lengths])
